"""Captions written step by step are those of the layers themselves, with few operations for each token."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plugins.models.sa2va import generation, stepping
from plugins.models.sa2va.backend import Prompt
from plugins.models.sa2va.components import Lora, load
from plugins.models.sa2va.generation import captions, greedy
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.stepping import Other, Steps

ASSET = Path(__file__).parents[2] / "assets" / "sa2va-shapes"
FAMILIES = Path(__file__).parents[1] / "fixtures" / "families"


@pytest.fixture(scope="module")
def model() -> Sa2va:
    """A trained model under adapters that change what it writes."""
    return with_adapters("float32")


def with_adapters(dtype: str, checkpoint: Path = ASSET) -> Sa2va:
    torch.manual_seed(0)
    model = load(checkpoint=checkpoint, max_tiles=1, lora=Lora(r=4, alpha=8), dtype=dtype)  # type: ignore[arg-type]
    for name, parameter in model.trainable()["lora"]:
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape) / 20
    return model.eval()


@pytest.fixture(scope="module")
def prompts(model: Sa2va) -> list[Prompt]:
    return requests(model)


@torch.no_grad()
def requests(model: Sa2va) -> list[Prompt]:
    """Of different lengths."""
    draw = torch.Generator().manual_seed(0)
    picture = torch.randint(256, (64, 64, 3), generator=draw, dtype=torch.uint8).numpy()
    vision, view = model.look(picture), torch.zeros(4, dtype=torch.long)
    [shown] = model.sequences.shown(vision, view[:1])
    cells = [torch.rand(shown.grid, generator=draw) < share for share in (0.1, 0.4, 0.9, 0.2)]
    with model.computing(training=False):
        return model.sequences.describe(vision, view, cells)


def never(ids: list[int]) -> bool:
    return False


@pytest.mark.parametrize("wait", [None, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_the_tokens_are_the_layers_own(model: Sa2va, prompts: list[Prompt], length: int, wait: int | None) -> None:
    backend = model.network.backend
    for ended in (never, model.text.ended, lambda ids: ids[-1] % 3 == 0):
        assert captions(backend, prompts, length, ended, wait) == greedy(backend, prompts, length, ended).ids
    assert captions(backend, prompts[:1], length, never, wait) == greedy(backend, prompts[:1], length, never).ids


@pytest.mark.parametrize("family", ["internlm2", "qwen2_5_vl", "qwen3_vl"])
def test_other_layers_are_known(family: str, small_qwen: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's with adapters that share an input; of Qwen-VL, whose positions run behind the tokens, Qwen3's with norms of their own."""
    model = with_adapters("float32", FAMILIES / family / "tiny" if family == "internlm2" else small_qwen(family))
    for layer in model.network.llm.model.layers:
        for norm in (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm")):
            if norm is not None:  # as they are made, all are one
                norm.weight.data = 1 + torch.randn(norm.weight.shape) / 4
    prompts, backend = requests(model), model.network.backend
    expected = greedy(backend, prompts, 20, never).ids
    monkeypatch.setattr(generation, "greedy", None)  # it would be the way of what is not known
    assert captions(backend, prompts, 20, never) == expected


def test_no_tokens_are_asked_for(model: Sa2va, prompts: list[Prompt]) -> None:
    assert captions(model.network.backend, prompts, 0, never) == [[]] * 4


def test_adapters_count_and_merged_ones_count_once(prompts: list[Prompt]) -> None:
    model = with_adapters("float32")
    backend = model.network.backend
    before = captions(backend, prompts, 12, never)
    for _, layer in _adapted(model):
        layer.merge()
    assert captions(backend, prompts, 12, never) == before
    for _, layer in _adapted(model):
        layer.unmerge()
        layer.lora_B["default"].weight.data.zero_()
    assert captions(backend, prompts, 12, never) != before


def _adapted(model: Sa2va) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in model.network.llm.named_modules() if hasattr(layer, "lora_B")]


def test_states_are_near_in_bfloat16() -> None:
    """Under autocast on a bfloat16 base: rounding may decide a token, so the first steps' states are compared."""
    model = with_adapters("bfloat16")
    with model.computing(training=False):
        prompts = requests(model)
        own, theirs = (way(model.network.backend, prompts, 12, never) for way in (captions, greedy))
    assert sum(a == b for mine, other in zip(own, theirs.ids, strict=True) for a, b in zip(mine, other, strict=True)) > 24


class Operations(TorchDispatchMode):
    """Counts what is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if not function.is_view:
            self.seen[str(function)] += 1
        return function(*given, **(named or {}))


def test_a_step_takes_few_operations_and_waits_for_nothing(model: Sa2va, prompts: list[Prompt]) -> None:
    """A layer: 25, and the parts of two norms, which are one operation each on CUDA."""
    backend, seen = model.network.backend, []
    step = Steps._step

    def counted(self: Steps) -> None:
        with Operations() as operations:
            step(self)
        seen.append(operations.seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "_step", counted)
        captions(backend, prompts, 4, never)
    assert len(seen) == 3
    counts = seen[-1]
    assert not {name for name in counts if "item" in name or "nonzero" in name or "local_scalar" in name}
    assert sum(counts.values()) <= 36 * backend.layers + 30, counts


@pytest.mark.parametrize("change", ["window", "variant", "rope", "class"])
def test_what_is_not_known_is_left_to_the_layers(change: str, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_adapters("float32")
    llm: Any = model.network.llm
    expected = greedy(model.network.backend, prompts, 6, never).ids
    layer = llm.model.layers[1]
    if change == "window":
        layer.self_attn.sliding_window = 10_000
    elif change == "variant":
        monkeypatch.setattr(type(layer.mlp.up_proj), "single", lambda self: None)
    elif change == "rope":
        monkeypatch.setitem(llm.config.rope_parameters, "rope_type", "yarn")
    else:
        monkeypatch.setattr(layer, "__class__", type("Other", (type(layer),), {}))
    with pytest.raises(Other):
        Steps(llm, torch.device("cpu"), 100)
    assert captions(model.network.backend, prompts, 6, never) == expected


def test_a_capture_that_fails_is_told() -> None:
    """This machine need not have CUDA: then the graph itself cannot be made."""
    if torch.cuda.is_available():
        pytest.skip("a graph can be captured here")
    with pytest.warns(UserWarning, match="could not be captured"):
        assert stepping.captured(lambda: None) is None


def test_keys_and_values_end_with_the_generation(model: Sa2va, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next collection of cycles: they would lie beside the update's activations until then."""
    made: list[weakref.ref[Steps]] = []

    class Watched(Steps):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(weakref.ref(self))

    monkeypatch.setattr(generation, "Steps", Watched)
    gc.disable()
    try:
        captions(model.network.backend, prompts, 6, never)
        assert [each() for each in made] == [None]
    finally:
        gc.enable()
