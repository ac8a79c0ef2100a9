"""The gradient ops on real vectors: float32 flat buffers in several parameter groups, as the engine holds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.contracts import GradientOp, Gram
from plugins.gradient_ops.pcgrad import Pcgrad
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal
from plugins.gradient_ops.weighted_sum import WeightedSum

SIZES = {"projector": 3000, "lora": 20000, "sam2_decoder": 700}
BETA = 0.5
Buffers = dict[str, Tensor]  # group -> flat float32


def buffers(seed: int, lean: Buffers | None = None, by: float = 0.0) -> Buffers:
    """Random gradients, with ``by`` times another one in them."""
    source = torch.Generator().manual_seed(seed)
    own = {group: torch.randn(size, generator=source) for group, size in SIZES.items()}
    return own if lean is None else {group: own[group] + by * lean[group] for group in SIZES}


def gram_of(gradients: dict[str, Buffers], scales: list[float]) -> Gram:
    stacks = [torch.stack([g[group].double() for g in gradients.values()]) for group in SIZES]
    return Gram(tuple(gradients), tuple(SIZES), torch.stack([g @ g.T for g in stacks]), torch.tensor(scales, dtype=torch.float64))


def combine(op: GradientOp, gradients: dict[str, Buffers], scales: list[float]) -> Buffers:
    weights = op.weights(gram_of(gradients, scales))  # [P, n]
    assert weights.shape == (len(SIZES), len(gradients))
    assert weights.dtype == torch.float64
    return {
        group: sum(w * g[group] for w, g in zip(row.tolist(), gradients.values(), strict=True))
        for group, row in zip(SIZES, weights, strict=True)
    }


def flat(gradient: Buffers) -> Tensor:
    return torch.cat(list(gradient.values())).double()


def check_orthogonal(update: Buffers, anchor: Buffers) -> None:
    """What the update adds to the anchor is orthogonal to it."""
    part, kept = flat(update) - flat(anchor), flat(anchor)
    assert abs(part @ kept) < 1e-6 * part.norm() * kept.norm(), "the auxiliary part is not orthogonal to the anchor"


# ------------------------------------------------------------------------------------------------ pcgrad_orthogonal


@pytest.mark.parametrize("by", [-0.8, -0.05, 0.3])
def test_auxiliary_part_is_orthogonal_to_the_anchor(by):
    g1 = buffers(1)
    g2 = buffers(2, g1, by)
    update = combine(PcgradOrthogonal(anchor="loop1"), {"loop1": g1, "loop2": g2}, [1.0, BETA])
    check_orthogonal(update, g1)
    with pytest.raises(AssertionError, match="not orthogonal"):
        check_orthogonal(combine(WeightedSum(), {"loop1": g1, "loop2": g2}, [1.0, BETA]), g1)


def test_conflict_only_is_orthogonal_under_conflict_and_the_sum_otherwise():
    g1, op = buffers(1), PcgradOrthogonal(anchor="loop1", when="conflict")
    check_orthogonal(combine(op, {"loop1": g1, "loop2": buffers(2, g1, -0.4)}, [1.0, BETA]), g1)
    agreeing = {"loop1": g1, "loop2": buffers(2, g1, 0.4)}
    assert torch.equal(op.weights(gram_of(agreeing, [1.0, BETA])), WeightedSum().weights(gram_of(agreeing, [1.0, BETA])))


def test_stale_anchor_shows_in_the_conflict_variant_and_hides_in_the_unconditional_one():
    """g1 left un-cleared before the second loop: g2 then holds g1 + g2."""
    g1 = buffers(1)
    g2 = buffers(2, g1, -0.4)
    stale = {group: g1[group] + g2[group] for group in SIZES}
    clean, dirty = {"loop1": g1, "loop2": g2}, {"loop1": g1, "loop2": stale}

    always = PcgradOrthogonal(anchor="loop1")
    check_orthogonal(combine(always, dirty, [1.0, BETA]), g1)
    torch.testing.assert_close(combine(always, dirty, [1.0, BETA]), combine(always, clean, [1.0, BETA]), rtol=1e-4, atol=1e-5)

    conflict = PcgradOrthogonal(anchor="loop1", when="conflict")
    check_orthogonal(combine(conflict, clean, [1.0, BETA]), g1)
    with pytest.raises(AssertionError, match="not orthogonal"):
        check_orthogonal(combine(conflict, dirty, [1.0, BETA]), g1)
    error = flat(combine(conflict, dirty, [1.0, BETA])) - flat(combine(conflict, clean, [1.0, BETA]))
    assert error.norm() > 0.1 * flat(g1).norm()


def test_update_is_the_formula_of_the_method():
    g1 = buffers(1)
    g2 = buffers(2, g1, -0.3)
    a, b = flat(g1), flat(g2)
    wanted = a + BETA * (b - (b @ a) / (a @ a) * a)
    update = combine(PcgradOrthogonal(anchor="loop1"), {"loop1": g1, "loop2": g2}, [1.0, BETA])
    torch.testing.assert_close(flat(update), wanted, rtol=1e-5, atol=1e-5)
    swapped = combine(PcgradOrthogonal(anchor="loop1"), {"loop2": g2, "loop1": g1}, [BETA, 1.0])  # the order does not matter
    torch.testing.assert_close(flat(swapped), wanted, rtol=1e-5, atol=1e-5)


def test_group_scope_is_orthogonal_within_each_group():
    g1 = buffers(1)
    g2 = {group: (-0.5 if group == "lora" else 0.5) * g1[group] + noise for group, noise in buffers(2).items()}
    for when in ("always", "conflict"):
        update = combine(PcgradOrthogonal(anchor="loop1", scope="group", when=when), {"loop1": g1, "loop2": g2}, [1.0, BETA])
        for group in SIZES:
            if when == "always" or group == "lora":
                check_orthogonal({group: update[group]}, {group: g1[group]})
            else:
                torch.testing.assert_close(update[group], g1[group] + BETA * g2[group])


def test_several_auxiliary_loops_are_all_projected():
    g1 = buffers(1)
    others = {f"loop{i}": buffers(i, g1, 0.2 * i - 0.7) for i in (2, 3, 4)}
    check_orthogonal(combine(PcgradOrthogonal(anchor="loop1"), {"loop1": g1, **others}, [1.0, 0.5, 2.0, 0.1]), g1)


def test_zero_anchor_leaves_the_auxiliary_gradient():
    zero, g2 = {group: torch.zeros(size) for group, size in SIZES.items()}, buffers(2)
    for scope in ("global", "group"):
        update = combine(PcgradOrthogonal(anchor="loop1", scope=scope), {"loop1": zero, "loop2": g2}, [1.0, BETA])
        torch.testing.assert_close(flat(update), BETA * flat(g2))
    half = {**buffers(1), "projector": zero["projector"]}  # a group that the anchor does not reach
    update = combine(PcgradOrthogonal(anchor="loop1", scope="group"), {"loop1": half, "loop2": g2}, [1.0, BETA])
    torch.testing.assert_close(update["projector"], BETA * g2["projector"])


def test_an_absent_anchor_is_the_plain_sum():
    gram = gram_of({"loop2": buffers(2), "loop3": buffers(3, buffers(2), -0.5)}, [BETA, 2.0])
    assert torch.equal(PcgradOrthogonal(anchor="loop1").weights(gram), WeightedSum().weights(gram))


@pytest.mark.parametrize("op", [WeightedSum(), PcgradOrthogonal(anchor="loop1"), PcgradOrthogonal(anchor="loop2"), Pcgrad()])
def test_one_loop_alone_is_its_scaled_gradient(op):
    assert isinstance(op, GradientOp)
    assert torch.equal(op.weights(gram_of({"loop1": buffers(1)}, [0.7])), torch.full((3, 1), 0.7, dtype=torch.float64))


def test_inputs_are_not_changed():
    gram = gram_of({"loop1": buffers(1), "loop2": buffers(2)}, [1.0, BETA])
    values, scales = gram.values.clone(), gram.scales.clone()
    for op in (WeightedSum(), PcgradOrthogonal(anchor="loop1"), Pcgrad(), Pcgrad(scope="group")):
        op.weights(gram)
        assert torch.equal(gram.values, values)
        assert torch.equal(gram.scales, scales)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="scope must"):
        PcgradOrthogonal(anchor="loop1", scope="layer")
    with pytest.raises(ValueError, match="when must"):
        PcgradOrthogonal(anchor="loop1", when="never")
    with pytest.raises(ValueError, match="scope must"):
        Pcgrad(scope="layer")


# ---------------------------------------------------------------------------------------------------------- pcgrad


def textbook(vectors: list[Tensor], scales: list[float]) -> Tensor:
    """Algorithm 1 of the paper on explicit vectors, the others in cyclic order."""
    n, total = len(vectors), torch.zeros_like(vectors[0])
    for i in range(n):
        projected = vectors[i].clone()
        for j in (*range(i + 1, n), *range(i)):
            if projected @ vectors[j] < 0:
                projected -= (projected @ vectors[j]) / vectors[j].square().sum() * vectors[j]
        total += scales[i] * projected
    return total


@pytest.mark.parametrize("n", [2, 3, 4])
def test_pcgrad_equals_the_textbook_on_explicit_vectors(n):
    base = buffers(0)
    gradients = {f"loop{i}": buffers(i + 1, base, (-1.0) ** i * 0.6) for i in range(n)}
    scales = [1.0, 0.5, 2.0, 0.25][:n]
    wanted = textbook([flat(g) for g in gradients.values()], scales)
    assert (wanted - flat(combine(WeightedSum(), gradients, scales))).norm() > 0.05 * wanted.norm()  # there are conflicts
    torch.testing.assert_close(flat(combine(Pcgrad(), gradients, scales)), wanted, rtol=1e-4, atol=1e-5)
    update = combine(Pcgrad(scope="group"), gradients, scales)
    for group in SIZES:
        wanted = textbook([g[group].double() for g in gradients.values()], scales)
        torch.testing.assert_close(update[group].double(), wanted, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ properties


@st.composite
def problems(draw):
    """n vectors of a few numbers in P groups (possibly zero or parallel), and scales."""
    n, P, size = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    numbers = st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
    vectors = torch.tensor(draw(st.lists(numbers, min_size=n * P * size, max_size=n * P * size)), dtype=torch.float64).view(P, n, size)
    scales = torch.tensor(draw(st.lists(st.floats(0.125, 4), min_size=n, max_size=n)), dtype=torch.float64)
    gram = Gram(tuple(f"loop{i}" for i in range(n)), tuple(f"group{p}" for p in range(P)), vectors @ vectors.mT, scales)
    return vectors, gram


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(["global", "group"]), st.sampled_from(["always", "conflict"]))
def test_orthogonal_weights_hold_for_any_vectors(problem, scope, when):
    vectors, gram = problem
    weights = PcgradOrthogonal(anchor="loop0", scope=scope, when=when).weights(gram)  # [P, n]
    assert weights.isfinite().all()
    assert torch.equal(weights[:, 1:], gram.scales[1:].expand(len(gram.groups), -1))  # only the anchor's weight changes
    added = weights.clone()
    added[:, 0] -= gram.scales[0]
    inner = torch.einsum("pn,pnd,pd->p", added, vectors, vectors[:, 0])  # [P], <auxiliary part, anchor>
    size = torch.einsum("n,pn->p", gram.scales, vectors.norm(dim=2)) * vectors[:, 0].norm(dim=1)
    if scope == "global":
        inner, size = inner.sum(0, keepdim=True), size.sum(0, keepdim=True)
        assert torch.equal(weights, weights[:1].expand_as(weights))
    tolerance = 1e-9 * (1 + size)
    assert (inner.abs() <= tolerance).all() if when == "always" else (inner >= -tolerance).all()


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(["global", "group"]))
def test_pcgrad_never_hurts_with_two_loops_and_equals_the_sum_without_conflict(problem, scope):
    _, gram = problem
    weights = Pcgrad(scope=scope).weights(gram)
    assert weights.isfinite().all()
    values = gram.values.sum(0, keepdim=True) if scope == "global" else gram.values
    if (values >= 0).all():
        assert torch.equal(weights, WeightedSum().weights(gram))
    if len(gram.loops) == 2:
        inner = torch.einsum("pn,pnm->pm", weights[: len(values)], values)  # [., n], <update, g_m>
        assert (inner >= -1e-9 * (1 + values.abs().amax())).all()
