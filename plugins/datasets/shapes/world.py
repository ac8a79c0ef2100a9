"""The whole world: which source gets how many pictures, and putting the finished folder in place at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plugins.datasets.shapes.described import write_dam_images, write_dam_sav, write_refcoco
from plugins.datasets.shapes.grammar import caption, expressions
from plugins.datasets.shapes.looks import LOOKS
from plugins.datasets.shapes.scene import Drawing, draw, lay_out
from plugins.datasets.shapes.writers import write_openimages, write_pairs, write_sa1b

#: source -> (share of the pictures, fewest pictures, frames of each). The order numbers the sources' seeds.
SOURCES: dict[str, tuple[float, int, int]] = {
    "refcoco/train": (0.55, 2, 1),
    "refcoco/val": (0.05, 28, 1),  # enough for 100 expressions
    "refcoco/testA": (0.02, 8, 1),
    "sav": (0.05, 2, 2),
    "sa1b": (0.05, 2, 1),
    "openimages": (0.05, 2, 1),
    "dam/SAV": (0.03, 2, 4),
    "dam/COCOStuff": (0.03, 2, 1),
    "dam/LVIS": (0.03, 2, 1),
    "dam/Mapillary": (0.03, 2, 1),
    "dam/OpenImages": (0.03, 2, 1),
    "dam/PACO": (0.03, 2, 1),
    "dam_val/LVIS": (0.015, 8, 1),
    "dam_val/COCOStuff": (0.015, 8, 1),
}

CORPUS_LINES = 2000  # of corpus.txt, from which a tokenizer learns the language


def drawings(source: str, *, pictures: int, seed: int, size: int, alike: bool = False, look: str = "") -> Iterator[Drawing]:
    """The drawings that ``write_world`` writes for one source, in its order."""
    share, fewest, frames = SOURCES[source]
    number = list(SOURCES).index(source)
    for index in range(max(fewest, round(share * pictures))):
        yield draw((seed, number, index), size, frames, alike, look)


def write_world(
    out: Path,
    *,
    pictures: int = 600,
    seed: int = 0,
    size: int = 128,
    alike: bool = False,
    only: Sequence[str] = (),
    look: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the world into the folder ``out``: complete or not at all; no picture is in two sources.

    ``pictures``: how many in all, roughly; ``size``: their side in pixels; ``alike``: all things of a picture have one
    colour, so that only shape, size and place tell them apart; ``look``: one of ``LOOKS``, in which the pictures of the same scenes are
    drawn; ``only``: the sources that are written, others stay away (``"dam"`` stands for all of ``"dam/..."``), each as it is in
    the whole world. ``progress`` is called with a line for each source. Returns at once where ``out`` holds this very world. Raises
    ``FileExistsError`` where it holds another thing, ``ValueError`` for impossible settings.
    """
    if pictures < 1 or seed < 0 or not 64 <= size <= 4096:
        raise ValueError(f"pictures must be at least 1, seed at least 0 and size 64 to 4096, not {pictures}, {seed} and {size}.")
    if look and look not in LOOKS:
        raise ValueError(f"look must be one of {', '.join(LOOKS)}, not {look!r}.")
    chosen = _chosen(only)
    settings: dict[str, Any] = {"version": 2, "pictures": pictures, "seed": seed, "size": size}
    settings |= (
        ({"alike": 1} if alike else {}) | ({"look": look} if look else {}) | ({"only": chosen} if len(chosen) < len(SOURCES) else {})
    )
    if _already(out, settings):
        progress(f"{out}: already there")
        return
    partial = out.parent / f".{out.name}.{os.getpid()}.partial"
    partial.mkdir(parents=True)
    try:
        counts = _write(partial, settings, progress)
        (partial / "world.json").write_text(json.dumps({"settings": settings, "regions": counts}, indent=1) + "\n")
        if out.is_dir():
            out.rmdir()  # empty, as _already has seen
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _chosen(only: Sequence[str]) -> list[str]:
    """The sources named, in the order of ``SOURCES``; all where none is."""
    for name in only:
        if not any(source == name or source.startswith(name + "/") for source in SOURCES):
            raise ValueError(f"there is no source {name!r}; the sources are {', '.join(SOURCES)}.")
    return [source for source in SOURCES if not only or any(source == name or source.startswith(name + "/") for name in only)]


def _already(out: Path, settings: Mapping[str, Any]) -> bool:
    marker = out / "world.json"
    if marker.is_file():
        there = json.loads(marker.read_text())["settings"]
        if there == settings:
            return True
        raise FileExistsError(f"{out} holds a world with other settings ({there}); delete it or choose another folder.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is no shapes world; choose another folder.")
    return False


def _write(out: Path, settings: Mapping[str, Any], progress: Callable[[str], None]) -> dict[str, int]:
    """Regions (expressions for RefCOCO) written for each source."""
    pictures, seed, size = settings["pictures"], settings["seed"], settings["size"]

    def of(source: str) -> Iterator[Drawing]:
        return drawings(source, pictures=pictures, seed=seed, size=size, alike="alike" in settings, look=settings.get("look", ""))

    def done(source: str, regions: int) -> None:
        counts[source] = regions
        progress(f"{source}: {regions} {'expressions' if source.startswith('refcoco') else 'regions'}")

    counts: dict[str, int] = {}
    chosen = settings.get("only", list(SOURCES))
    splits = {source.removeprefix("refcoco/"): of(source) for source in chosen if source.startswith("refcoco/")}
    rng = np.random.default_rng([seed, len(SOURCES)])
    if splits:
        for split, regions in write_refcoco(out / "ref_seg" / "refcoco", splits, rng).items():
            done(f"refcoco/{split}", regions)
    for source, write in (("sav", write_pairs), ("sa1b", write_sa1b), ("openimages", write_openimages)):
        if source in chosen:
            done(source, write(out / source, of(source)))
    for place, source in enumerate(name for name in SOURCES if name.startswith("dam")):
        if source not in chosen:
            continue
        first = 200_001 + 100_000 * place
        if source.endswith("/SAV"):
            done(source, write_dam_sav(out / source, of(source), first))
        else:
            done(source, write_dam_images(out / source, of(source), first, padded=source.endswith("/LVIS")))
    (out / "corpus.txt").write_text("\n".join(corpus(CORPUS_LINES, seed)) + "\n")
    return counts


def corpus(n: int, seed: int = 0) -> list[str]:
    """``n`` phrases and captions for training a tokenizer, of scenes laid out for it alone."""
    rng = np.random.default_rng([2**31 + seed])
    texts: list[str] = []
    while len(texts) < n:
        things = [thing.words for thing in lay_out(rng)]
        for index, thing in enumerate(things):
            texts += [*expressions(index, things, rng), caption(thing)]
    return texts[:n]
