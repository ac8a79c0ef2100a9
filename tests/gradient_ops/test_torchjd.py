"""Agreement of our methods with TorchJD, and TorchJD's own weightings.

TorchJD's Nash-MTL is no Gramian weighting, remembers, and stops its iterations at 1e-3: ours is held to its equations instead.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_problems import problems, relative, unit_scales

from core.contracts import Gram, UserError
from core.testing.gradient_ops import gram_of
from plugins.gradient_ops.aligned_mtl import AlignedMtl
from plugins.gradient_ops.cagrad import Cagrad
from plugins.gradient_ops.gradvac import Gradvac
from plugins.gradient_ops.imtl_g import ImtlG
from plugins.gradient_ops.mgda import Mgda
from plugins.gradient_ops.pcgrad import Pcgrad
from plugins.gradient_ops.torchjd_weighting import CLASSES, TorchJd


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["imtl_g", "aligned_mtl", "cagrad"]))
def test_agreement_with_torchjd(problem, name):
    _, gram = problem
    gram = unit_scales(gram)
    own = {"imtl_g": ImtlG(), "aligned_mtl": AlignedMtl(), "cagrad": Cagrad(c=0.5)}[name]
    with thorough():
        theirs = TorchJd(weighting=name, options={"c": 0.5, "norm_eps": 1e-12} if name == "cagrad" else {}).weights(gram)[0]
    if name == "aligned_mtl":
        theirs = theirs * len(gram.loops)  # theirs prefers each loop by 1 / n
    assert relative(gram, own.weights(gram)[0], theirs) < 1e-5


@contextmanager
def thorough():
    """TorchJD's cagrad with a solver that goes on to 1e-13: where it usually stops, weights are good to 1e-4 only."""
    import cvxpy

    solve = cvxpy.Problem.solve
    limits = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
    with patch.object(cvxpy.Problem, "solve", lambda self, solver: solve(self, solver, **limits)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot quite reach them
        yield


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems())
def test_mgda_agrees_with_torchjd(problem):
    """Theirs is Frank-Wolfe. Of the loops that have a share it finds the minimum fast; a loop without one makes it zigzag.

    So theirs is asked about the loops that have a share in ours, and that the others have none is seen from the condition of
    the minimum. Where lengths differ so much that theirs has not ended, its distance is bounded by its own duality gap.
    """
    _, gram = problem
    gram = unit_scales(gram)
    own, G = Mgda().weights(gram)[0], gram.values[0]
    assert (G @ own >= own @ G @ own - 1e-9 * G.abs().max()).all()
    chosen = (own > 0).nonzero().flatten()
    part = Gram(tuple(gram.loops[i] for i in chosen), gram.groups, gram.values[:, chosen][:, :, chosen], gram.scales[chosen])
    theirs = TorchJd(weighting="mgda", options={"epsilon": 1e-300, "max_iters": 2000}).weights(part)[0]
    H, apart = part.values[0], own[chosen] - theirs
    gap = theirs @ H @ theirs - (H @ theirs).min()
    assert apart @ H @ apart <= gap + 1e-12 * H.abs().max()
    if gap < 1e-12 * H.diagonal().min():
        assert relative(part, own[chosen], theirs) < 1e-5


def test_gradvac_agrees_with_torchjd_over_several_updates(monkeypatch):
    from torchjd.aggregation import GradVacWeighting

    for n in (2, 3, 4):
        own, theirs, calls = Gradvac(decay=0.3), GradVacWeighting(beta=0.3, eps=0.0), iter(range(10**6))
        # its random order, made ours: after i come i + 1, ..., round to i - 1
        monkeypatch.setattr(torch, "randperm", lambda m, n=n, calls=calls: (torch.arange(m) + next(calls) % n) % m)
        for seed in range(6):
            vectors = torch.randn(1, n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            vectors[:, 1:] -= 0.8 * (seed % 3 - 1) * vectors[:, :1]
            gram = gram_of(vectors)
            torch.testing.assert_close(own.weights(gram)[0], theirs(gram.values[0]), rtol=1e-5, atol=1e-8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["global", "group"]))
def test_pcgrad_agrees_with_torchjd(problem, scope):
    from torchjd.aggregation import PCGradWeighting

    _, gram = problem
    gram, calls, n = unit_scales(gram), iter(range(10**6)), len(gram.loops)
    with patch.object(torch, "randperm", lambda m: (torch.arange(m) + next(calls) % n) % m):  # its random order, made ours
        theirs = PCGradWeighting()(gram.values[0])
    assert relative(gram, Pcgrad(scope=scope).weights(gram)[0], theirs) < 1e-9


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"fair_grad"}))
def test_every_weighting_of_torchjd_can_be_had(name):
    options = {"cagrad": {"c": 0.4}, "krum": {"n_byzantine": 0}}.get(name)
    vectors = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert TorchJd(weighting=name, options=options, scope="group").weights(gram_of(vectors)).isfinite().all()


def test_torchjd_faults_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="options do not fit TorchJD's mgda"):
        TorchJd(weighting="mgda", options={"speed": 3})
    monkeypatch.setitem(__import__("sys").modules, "torchjd", None)
    with pytest.raises(UserError, match=r"pip install 'dualloop\[torchjd\]'"):
        TorchJd()
