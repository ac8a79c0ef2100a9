"""How well the base closes the loops of a recipe, before a run: with the recipe's own model, sources, teacher, samplers and loops."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from core.checkpoints.start import start_weights
from core.contracts import BadSample, Dataset, Loop, Model, Region, RegionBatch, Teacher, TellsOutlook, draw_from, teacher_captions
from core.engine.launch import device_of
from core.engine.moving import MovingValue, move
from core.engine.noise import RunNoise, derived_seed
from core.engine.own_weights import move_to
from core.engine.parallel.exchange import Alone
from core.engine.plan import needs_of
from core.engine.reach import UNREACHED, reaches
from core.engine.teaching import teacher_preparation
from core.engine.update import add_sums, means
from core.preflight.data import value_at
from core.preflight.finding import Finding
from core.recipe import KeyPath, Recipe, build, components_used, moving_numbers, path_text
from core.registry import Registry

TOGETHER = 4  # regions that are drawn one after another: data sets list those of a picture side by side
CAPTION_LENGTH = 64  # tokens, of a loop that has no key for it


@dataclass
class _Base:
    """What the recipe starts training with."""

    recipe: Recipe
    registry: Registry
    model: Model
    teacher: Teacher | None
    parts: dict[KeyPath, Any]
    length: int | None = None  # tokens of the teacher's captions; None where no loop asks for any

    @classmethod
    def of(cls, recipe: Recipe, registry: Registry) -> _Base:
        torch.manual_seed(derived_seed(recipe.values["seed"], "weights"))  # as a run does: fresh adapters are drawn from it
        device, parts = device_of(recipe.values["launch"]), dict[KeyPath, Any]()
        model: Model = build(recipe, ("model",), registry)
        if isinstance(model, torch.nn.Module):
            model.to(device)
        groups = model.trainable()
        with TemporaryDirectory() as folder:
            start_weights(recipe, registry, groups, Path(folder), Alone())
        teacher: Teacher | None = build(recipe, ("teacher",), registry, parts) if recipe.values.get("teacher") else None
        if teacher is not None:
            move_to(teacher, device)
            teacher.start(groups)
        return cls(recipe, registry, model, teacher, parts)


@dataclass
class _Measured:
    """What was seen of one task."""

    path: KeyPath
    loop: Loop
    own: list[float] = field(default_factory=list)  # IoU of the masks found for the teacher's captions
    given: list[float] = field(default_factory=list)  # and for those of the data set, where it has some
    own_of_given: list[float] = field(default_factory=list)  # of these regions too, for the teacher's captions
    written: dict[bytes, dict[bytes, str]] = field(default_factory=lambda: defaultdict(dict))  # picture -> region -> the teacher's caption
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of the loop's metrics, as an update adds them up
    bad: int = 0
    reaches: bool | None = None  # whether a loss reaches a trained weight; None until there was a region

    def singled_out(self) -> tuple[int, int]:
        """(captions that no other region of their picture gets, captions of regions that are not alone in their picture)."""
        alone, beside = 0, 0
        for texts in self.written.values():
            said = Counter(" ".join(text.lower().split()) for text in texts.values())
            if len(texts) > 1:
                beside += len(texts)
                alone += sum(bool(text) and count == 1 for text, count in said.items())
        return alone, beside


def closure(recipe: Recipe, registry: Registry, regions: int, progress: Callable[[int, int], None]) -> Iterator[Finding]:
    """Findings from about ``regions`` regions of each task, spread over its sources. ``progress``: called with (tasks done, tasks).

    The weights are those that training starts from; nothing is trained. Raises ``UserError`` for what a run would refuse, too.
    """
    base = _Base.of(recipe, registry)
    paths: list[KeyPath] = [("loops", loop, "tasks", task) for loop, one in recipe.values["loops"].items() for task in one["tasks"]]
    loops: dict[KeyPath, Loop] = {path: _loop(base, path) for path in paths}
    taught = [_length(base, path) for path, loop in loops.items() if "teacher" in loop.needs]
    base.length = min(taught, default=None)
    measured = []
    for done, (path, loop) in enumerate(loops.items()):
        progress(done, len(paths))
        measured.append(_measure(base, path, loop, regions))
    progress(len(paths), len(paths))
    there = {
        "given_words": [iou for one in measured for iou in one.given],
        "own_words_of_given": [iou for one in measured for iou in one.own_of_given],
    }
    for one in measured:
        yield from _told(one, {name: float(np.mean(ious)) for name, ious in there.items() if ious})


def _loop(base: _Base, path: KeyPath) -> Loop:
    """The component of a task, with its values as they are in the first update."""
    recipe = base.recipe
    torch.manual_seed(derived_seed(recipe.values["seed"], "weights", *path))  # as a run does
    loop: Loop = build(recipe, path, base.registry, base.parts)
    move_to(loop, device_of(recipe.values["launch"]))
    numbers = {key: moving for key, moving in moving_numbers(recipe, base.registry).items() if key[: len(path)] == path}
    owners = base.parts | {path: loop}
    move([MovingValue(key, owners[key[:-1]], moving) for key, moving in numbers.items() if key[:-1] in owners], 0)
    return loop


def _length(base: _Base, path: KeyPath) -> int:
    """The tokens of a task's captions."""
    component = dict(components_used(base.recipe, base.registry))[path]
    defaults = {parameter.name: parameter.default for parameter in component.parameters}
    length = value_at(base.recipe.values, path).get("caption_length", defaults.get("caption_length"))
    return length if isinstance(length, int) else CAPTION_LENGTH


