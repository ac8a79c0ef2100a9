"""Sa2VA of a small or a published size on the fake device, and the trainer of a recipe around it, fed with made-up regions.

Everything is the project's own and unmodified; what is not there is data, weights' values, and most steps of the teacher's generation.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fakecuda import FakeCuda
from torch import nn

from benchmarks import cards
from core.contracts import RegionBatch, Tokens
from core.engine.building import _surgery, _tasks
from core.engine.drawing import MicroBatch
from core.engine.parallel.blocks import recompute
from core.engine.parallel.exchange import Alone
from core.engine.parallel.strategy import make_strategy
from core.engine.update import LoopSetup, Trainer
from core.recipe import Recipe, build
from core.registry import Registry
from plugins.models.sa2va.backends.internvl import InternVLSizes
from plugins.models.sa2va.groups import Group, Lora, trained_groups
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.sizes import Sizes
from plugins.models.sa2va.text import Text
from plugins.models.sa2va.training import choose_trained

SENTENCE = "the red circle number {} left of a blue square"
STEPS = 3  # of the teacher's generation that are carried out; the others would be like the third


def config_of(size: str, vocabulary: int, eos: int) -> dict[str, Any]:
    """The config.json of a size: ``small``, one of the published ones, or one with fewer layers (``4B/2``)."""
    if size == "small":
        return published_config(Sizes(), vocabulary, eos, "qwen_chat")
    size, _, layers = size.partition("/")
    config = copy.deepcopy(cards.config_of(size))
    if layers:
        config["text_config" if "text_config" in config else "llm_config"]["num_hidden_layers"] = int(layers)
    return config


def new_model(size: str, values: Mapping[str, Any], lora: Lora | None) -> Sa2va:
    """The model of a recipe's ``model`` on the meta device: shapes and types only."""
    tokenizer = train_tokenizer([SENTENCE.format(number) for number in range(300)], 448, "qwen_chat")
    dtype, train = getattr(torch, values.get("dtype", "float32")), values.get("train")
    with torch.device("meta"):
        config = parse_config(config_of(size, len(tokenizer), tokenizer.eos_token_id))
        network = Network(config)
        groups = trained_groups(train, lora)
        for name, parameter in network.named_parameters():
            parameter.data = parameter.data.to(torch.float32 if network.group_of(name) in groups else dtype)
        return Sa2va(network, Text(tokenizer, "qwen_chat", config.backend.marks, None), None, lora, train, values.get("max_tiles", 12))


