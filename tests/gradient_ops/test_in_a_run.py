"""Gradient ops inside the engine: blocks of single parameters, what is logged, state over a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.contracts import Gram
from core.engine import runner
from core.engine.parallel import gradients as gradients_module
from core.engine.parallel.gradients import Gradients, combine, gram
from core.engine.surgery_log import diagnostics
from core.recipe import Recipe
from core.registry import Registry
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal

Make = Callable[..., Recipe]


def go(recipe: Recipe) -> Path:
    assert runner.run(recipe, Registry(), quiet=True) == 0
    return max(Path(recipe.values["output"]).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def two_gradients() -> list[Gradients]:
    torch.manual_seed(0)
    groups = {
        "a": [("x", nn.Parameter(torch.zeros(2, 3))), ("y", nn.Parameter(torch.zeros(4)))],
        "b": [("z", nn.Parameter(torch.zeros(5)))],
    }
    gradients = [Gradients(groups) for _ in range(2)]
    for gradient in gradients:
        gradient.whole.copy_(torch.randn(15))
    return gradients


def of(gradients: list[Gradients], per_parameter: bool) -> Gram:
    blocks = gradients[0].blocks(per_parameter)
    return Gram(("loop1", "loop2"), tuple(blocks), gram(gradients, per_parameter), torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_parameter_scope_is_orthogonal_within_each_parameter() -> None:
    gradients = two_gradients()
    first, second = (dict(g.blocks(True)) for g in gradients)
    assert list(first) == ["a/x", "a/y", "b/z"]
    anchor = {name: part.clone() for name, part in first.items()}
    op = PcgradOrthogonal(anchor="loop1", scope="parameter")
    assert op.per_parameter
    combine(gradients, op.weights(of(gradients, per_parameter=True)))
    for name, update in first.items():  # the buffers now hold the update
        assert abs(float((update - anchor[name]) @ anchor[name])) < 1e-5 * float(anchor[name].norm()) ** 2, name
        assert float((second[name] @ anchor[name]).abs()) > 1e-3


class LargestCopy(TorchDispatchMode):
    """The most numbers in a float64 tensor that is made inside."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("per_parameter", [False, True])
def test_the_gram_matrix_is_exact_and_makes_no_copy_of_a_gradient(monkeypatch: pytest.MonkeyPatch, per_parameter: bool) -> None:
    monkeypatch.setattr(gradients_module, "CHUNK", 4)
    pair = two_gradients()
    with LargestCopy() as largest:
        found = gram(pair, per_parameter)
    blocks = [gradient.blocks(per_parameter) for gradient in pair]
    stacks = [torch.stack([block[name] for block in blocks]).double() for name in blocks[0]]
    torch.testing.assert_close(found, torch.stack([stack @ stack.T for stack in stacks]), rtol=1e-14, atol=0)
    assert largest.numel <= max(gradients_module.CHUNK, found.numel())


@pytest.mark.parametrize("per_parameter", [False, True])
def test_diagnostics_are_of_the_real_vectors(per_parameter: bool) -> None:
    gradients = two_gradients()
    g1, g2 = gradients[0].whole.clone().double(), gradients[1].whole.clone().double()
    problem = of(gradients, per_parameter)
    weights = PcgradOrthogonal(anchor="loop1", scope="parameter" if per_parameter else "group").weights(problem)
    seen = diagnostics(problem, weights)
    combine(gradients, weights)
    plain, update = g1 + 0.5 * g2, gradients[0].whole.double()
    for where, part in (("", slice(0, 15)), ("/a", slice(0, 10)), ("/b", slice(10, 15))):
        assert seen[f"surgery/norm/loop2{where}"] == pytest.approx(float(g2[part].norm()), rel=1e-6)
        cosine = float(torch.cosine_similarity(g1[part], g2[part], dim=0))
        assert seen[f"surgery/cosine/loop1_loop2{where}"] == pytest.approx(cosine, rel=1e-5)
        kept = float(update[part] @ plain[part] / plain[part].square().sum())
        assert seen[f"surgery/kept{where}"] == pytest.approx(kept, rel=1e-5)
        assert seen[f"surgery/weight/loop2{where}"] == 0.5
        if where:
            assert seen[f"surgery/conflict/loop1_loop2{where}"] == float(cosine < 0)
    assert seen["surgery/conflict/loop1_loop2"] == (seen["surgery/conflict/loop1_loop2/a"] + seen["surgery/conflict/loop1_loop2/b"]) / 2


@pytest.mark.parametrize("op", ["{use: gradvac, scope: group, decay: 0.5}", "{use: uncertainty, lr: 0.5}"])
def test_an_ops_state_is_resumed_bit_for_bit(tiny: Make, op: str) -> None:
    whole = go(tiny(f"gradient={op}"))
    cut = whole.with_name("cut")
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "update-000004")
    runner.run(tiny(f"gradient={op}"), Registry(), resume=cut, quiet=True)
    one, other = (folder / "checkpoints" / "update-000004" for folder in (whole, cut))
    states = [json.loads((folder / "state.json").read_text())["gradient_op"] for folder in (one, other)]
    assert states[0] == states[1]
    assert any(any(value.values()) for value in states[0].values())
    first, second = (load_file(folder / "trained.safetensors") for folder in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_parameter_scope_runs(tiny: Make) -> None:
    recipe = tiny("gradient={use: pcgrad_orthogonal, anchor: loop1, scope: parameter}", "train.updates=1", "checkpoint.every=1")
    values = json.loads((go(recipe) / "metrics.jsonl").read_text().splitlines()[0])
    assert {f"surgery/cosine/loop1_loop2/{group}" for group in ("projector", "lora", "text_hidden_fcs", "sam2_decoder")} <= values.keys()