def _measure(base: _Base, path: KeyPath, loop: Loop, regions: int) -> _Measured:
    found, data, size = _Measured(path, loop), value_at(base.recipe.values, path)["data"], base.recipe.values["train"]["batch_size"]
    for source in data:
        dataset: Dataset = build(base.recipe, (*path, "data", source), base.registry, base.parts)
        drawn = list(_drawn(dataset, math.ceil(regions / len(data)), source, found))
        for start in range(0, len(drawn), size):
            _close(base, found, drawn[start : start + size], _length(base, path))
    return found


def _drawn(dataset: Dataset, wanted: int, source: str, found: _Measured) -> Iterator[Region]:
    """At most ``wanted`` regions, ``TOGETHER`` side by side, spread over the data set; bad ones are counted and left out."""
    runs = math.ceil(wanted / TOGETHER)
    starts = np.linspace(0, max(0, len(dataset) - TOGETHER), runs).round().astype(int).tolist()
    indices = sorted({index for start in starts for index in range(start, min(start + TOGETHER, len(dataset)))})
    for index in indices[:wanted]:
        try:
            region = draw_from(dataset, index, np.random.default_rng(index))
        except BadSample:
            found.bad += 1
            continue
        if region.captions:
            region = replace(region, caption=region.captions[0], captions=())
        yield replace(region, id=f"{source}/{region.id}")  # one id space over all sources, as in a run


def _close(base: _Base, found: _Measured, regions: Sequence[Region], length: int) -> None:
    """Adds what the base makes of one micro-batch of regions."""
    model, teacher, needs = base.model, base.teacher, found.loop.needs
    regions, batch = _batch(base, found, regions)
    if batch is None:
        return
    batch = batch.to(device_of(base.recipe.values["launch"]))
    with model.computing(training=False, precision=base.recipe.values["train"]["precision"]):
        if "teacher" in needs and teacher is not None:
            vision = model.encode(batch)
            texts = model.decode(teacher_captions(teacher, model, vision, batch, length))
            found.own += _ious(model, vision, batch.view2, batch.mask2, texts, length, batch.ids)
            for region, text in zip(regions, texts, strict=True):
                found.written[_digest(region.image)][_digest(region.mask)] = text
        if "caption" in needs:
            texts = [caption or "" for caption in batch.captions]
            vision = model.encode(batch)
            found.given += _ious(model, vision, batch.view1, batch.mask1, texts, length, batch.ids)
            if teacher is not None and base.length is not None:
                own = model.decode(teacher_captions(teacher, model, vision, batch, base.length))
                found.own_of_given += _ious(model, vision, batch.view1, batch.mask1, own, base.length, batch.ids)
        terms = found.loop(model, teacher, batch, RunNoise(base.recipe.values["seed"], 0))
    if found.reaches is None:
        with model.computing(training=True, precision=base.recipe.values["train"]["precision"]):
            found.reaches = reaches(found.loop(model, teacher, batch, RunNoise(base.recipe.values["seed"], 0)))
    terms.terms = {}  # losses are no figures of the base
    add_sums(found.sums, "", terms)