def to_fake(model: Sa2va, groups: Sequence[Group]) -> None:
    """Puts a model on the fake device, inside the mode: what ``model.to("cuda")`` does there is not for fake tensors."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = parameter.data.to("cuda") if parameter.device.type == "cpu" else _empty(parameter)
                module._parameters[name] = nn.Parameter(made.detach(), requires_grad=parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = buffer.to("cuda") if buffer.device.type == "cpu" else _empty(buffer)
    model._trainable = choose_trained(model.network, groups)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def largest(backend: Any, most: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Shape of the largest picture that a backend makes with ``max_tiles``, as its encoder takes it, and its region grid."""
    if isinstance(backend, InternVLSizes):
        return (most + (most > 1), 3, backend.tile, backend.tile), (backend.grid, backend.grid)
    patch, merge, cells = backend.vision.patch_size, backend.vision.spatial_merge_size, backend.largest(most).cells
    height = next(side for side in range(math.isqrt(cells), 0, -1) if cells % side == 0)
    return (cells * merge**2, 3, patch, patch), (height, cells // height)


def regions(model: Sa2va, count: int, tag: str, pairs: bool, most: int, words: int) -> RegionBatch:
    """``count`` regions in pictures of their own, each a quarter to an eighth of its picture, with captions of ``words`` words.

    ``pairs``: with a second view. ``most``: the recipe's ``max_tiles``.
    """
    side = model.network.config.sam_size
    (tiles, *shape), grid = largest(model.network.config.backend, most)
    pictures, places = count * (1 + pairs), grid[0] * grid[1]
    return RegionBatch(
        ids=[f"{tag}{number}" for number in range(count)],
        captions=[" ".join(["circle"] * words)] * count,
        tiles=torch.zeros(pictures * tiles, *shape, dtype=torch.uint8),
        tile_counts=[tiles] * pictures,
        grids=[grid] * pictures,
        sam_pictures=torch.zeros(pictures, 3, side, side, dtype=torch.uint8),
        view1=torch.arange(count),
        view2=torch.arange(count) + (count if pairs else 0),
        cells=[(torch.arange(places) % (4 + number % 5) == 0).view(grid) for number in range(count)],
        mask1=torch.ones(count, side // 4, side // 4, dtype=torch.bool),
        mask2=torch.ones(count, side // 4, side // 4, dtype=torch.bool),
    )


class Feed:
    """The micro-batches of a loop, all of the same made-up regions."""

    def __init__(self, loop: str, parts: Sequence[tuple[str, Callable[[], RegionBatch]]], micro_batches: int) -> None:
        self.loop, self.parts, self.micro_batches = loop, parts, micro_batches

    def update(self) -> list[MicroBatch]:
        return [MicroBatch(self.loop, [(task, make()) for task, make in self.parts], Counter(), []) for _ in range(self.micro_batches)]


class Several(Alone):
    """One rank, whose gradients are laid out as those of many."""

    several = True


@dataclass
class Built:
    """What ``trainer_of`` made."""

    model: Sa2va
    trainer: Trainer
    optimizer: torch.optim.Optimizer


def put_on_fake(recipe: Recipe, size: str) -> Sa2va:
    """The model of a recipe in a size, on the fake device, inside the mode."""
    values = recipe.values["model"]
    lora = build(recipe, ("model", "lora"), Registry()) if values.get("lora") else None
    model = new_model(size, values, lora)
    to_fake(model, trained_groups(values.get("train"), lora))
    return model


def trainer_of(recipe: Recipe, model: Sa2va, tasks: Mapping[str, Sequence[str]] | None = None) -> Built:
    """The trainer of a recipe, inside the mode, in its steady state: the optimizer has its moments. ``tasks``: loop -> those of them."""
    registry, values = Registry(), recipe.values
    if values["train"]["activation_checkpointing"]:
        recompute(model)
    groups = model.trainable()
    parts: dict[Any, Any] = {}
    built, own = _tasks(recipe, registry, parts)
    optimizer, rate = build(recipe, ("optimizer",), registry).build(groups, values["train"]["updates"])
    exchange = Alone() if values["launch"]["strategy"] == "single" else Several()
    surgery, schedule, by_task = _surgery(recipe, registry, groups, own, parts)
    launch = {**values["launch"], "strategy": "ddp" if exchange.several else "single"}
    strategy = make_strategy(launch, groups, optimizer, values["train"]["clip_norm"], exchange, len(built))
    teacher = build(recipe, ("teacher",), registry, parts) if values.get("teacher") else None
    if teacher is not None:
        teacher.start(groups)
    take_moments(optimizer)
    loops = {}
    for name, loop in values["loops"].items():
        parts_of = [(task, _maker(model, values, f"{name}-{task}", loop["tasks"][task])) for task in (tasks or {}).get(name, built[name])]
        loops[name] = LoopSetup(name, loop["weight"], built[name], Feed(name, parts_of, values["train"]["accumulate"]))  # type: ignore[arg-type]
    precision, folder = values["train"]["precision"], Path(tempfile.gettempdir())
    trainer = Trainer(model, loops, teacher, surgery, schedule, strategy, rate, values["seed"], "cuda", precision, folder)
    trainer.by_task = by_task
    return Built(model, trainer, optimizer)


def _maker(model: Sa2va, values: Mapping[str, Any], tag: str, task: Mapping[str, Any]) -> Callable[[], RegionBatch]:
    """Batches of a task at their largest: as many tiles as a picture may have, captions as long as they may be."""
    most = values["model"].get("max_tiles", 12)
    pairs, words = task["use"] == "mask_caption_mask", task.get("caption_length") or 64
    return lambda: regions(model, values["train"]["batch_size"], tag, pairs, most, words)


def take_moments(optimizer: torch.optim.Optimizer) -> None:
    """One step on gradients of zero, after which the optimizer's moments are there: as in every update but the first."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def short_generation(model: Sa2va, steps: int = STEPS) -> None:
    """Carries out ``steps`` of each generation, and makes the tokens of all."""
    plain = model.generate

    def generate(vision: Any, view: Any, cells: Any, length: int) -> Tokens:
        plain(vision, view, cells, min(steps, length))
        ids = torch.full((len(view), length), model.text.ids("circle")[0]).to("cuda")
        return Tokens(ids, torch.ones(len(view), length, dtype=torch.bool).to("cuda"))

    model.generate = generate  # type: ignore[method-assign]


@dataclass
class Phase:
    """One part of an update."""

    name: str
    before: int  # live bytes
    after: int
    peak: int
    waits: int
    kernels: int


class Phases:
    """What each part of an update takes: ``watch`` methods, then look at ``rows``. Of parts inside others, both have all of it."""

    def __init__(self, mode: FakeCuda) -> None:
        self.mode, self.rows, self.peak = mode, list[Phase](), 0

    def watch(self, owner: Any, method: str, name: str) -> None:
        plain = getattr(owner, method)

        def watched(*given: Any, **named: Any) -> Any:
            with self.phase(name):
                return plain(*given, **named)

        setattr(owner, method, watched)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        mode, outside = self.mode, self.mode.peak
        mode.peak = before = mode.live
        waits, kernels = mode.waits.total(), mode.kernels
        try:
            yield
        finally:
            self.rows.append(Phase(name, before, mode.live, mode.peak, mode.waits.total() - waits, mode.kernels - kernels))
            mode.peak = max(outside, mode.peak)

    def waits_outside(self, *names: str) -> int:
        """Of the whole, without those parts."""
        return self.mode.waits.total() - sum(row.waits for row in self.rows if row.name in names)


def watch_update(phases: Phases, built: Built) -> None:
    """Watches the parts of an update that memory and time are spent in."""
    model, trainer = built.model, built.trainer
    phases.watch(model, "generate", "generate")
    phases.watch(model.network.backend, "encode", "picture encoder")
    phases.watch(model.network, "sam_features", "SAM2 encoder")
    phases.watch(model, "caption_states", "caption states")
    phases.watch(model, "segment", "segment")
    for method, name in (("backward", "backward"), ("reduce", "reduce"), ("gram", "gram"), ("step", "step")):
        phases.watch(trainer.strategy, method, name)
    if trainer.teacher is not None:
        phases.watch(trainer.teacher, "update", "teacher")


def faults(mode: FakeCuda, phases: Phases, most_waits: int, most_bytes: float) -> list[str]:
    """What an update did that it must not on a GPU, a sentence each; wrong devices and types have raised already."""
    calls = [call for file in ("modeling_qwen", "modeling_llama") for call in mode.attention.math_in(file)]
    found = [f"{call.place}: attention in the math kernel ({call.why})" for call in calls]
    waits = phases.waits_outside("generate")
    if waits > most_waits:
        worst = ", ".join(f"{place} {times} times" for place, times in mode.waits.most_common(5))
        found.append(f"the host waits {waits} times for the device outside generation, more than {most_waits}: {worst}")
    if mode.peak > most_bytes:
        row = max(phases.rows, key=lambda row: row.peak)
        found.append(f"the peak is {mode.peak / 2**30:.2f} GiB, in {row.name}; at most {most_bytes / 2**30:.2f} are allowed")
    return found
