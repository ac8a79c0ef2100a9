"""The recipe's data: every source is opened and sampled as the run would do it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.contracts import BadSample, Dataset, Draws, KnowsCocoPictures, Picture, Region, UserError, draw_from
from core.cores import cores
from core.engine.plan import needs_of
from core.engine.sheet import picture_sheet
from core.preflight.finding import Facts, Finding
from core.recipe import Recipe, build, components_used, path_text
from core.registry import Registry

SHOWN = 8  # pictures of a sheet
OFTEN_CUT = 0.05  # share of captions longer than caption_length that is worth a warning


@dataclass
class Drawn:
    """One data set of the recipe."""

    path: tuple[str | int, ...]
    dataset: Dataset
    needs: frozenset[str] = frozenset()
    caption_length: int | None = None
    nested: bool = False  # inside another one, which decides what the loop or the evaluator gets

    @property
    def trains(self) -> bool:
        return self.path[0] == "loops"


@dataclass
class _Tally:
    """What was seen of one source."""

    drawn: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    detail: str = ""
    shares: list[float] = field(default_factory=list)  # of the picture that the mask covers
    areas: list[int] = field(default_factory=list)  # pixels of the masks
    empty: int = 0  # masks, where they are allowed
    lengths: list[int] = field(default_factory=list)  # tokens of the captions
    pictures: list[Picture] = field(default_factory=list)


def sources(recipe: Recipe, registry: Registry, failed: Sequence[str] = ()) -> tuple[list[Drawn], list[Finding]]:
    """Opens each data set of the loops and evaluators, except those with a key in ``failed``."""
    opened, findings = [], []
    used = dict(components_used(recipe, registry))
    for path, component in used.items():
        if component.entry.kind != "datasets" or any(key.startswith(f"{path_text(path)}.") for key in failed):
            continue
        around = [path[:n] for n in range(len(path) - 1, 0, -1) if path[:n] in used]  # components, the nearest first
        nested = any(used[place].entry.kind == "datasets" for place in around)
        owner = next((place for place in around if used[place].entry.kind in ("loops", "evaluators")), None)
        begun = time.perf_counter()
        try:
            dataset: Dataset = build(recipe, path, registry)
            count = len(dataset)
            needs = needs_of(build(recipe, owner, registry)) if owner and path[0] == "loops" else frozenset({"caption"})
        except UserError as fault:
            findings.append(Finding("fail", path_text(path), str(fault)))
            continue
        length = None
        if owner is not None:
            defaults = {parameter.name: parameter.default for parameter in used[owner].parameters}
            length = value_at(recipe.values, owner).get("caption_length", defaults.get("caption_length"))
        opened.append(Drawn(path, dataset, frozenset() if nested else needs, length if isinstance(length, int) else None, nested))
        seconds = time.perf_counter() - begun
        findings.append(Finding("pass" if count else "fail", path_text(path), f"{count:,} regions, opened in {seconds:.1f} s"))
    return opened, findings


def draw(
    recipe: Recipe, registry: Registry, drawn: list[Drawn], facts: Facts, samples: int, seconds: float, out: Path
) -> Iterator[Finding]:
    """Samples each source, counts bad ones and writes a sheet of pictures; the quick ones first, so the slow ones have the time left."""
    limit = recipe.values["train"]["max_bad_fraction"]
    for place, source in enumerate(sorted(drawn, key=_seconds_of_one)):
        begun = time.monotonic()
        tally = _sample(source, facts, samples, begun + seconds / (len(drawn) - place))
        seconds = max(1.0, seconds - (time.monotonic() - begun))
        name = path_text(source.path)
        yield _bad(name, tally, limit)
        if tally.empty:
            yield Finding("pass", name, f"{tally.empty} of {tally.drawn} samples drawn have no target: an empty mask")
        if tally.areas:
            low, middle, high = np.quantile(tally.shares, [0.05, 0.5, 0.95])
            text = f"masks cover {middle:.1%} of the picture (5 % under {low:.2%}, 5 % over {high:.0%}), the smallest {min(tally.areas)} px"
            yield Finding("pass", name, text)
        if tally.lengths and source.caption_length:
            cut = sum(length > source.caption_length for length in tally.lengths) / len(tally.lengths)
            text = f"captions take {np.median(tally.lengths):.0f} tokens, at most {max(tally.lengths)}"
            yield Finding("warn" if cut > OFTEN_CUT else "pass", name, f"{text}; {cut:.1%} are cut at {source.caption_length}")
        if tally.pictures:
            picture_sheet(tally.pictures, out / f"{name}.png", title=name)


def _bad(name: str, tally: _Tally, limit: float) -> Finding:
    bad = sum(tally.reasons.values())
    if not tally.drawn:
        return Finding("warn", name, "no sample could be drawn in the time given: raise --seconds")
    if not bad:
        return Finding("pass", name, f"{tally.drawn} samples drawn, none bad")
    reasons = ", ".join(f"{count} x {reason}" for reason, count in tally.reasons.most_common())
    share = bad / tally.drawn
    text = f"{bad} of {tally.drawn} samples drawn are bad ({share:.1%}, allowed {limit:.1%}): {reasons}; the first: {tally.detail}"
    return Finding("fail" if share > limit else "warn", name, text)


def _seconds_of_one(source: Drawn) -> float:
    begun = time.monotonic()
    with suppress(BadSample, IndexError):  # counted where the source is drawn from; none where it is empty
        _region(source, len(source.dataset) // 2)
    return time.monotonic() - begun


def _region(source: Drawn, index: int) -> Region:
    """As the run would ask for it: drawn in training, by index elsewhere."""
    return draw_from(source.dataset, index, np.random.default_rng(index)) if source.trains else source.dataset[index]


def _sample(source: Drawn, facts: Facts, samples: int, deadline: float) -> _Tally:
    count = len(source.dataset)
    chosen = sorted({int(i) for i in np.random.default_rng(0).permutation(count)[:samples]}) if count <= 10**6 else None
    if chosen is None:  # a permutation of everything would take memory
        chosen = sorted({int(i) for i in np.random.default_rng(0).integers(count, size=samples)})
    shown = set(chosen[:: max(1, len(chosen) // SHOWN)][:SHOWN])
    tally = _Tally()

    def one(index: int) -> tuple[str, str] | tuple[int, int, list[int], list[Picture]] | None:
        if time.monotonic() > deadline:
            return None
        try:
            region = _region(source, index)
            captions = region.captions or ([region.caption] if region.caption else [])
            if source.nested:
                pass  # it is read; whether the loop can use it shows in the data set around it
            elif source.trains and "preparation" in facts:
                caption = min(captions, key=lambda text: len(text.strip()), default=None)  # a blank one, if there is one
                facts["preparation"](replace(region, caption=caption, captions=()), source.needs)
            elif "caption" in source.needs and not (region.caption or "").strip():
                raise BadSample("blank caption", region.id)
        except BadSample as bad:
            return bad.reason, str(bad)
        lengths = [facts["tokens"](caption) for caption in captions] if "tokens" in facts else []
        pictures = _pictures(source, region) if index in shown else []
        return int(region.mask.sum()), region.mask.size, lengths, pictures

    with ThreadPoolExecutor(min(16, cores())) as pool:  # decoding and resizing hold no lock
        results = list(pool.map(one, np.random.default_rng(1).permutation(chosen).tolist()))
    for result in results:
        if result is None:
            continue
        tally.drawn += 1
        if len(result) == 2:
            tally.reasons[result[0]] += 1
            tally.detail = tally.detail or result[1]
            continue
        area, size, lengths, pictures = result
        if area:
            tally.areas.append(area)
            tally.shares.append(area / size)
        else:
            tally.empty += 1
        tally.lengths += lengths
        tally.pictures += pictures
    return tally


def _pictures(source: Drawn, region: Region) -> list[Picture]:
    """The sheet's rows: the sample, and a second view that was drawn."""
    text = " | ".join(region.captions) or region.caption or ""
    rows = [Picture(region.id, region.image, region.mask, text=text)]
    if isinstance(source.dataset, Draws) and source.trains and region.image2 is not None:
        rows.append(Picture(f"{region.id}, second view", region.image2, region.mask2, text=text))
    return rows


def leaks(drawn: list[Drawn]) -> Iterator[Finding]:
    """COCO pictures that are both trained on and evaluated on, from the data sets' ``coco_images() -> set of ids``."""
    known: list[tuple[Drawn, set[int]]] = []
    for source in drawn:
        told = any(source.path[: len(other.path)] == other.path for other, _ in known)  # by the data set around it
        if not told and isinstance(source.dataset, KnowsCocoPictures) and (ids := source.dataset.coco_images()):
            known.append((source, ids))
    for test, wanted in known:
        if test.trains:
            continue
        name, clean = path_text(test.path), True
        for source, ids in known:
            if source.trains and (common := ids & wanted):
                clean = False
                text = f"{len(common):,} of its {len(wanted):,} COCO pictures are also in {path_text(source.path)}, such as {min(common)}"
                yield Finding("fail" if len(common) == len(wanted) else "warn", name, text)
        if clean:
            yield Finding("pass", name, f"none of its {len(wanted):,} COCO pictures is trained on")


def value_at(values: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
    for key in path:
        values = values[key]
    return values
