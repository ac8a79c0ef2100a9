"""Drawn gradients that the tests of the methods share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from core.contracts import Gram
from core.testing.gradient_ops import gram_of


@st.composite
def problems(draw) -> tuple[Tensor, Gram]:
    """2 to 4 independent gradients [1, n, 6], of very different lengths and leaning on the first, and the loops' weights."""
    n, seed = draw(st.integers(2, 4)), draw(st.integers(0, 2**32))
    source = torch.Generator().manual_seed(seed)
    vectors = torch.randn(1, n, 6, dtype=torch.float64, generator=source)
    vectors[:, 1:] += draw(st.sampled_from([-1.5, -0.5, 0.0, 0.5])) * vectors[:, :1]
    vectors *= 10 ** (2 * torch.rand(n, 1, dtype=torch.float64, generator=source) - 1)
    return vectors, gram_of(vectors, torch.rand(n, dtype=torch.float64, generator=source) + 0.2)


def unit_scales(gram: Gram) -> Gram:
    return Gram(gram.loops, gram.groups, gram.values, torch.ones_like(gram.scales))


def relative(gram: Gram, one: Tensor, other: Tensor) -> float:
    """The largest difference of two rows of weights, each times its gradient's length, as a share of the longest gradient."""
    lengths = gram.values[0].diagonal().sqrt()
    return float(((one - other) * lengths).abs().max() / lengths.max())