def _batch(base: _Base, found: _Measured, regions: Sequence[Region]) -> tuple[list[Region], RegionBatch | None]:
    """The regions that can be used, as a micro-batch."""
    needs, own, theirs = needs_of(found.loop), base.model.preparation, teacher_preparation(base.teacher, base.model)
    used, prepared, for_teacher = [], [], []
    for region in regions:
        try:
            both = own(region, needs), None if theirs is None else theirs(region, needs)
        except BadSample:
            found.bad += 1
            continue
        used.append(region)
        prepared.append(both[0])
        for_teacher.append(both[1])
    if not used:
        return [], None
    batch = own.collate(prepared)
    batch.categories, batch.extra = [region.category for region in used], [region.extra for region in used]
    batch.for_teacher = None if theirs is None else theirs.collate(for_teacher)
    return used, batch


def _ious(
    model: Model, vision: Any, view: torch.Tensor, truth: torch.Tensor, texts: Sequence[str], length: int, ids: Sequence[str]
) -> list[float]:
    """IoU of the masks that are found for ``texts`` [B] with ``truth`` [B, h, w], at the model's size; 1 where both are empty."""
    phrases = model.phrases(texts, length)  # [B, T]
    logits = model.segment(vision, view, model.embed(phrases.ids), phrases.mask, model.wording(ids, None)).mask_logits  # [B, h, w]
    both, either = ((logits > 0) & truth).sum((1, 2)), ((logits > 0) | truth).sum((1, 2))  # [B] each
    return torch.where(either > 0, both / either.clamp_min(1), 1.0).tolist()


def _digest(array: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(array).tobytes() + str(array.shape).encode(), digest_size=16).digest()


def _told(one: _Measured, there: Mapping[str, float]) -> Iterator[Finding]:
    subject = path_text(one.path)
    if not one.sums and not one.own and not one.given:
        yield Finding("warn", subject, f"nothing could be measured: {one.bad} regions were drawn, and none could be used")
        return
    if one.bad:
        text = f"{one.bad} of the regions drawn could not be used; what is said of its sources names the reasons"
        yield Finding("warn", subject, text)
    if one.reaches is False:
        yield Finding("fail", subject, UNREACHED)
    logged = {name.removeprefix("/"): value for name, value in means(one.sums).items()}
    figures = {**logged, **there}
    if one.own:
        alone, beside = one.singled_out()
        figures["own_words"] = float(np.mean(one.own))
        example = next(text for texts in one.written.values() for text in texts.values())
        text = f"masks that the base finds for its teacher's captions: {_shown(one.own)}; the first caption: {example!r}"
        yield Finding("pass", subject, text)
        if beside:
            figures["singled_out"] = alone / beside
            text = f"{alone} of {beside} captions ({alone / beside:.0%}) single out their region among those drawn from its picture"
            yield Finding("pass", subject, text)
        else:
            yield Finding("pass", subject, "whether captions single out their region is not known: no two regions were of one picture")
    if one.given:
        own = f", for its teacher's captions of the same regions {_shown(one.own_of_given)}" if one.own_of_given else ""
        yield Finding("pass", subject, f"masks that the base finds for given captions: {_shown(one.given)}{own}")
    if logged:
        text = ", ".join(f"{name} {value:.3g}" for name, value in sorted(logged.items()))
        yield Finding("pass", subject, f"with the recipe's settings, before the first update: {text}")
    if isinstance(one.loop, TellsOutlook):
        outlook = one.loop.outlook(figures)
        if outlook.doubts:
            yield Finding("warn", subject, f"can hardly be expected to help this base: {'; '.join(outlook.doubts)}")
        else:
            yield Finding("pass", subject, f"nothing measured speaks against it{f': {outlook.hope}' if outlook.hope else ''}")


def _shown(ious: Sequence[float]) -> str:
    """Their mean, with its 95 % interval where there are several."""
    half = 1.96 * float(np.std(ious, ddof=1)) / math.sqrt(len(ious)) if len(ious) > 1 else 0.0
    return f"IoU {np.mean(ious):.2f} ± {half:.2f} ({len(ious)} regions)"
