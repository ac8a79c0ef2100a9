"""How much memory a run needs on each GPU, before anything is loaded: from the recipe and the facts of its model (``TellsFacts``)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.contracts import TellsFacts, TellsForwards, UserError, Work
from core.engine.launch.devices import device_of
from core.recipe import KeyPath, Recipe, built_keys, components_used, path_text
from core.registry import Registry

Facts = Mapping[str, Any]
GIB = 2**30
#: What a card holds beside what is counted: CUDA's context, workspaces of cuBLAS and cuDNN, NCCL's buffers, gaps between tensors.
#: Measured on an H200 without NCCL: 3.0 GiB with the 4B model, 4.8 with the 1B model (docs/performance.md).
BESIDE = 5 * GIB
#: Of a card of so many GB on its box: what it offers in GiB. Error correction takes a sixteenth of some.
OFFERED = 0.935


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU."""

    parts: dict[str, float]  # name -> bytes, all at one time
    task: str  # the loop's task whose micro-batch takes the most

    @property
    def counted(self) -> float:
        """What torch allocates at the largest moment of an update."""
        return sum(self.parts.values())

    @property
    def card(self) -> float:
        """What the card has to offer."""
        return self.counted + BESIDE


def facts_of(recipe: Recipe, registry: Registry, path: KeyPath = ("model",)) -> Facts:
    """What a model's component says of its keys, and {} where it says nothing. Raises what the component raises."""
    used = dict(components_used(recipe, registry))[path]
    if not isinstance(used.object, TellsFacts):
        return {}
    return dict(used.object.facts(**built_keys(recipe, path, registry)))


def teacher_models(recipe: Recipe, registry: Registry) -> list[KeyPath]:
    """Where the recipe names models that the teacher brings along."""
    return [path for path, component in components_used(recipe, registry) if path[0] == "teacher" and component.entry.kind == "models"]


def weights(facts: Facts) -> float:
    """Bytes of a model's weights; those it trains are float32."""
    trained = sum(facts["trained"].values())
    return float((facts["parameters"] - trained) * facts["frozen_bytes"] + 4 * trained)


def tasks(recipe: Recipe, registry: Registry) -> Iterator[tuple[str, Work]]:
    """The work of each task, for a micro-batch that is all of it: how tasks mix in one depends on the samples drawn."""
    values, used = recipe.values, dict(components_used(recipe, registry))
    train = values["train"]
    half = train["precision"] == "bf16" or (train["precision"] == "auto" and values["model"].get("dtype", "float32") != "float32")
    for loop, entry in values["loops"].items():
        for name, task in entry["tasks"].items():
            path: KeyPath = ("loops", loop, "tasks", name)
            told = used[path].object
            forwards, views = (told.forwards, told.views) if isinstance(told, TellsForwards) else (("caption_states", "segment"), 1)
            caption = task.get("caption_length") or 64
            batch = train["batch_size"]
            yield path_text(path), Work(batch, views * batch, forwards, caption, train["activation_checkpointing"], half)


def need(recipe: Recipe, registry: Registry, facts: Facts, teachers: Sequence[Facts] = ()) -> Need:
    """What an update takes in the steady state. ``teachers``: facts of the models that the teacher brings."""
    values, trained = recipe.values, sum(facts["trained"].values())
    launch, loops = values["launch"], len(values["loops"])
    gradients = sum(len(entry["tasks"]) for entry in values["loops"].values()) if values["gradient"].get("by") == "task" else loops
    sharded = launch["processes"] if launch["strategy"] == "deepspeed" else 1
    parts = {
        "weights": weights(facts),
        "gradients": 4.0 * trained * gradients,
        "optimizer": 8.0 * trained / sharded,
        "teacher": sum(map(weights, teachers)) if teachers else 4.0 * trained * bool(values.get("teacher")),
    }
    if launch["strategy"] == "deepspeed":
        parts["ZeRO's partitions and bucket"] = 5.0 * trained
    if launch["strategy"] == "fsdp2":
        parts["weights"] = 4.0 * trained + (facts["parameters"] - trained) * facts["frozen_bytes"] / launch["processes"]
    working = {name: facts["working"](work) for name, work in tasks(recipe, registry)}
    task = max(working, key=lambda name: working[name])
    return Need(parts | {"a micro-batch": float(working[task])}, task)


def with_keys(recipe: Recipe, **train: Any) -> Recipe:
    """The recipe with other keys under ``train``."""
    other = copy.copy(recipe)
    other.values = {**recipe.values, "train": {**recipe.values["train"], **train}}
    return other


def largest_batch(recipe: Recipe, registry: Registry, facts: Facts, teachers: Sequence[Facts], room: float, recompute: bool) -> int:
    """The largest ``train.batch_size`` whose update fits into ``room`` bytes of a card; 0: none does."""
    low, high = 0, 4096
    while low < high:
        middle = (low + high + 1) // 2
        changed = with_keys(recipe, batch_size=middle, activation_checkpointing=recompute)
        low, high = (middle, high) if need(changed, registry, facts, teachers).card <= room else (low, middle - 1)
    return low


def remedy(recipe: Recipe, registry: Registry, facts: Facts, teachers: Sequence[Facts], room: float) -> str:
    """Which keys to change for a card that offers ``room`` bytes, with the largest batch that then fits."""
    train = recipe.values["train"]
    samples = train["batch_size"] * train["accumulate"]
    lines = []
    for recompute in dict.fromkeys([train["activation_checkpointing"], True]):
        batch = largest_batch(recipe, registry, facts, teachers, room, recompute)
        switch = "" if recompute == train["activation_checkpointing"] else "train.activation_checkpointing=true and "
        if batch >= train["batch_size"]:
            lines.append(f"{switch.removesuffix(' and ')} is enough (a batch of up to {batch} then fits)")
        elif batch:
            more = f"train.accumulate={-(-samples // batch)}, for as many samples in an update"
            lines.append(f"{switch}train.batch_size={batch} (the largest that fits) and {more}")
    if not lines:
        return "no batch fits: take a smaller model, a lower model.max_tiles or model.lora.r, or a larger card"
    return "set " + "; or ".join(lines) + "; lower model.max_tiles and caption_length help too"


def require_room(recipe: Recipe, registry: Registry) -> None:
    """Raises ``UserError`` before a model is loaded that the GPU of this process has no room to train."""
    import torch

    if device_of(recipe.values["launch"]) != "cuda" or not torch.cuda.is_available():
        return
    facts = facts_of(recipe, registry)
    if "working" not in facts:
        return
    teachers = [told for path in teacher_models(recipe, registry) if (told := facts_of(recipe, registry, path))]
    free, _ = torch.cuda.mem_get_info()
    needed = need(recipe, registry, facts, teachers)
    if needed.card > free:
        keys = remedy(recipe, registry, facts, teachers, free)
        what = f"an update needs about {needed.card / GIB:.1f} GiB of GPU memory (the most in {needed.task}), {free / GIB:.1f} GiB are free"
        raise UserError(f"{what}: {keys}")
