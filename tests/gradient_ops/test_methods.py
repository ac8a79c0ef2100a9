"""The published methods on the Gram matrix: defining properties on drawn gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_problems import problems
from torch import Tensor

from core.contracts import Gram
from core.testing.gradient_ops import gram_of
from plugins.gradient_ops.aligned_mtl import AlignedMtl, balance
from plugins.gradient_ops.cagrad import Cagrad
from plugins.gradient_ops.gradvac import Gradvac
from plugins.gradient_ops.imtl_g import ImtlG
from plugins.gradient_ops.mgda import Mgda
from plugins.gradient_ops.nash_mtl import NashMtl
from plugins.gradient_ops.pcgrad import Pcgrad
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal
from plugins.gradient_ops.torchjd_weighting import TorchJd
from plugins.gradient_ops.uncertainty import Uncertainty
from plugins.gradient_ops.weighted_sum import WeightedSum


def inner_products(op, gram: Gram) -> Tensor:
    """[n], <update, s_i g_i>."""
    return (gram.values[0] @ op.weights(gram)[0]) * gram.scales


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([Mgda, NashMtl]))
def test_no_loop_is_hurt_where_it_is_promised(problem, make):
    _, gram = problem
    assert (inner_products(make(), gram) > -1e-9 * gram.values.abs().max()).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.floats(1, 3))
def test_cagrad_hurts_no_loop_once_the_ball_is_as_wide_as_the_mean(problem, c):
    _, gram = problem
    assert (inner_products(Cagrad(c=c), gram) > -1e-7 * gram.values.abs().max()).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["upgrad", "dual_proj"]))
def test_torchjds_projections_hurt_no_loop_also_where_gradients_are_short(problem, name):
    """Its own projector blurs what is a hundred times shorter than the rest, and takes a norm of 1e-3 for zero."""
    vectors, gram = problem
    for size in (1.0, 1e-4):
        small = gram_of(size * vectors, gram.scales)
        update = TorchJd(weighting=name).weights(small)[0] @ vectors[0]
        assert (torch.cosine_similarity(update, vectors[0], dim=1) > -1e-4).all()


def anchored() -> PcgradOrthogonal:
    return PcgradOrthogonal(anchor="loop1")


def in_conflict() -> PcgradOrthogonal:
    return PcgradOrthogonal(anchor="loop1", when="conflict")


SYMMETRIC = [WeightedSum, anchored, in_conflict, Mgda, NashMtl, AlignedMtl, ImtlG, Cagrad, Uncertainty]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([*SYMMETRIC, Pcgrad, Gradvac]), st.randoms(use_true_random=False))
def test_the_order_of_loops_does_not_matter(problem, make, random):
    """Where loops are taken one after the other, as in PCGrad and GradVac, this holds for two."""
    vectors, gram = problem
    if make not in SYMMETRIC:
        gram = gram_of(vectors[:, :2], gram.scales[:2])
    order = list(range(len(gram.loops)))
    random.shuffle(order)
    turned = Gram(tuple(gram.loops[i] for i in order), gram.groups, gram.values[:, order][:, :, order], gram.scales[order])
    torch.testing.assert_close(make().weights(turned), make().weights(gram)[:, order], rtol=1e-6, atol=1e-9)


def upgrad() -> TorchJd:
    return TorchJd(weighting="upgrad")


def torchjds_cagrad() -> TorchJd:
    return TorchJd(weighting="cagrad", options={"c": 0.4})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([*SYMMETRIC, Pcgrad, Gradvac, upgrad, torchjds_cagrad]), st.sampled_from([1e-4, 30.0]))
def test_scaling_all_gradients(problem, make, by):
    """The update scales along; Nash-MTL's keeps its length."""
    _, gram = problem
    scaled = Gram(gram.loops, gram.groups, by**2 * gram.values, gram.scales)
    expected = make().weights(gram) / (by if make is NashMtl else 1)
    torch.testing.assert_close(make().weights(scaled), expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([ImtlG, NashMtl]), st.sampled_from([1e-2, 50.0]))
