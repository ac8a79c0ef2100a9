"""The model's repeated layers: which they are, recomputed, compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from core.engine import runner
from core.engine.parallel import blocks
from core.recipe import Recipe
from core.registry import Registry

Make = Callable[..., Recipe]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.inner, self.drop = nn.Linear(8, 8), nn.ModuleList([nn.ReLU()]), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.inner[0](self.line(x)))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.body = nn.ModuleDict({"layers": nn.ModuleList([Layer(), Layer()])})
        self.stages = nn.ModuleList([nn.ModuleList([Layer()]), Layer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in [self.first, *self.body["layers"], *self.stages[0], self.stages[1]]:  # type: ignore[misc,arg-type]
            x = layer(x)
        return x


@pytest.fixture
def deep() -> Deep:
    torch.manual_seed(0)
    return Deep()


def test_blocks_are_the_members_of_the_outermost_lists(deep: Deep) -> None:
    names = {module: name for name, module in deep.named_modules()}
    assert [names[block] for block in blocks.blocks(deep)] == ["body.layers.0", "body.layers.1", "stages.0.0", "stages.1"]


def gradients(model: nn.Module, batch: int = 3) -> tuple[list[torch.Tensor], int]:
    """Of a sum over a few rows; and how many numbers forward kept for backward."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(1)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = model(torch.randn(batch, 8, generator=torch.Generator().manual_seed(2))).square().sum()
    before = kept
    total.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], before


def test_recomputed_layers_keep_less_and_draw_the_same_dropout(deep: Deep) -> None:
    plain, kept = gradients(deep)
    blocks.recompute(deep)
    again, less = gradients(deep)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert less < 0.7 * kept


def test_without_gradient_layers_are_not_wrapped(deep: Deep, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[int] = []

    def watched(forward: Callable[..., torch.Tensor], *given: torch.Tensor, use_reentrant: bool) -> torch.Tensor:
        wrapped.append(1)
        return forward(*given)

    monkeypatch.setattr(blocks, "checkpoint", watched)
    blocks.recompute(deep)
    with torch.no_grad():
        deep(torch.zeros(1, 8))
    assert not wrapped
    deep(torch.zeros(1, 8))
    assert len(wrapped) == 4


slow = pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="compiles for half a minute; set DUALLOOP_LONG=1")


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=slow)])
def test_compiled_layers_compute_the_same(deep: Deep, backend: str) -> None:
    deep.eval()
    plain = [gradients(deep, batch)[0] for batch in (3, 5)]
    blocks.compiled(deep, backend=backend)
    again = [gradients(deep, batch)[0] for batch in (3, 5)]
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_with_activation_checkpointing_is_the_run_without(tiny: Make, tmp_path: Path) -> None:
    ends = []
    for wanted in ("false", "true"):
        recipe = tiny(f"train.activation_checkpointing={wanted}", f"output={tmp_path / wanted}", "train.updates=2")
        assert runner.run(recipe, Registry(), quiet=True) == 0
        [run] = (tmp_path / wanted).iterdir()
        ends.append(load_file(run / "checkpoints" / "update-000002" / "trained.safetensors"))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@slow
def test_a_compiled_run_is_the_run_without_up_to_rounding(tiny: Make, tmp_path: Path) -> None:
    ends = []
    for wanted in ("false", "true"):
        recipe = tiny(
            f"train.compile={wanted}",
            f"output={tmp_path / wanted}",
            "train.updates=2",
            "model.lora={r: 4, alpha: 8, dropout: 0.0}",
            "optimizer.eps=1.0e-3",
        )
        assert runner.run(recipe, Registry(), quiet=True) == 0
        [run] = (tmp_path / wanted).iterdir()
        ends.append(load_file(run / "checkpoints" / "update-000002" / "trained.safetensors"))
    assert max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0]) < 1e-5
