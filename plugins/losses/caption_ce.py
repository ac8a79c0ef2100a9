"""Cross entropy of captions and fixed answers, without ever holding a [B, T, V] tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.contracts import Tokens

CHUNK_ELEMENTS = 2**23  # logits held at one time: 32 MiB in float32


class CaptionCe:
    """Sum of token cross entropies over the real tokens; the engine divides by their number.

    ``weight`` is the term's weight in its loop; ``label_smoothing`` spreads that share of each target over the vocabulary.
    """

    def __init__(self, *, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but is {weight}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in 0..1 (1 excluded), not {label_smoothing}.")
        self.weight, self.label_smoothing = weight, label_smoothing

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        """[B, T, D] states, [B, T] tokens, output layer ([V, D], [V] or None) -> scalar float32.

        Padding has no part in it. Without a real token: a zero that still has a graph. The output layer may be trained.
        """
        weight, bias = head
        rows, targets = states[tokens.mask], tokens.ids[tokens.mask]  # [R, D], [R]
        total = rows.new_zeros((), dtype=torch.float32)
        step = max(1, CHUNK_ELEMENTS // weight.shape[0])
        # without a real token there is one empty chunk, whose sum is a zero with a graph
        for chunk, wanted in zip(rows.split(step), targets.split(step), strict=True):
            # the logits are recomputed in backward instead of kept: one chunk of them exists at a time
            total = total + checkpoint(self._chunk, chunk, wanted, weight, bias, use_reentrant=False, preserve_rng_state=False)
        return total

    def _chunk(self, rows: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = F.linear(rows.to(weight.dtype), weight, bias).float()  # [n, V]
        return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing)