def test_impartial_methods_do_not_see_one_gradients_length(problem, make, by):
    vectors, gram = problem
    longer = vectors.clone()
    longer[:, 0] *= by
    before = torch.einsum("pn,pnd->d", make().weights(gram), vectors)
    after = torch.einsum("pn,pnd->d", make().weights(gram_of(longer, gram.scales)), longer)
    cosine = float(torch.cosine_similarity(before, after, dim=0))
    assert abs(cosine) > 1 - 1e-9
    assert cosine > 0 or make is ImtlG  # whose v sum to 1, also where some are negative


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([anchored, in_conflict]), st.sampled_from([1e-2, 50.0]))
def test_what_is_added_to_the_anchor_does_not_see_the_anchors_length(problem, make, by):
    vectors, gram = problem
    longer = vectors.clone()
    longer[:, 0] *= by
    added = [make().weights(gram_of(v, gram.scales))[0] @ v[0] - gram.scales[0] * v[0, 0] for v in (vectors, longer)]
    torch.testing.assert_close(*added, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_defining_equations(problem):
    vectors, gram = problem
    a = NashMtl().weights(gram)[0]
    torch.testing.assert_close(a * (gram.values[0] @ a), gram.scales, rtol=1e-8, atol=0.0)
    projections = inner_products(ImtlG(), gram) / (gram.values[0].diagonal().sqrt() * gram.scales)
    torch.testing.assert_close(projections, projections[:1].expand_as(projections), rtol=1e-6, atol=1e-9)
    v = Mgda().weights(gram)[0] / gram.scales
    assert float(v.sum()) == pytest.approx(1)
    least = ((v * gram.scales) @ gram.values[0] @ (v * gram.scales)).item()
    assert (inner_products(Mgda(), gram) >= least * (1 - 1e-7)).all()  # the condition of the shortest vector
    H = vectors[0] * gram.scales[:, None]  # [n, 6]
    aligned = balance(gram.values[0]) @ vectors[0]  # [n, 6]
    products = aligned @ aligned.T
    torch.testing.assert_close(products, products[0, 0] * torch.eye(len(H)).double(), rtol=1e-6, atol=1e-7 * float(products[0, 0]))
    g, mean = Cagrad(c=0.5).weights(gram)[0] @ vectors[0], H.mean(0)
    assert float((g - mean).norm()) == pytest.approx(float(0.5 * mean.norm()), rel=1e-6)


def test_gradvac_reaches_the_usual_cosine():
    """After the vaccine, the cosine of two conflicting gradients is the running mean, here 0 in the first update."""
    vectors = torch.tensor([[[1.0, 0.0], [-1.0, 1.0]]], dtype=torch.float64)
    weights = Gradvac().weights(gram_of(vectors))[0]
    torch.testing.assert_close(weights @ vectors[0], torch.tensor([0.5, 1.5], dtype=torch.float64))


def test_uncertainty_learns_one_over_the_loss():
    gram = gram_of(torch.eye(2, dtype=torch.float64)[None], torch.tensor([1.0, 0.5]).double(), torch.tensor([4.0, 0.25]).double())
    op = Uncertainty(lr=0.1)
    assert op.weights(gram).tolist() == [[1.0, 0.5]]
    for _ in range(300):
        weights = op.weights(gram)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 2.0]]).double(), rtol=1e-6, atol=1e-6)


def test_stationary_points_give_finite_weights():
    opposite = torch.tensor([[[1.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(Cagrad(c=1.5).weights(gram_of(opposite)), torch.zeros(1, 2, dtype=torch.float64))
    theirs = TorchJd(weighting="cagrad", options={"c": 0.4}).weights(gram_of(opposite))
    torch.testing.assert_close(Cagrad(c=0.4).weights(gram_of(opposite)), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Mgda().weights(gram_of(opposite)), torch.tensor([[2 / 3, 1 / 3]]).double())
    for op in (NashMtl(), ImtlG(), AlignedMtl(), Gradvac()):
        assert op.weights(gram_of(opposite)).isfinite().all()


def test_a_loop_that_does_not_reach_a_group_leaves_it_to_the_others():
    vectors = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[0, 1:] = 0
    for make in (Mgda, Cagrad, ImtlG, NashMtl, AlignedMtl):
        assert make(scope="group").weights(gram_of(vectors))[0, 0].item() == pytest.approx(1.0)


def test_arguments_are_checked():
    for make, fault in ((lambda: Cagrad(c=-1), "c must"), (lambda: Gradvac(decay=2), "decay"), (lambda: Uncertainty(lr=0), "lr")):
        with pytest.raises(ValueError, match=fault):
            make()
    with pytest.raises(ValueError, match="13 loops"):
        Mgda().weights(gram_of(torch.eye(13, dtype=torch.float64)[None]))
