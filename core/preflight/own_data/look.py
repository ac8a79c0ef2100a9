"""A walk through one's own data: samples read, masks and captions shown, bad ones named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.contracts import BadSample, Dataset, LeftOut, Picture, Region, TellsUsage, Usage
from core.engine.sheet import draw_masks
from core.preflight.data import notes_of
from core.preflight.finding import Finding
from core.preflight.own_data.guesses import Guess, recipe_text
from core.preflight.own_data.page import Shown, write_page

_LARGE = 0.5  # of the picture: a mask larger than that which also holds its corners may be an inverted one
_THREADS = 4


@dataclass
class _Seen:
    """What was read."""

    read: int = 0
    bad: list[BadSample] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    captions: int = 0  # samples with one
    inverted: int = 0  # masks that may be
    shares: list[float] = field(default_factory=list)  # of the picture that the mask covers


def look(guess: Guess, others: list[Guess], samples: int, seconds: float, out: Path) -> Iterator[Finding]:
    """Reads what it can in ``seconds``, shows ``samples`` of it on a page and writes a recipe. Raises what opening the data raises."""
    words = guess.recognized.what
    yield Finding("pass", "taken for", f"{guess.name}: {words}")
    for other in others[:5]:
        yield Finding("pass", "could also be", f"{other.name}: {other.recognized.what}")
    dataset = guess.open()
    yield Finding("pass" if len(dataset) else "fail", "regions", f"{len(dataset):,}")
    for usage in _usage(dataset):
        yield Finding("warn" if usage.left_out or usage.warnings else "pass", "used", str(usage))
    before = notes_of(dataset)
    seen = _read(dataset, samples, seconds)
    yield from _said(seen, len(dataset))
    yield from (Finding("warn", "how it was read", note) for note in notes_of(dataset) if note not in before)
    out.mkdir(parents=True, exist_ok=True)
    text = recipe_text(guess, captions=2 * seen.captions > len(seen.shares))
    (out / "recipe.yaml").write_text(text, encoding="utf-8")
    left: list[LeftOut] = [one for usage in _usage(dataset) for one in usage.left_out]
    write_page(out / "data.html", f"{guess.name}: {words}", seen.shown, seen.bad, left, len(dataset), seen.read, text)
    yield Finding("pass", "recipe", f"{out / 'recipe.yaml'}; python -m core.run {out / 'recipe.yaml'} --check accepts it")
    yield Finding("pass", "page", f"{out / 'data.html'}: {len(seen.shown)} samples and {len(seen.bad)} bad ones")


def _usage(dataset: Dataset) -> list[Usage]:
    return list(dataset.usage()) if isinstance(dataset, TellsUsage) else []


def _read(dataset: Dataset, samples: int, seconds: float) -> _Seen:
    """Samples in an order that spreads over the whole, until all are read or the time is over."""
    count, until, seen = len(dataset), time.monotonic() + seconds, _Seen()
    order = np.random.default_rng(0).permutation(count) if count <= 10**6 else np.random.default_rng(0).integers(count, size=10**6)

    def one(index: int) -> Region | BadSample | None:
        if time.monotonic() > until and seen.read:
            return None
        try:
            return dataset[index]
        except BadSample as bad:
            return bad

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(order), 64):  # a few at a time: pictures are large
            for found in pool.map(one, order[start : start + 64].tolist()):
                if found is not None:
                    _note(seen, found, samples)
            if time.monotonic() > until:
                break
    return seen


def _note(seen: _Seen, found: Region | BadSample, samples: int) -> None:
    seen.read += 1
    if isinstance(found, BadSample):
        seen.bad.append(found)
        return
    texts = list(found.captions) or ([found.caption] if found.caption else [])
    seen.captions += bool(texts)
    share = float(found.mask.mean())
    seen.shares.append(share)
    corners = found.mask[[0, 0, -1, -1], [0, -1, 0, -1]]  # [4]
    inverted = share > _LARGE and bool(corners.all())
    seen.inverted += inverted
    if len(seen.shown) < samples:
        hint = "it covers the corners and most of the picture: inverted?" if inverted else ""
        seen.shown.append(_shown(found, texts, share, hint))


def _shown(region: Region, texts: list[str], share: float, hint: str) -> Shown:
    views = [(region.image, region.mask)]
    if region.image2 is not None and region.mask2 is not None:
        views.append((region.image2, region.mask2))
    drawn = [draw_masks(Picture(region.id, image, predicted=mask)) for image, mask in views]
    height, width = region.image.shape[:2]
    facts = f"{width} x {height}, mask {share:.1%}" + (f", {region.category}" if region.category else "")
    return Shown(region.id, drawn, texts, facts, hint)


def _said(seen: _Seen, count: int) -> Iterator[Finding]:
    part = "" if seen.read >= count else f" of {count:,}; give --seconds more for the rest"
    if seen.bad:
        reasons = ", ".join(f"{n:,} x {reason}" for reason, n in Counter(bad.reason for bad in seen.bad).most_common())
        yield Finding(
            "fail" if len(seen.bad) == seen.read else "warn", "read", f"{seen.read:,}{part}; bad: {reasons}; the first: {seen.bad[0]}"
        )
    else:
        yield Finding("pass", "read", f"{seen.read:,}{part}; none bad")
    if seen.shares:
        low, middle, high = np.quantile(seen.shares, [0.05, 0.5, 0.95])
        yield Finding("pass", "masks", f"cover {middle:.1%} of the picture (5 % under {low:.2%}, 5 % over {high:.0%})")
        yield Finding("pass", "captions", f"{seen.captions:,} of {seen.read:,} have one")
    if seen.inverted:
        yield Finding("warn", "masks", f"{seen.inverted:,} cover the corners and most of the picture: are they inverted?")
