"""Peak memory of one update of a recipe at a published size, counted on fake CUDA: python tests/gpu/counted_memory.py 4B [key=value ...]

Prints each phase, then a line of JSON: minutes on a quiet core. What a real card needs beside it: ``core.engine.memory.BESIDE``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
GIB = 2**30


def count(recipe: str, size: str, overrides: list[str], sites: bool = False) -> dict[str, Any]:
    """The peak in GiB of an update in the steady state, and its phases."""
    from fakecuda import FakeCuda
    from standin import Phases, put_on_fake, short_generation, trainer_of, watch_update

    from core.recipe import load

    started, mode = time.process_time(), FakeCuda()
    tasks = {"loop1": ["pseudo"]}  # a micro-batch may be all of one task: the one that takes the most
    with mode:
        loaded = load(recipe, overrides)
        built = trainer_of(loaded, put_on_fake(loaded, size), tasks)
        fixed = mode.live
        short_generation(built.model)
        mode.peak = mode.live
        if sites:
            mode.sites = Counter()
        phases = Phases(mode)
        watch_update(phases, built)
        built.trainer.update(0)
    rows = [{"name": row.name, **{key: round(getattr(row, key) / GIB, 2) for key in ("before", "after", "peak")}} for row in phases.rows]
    for row, phase in zip(rows, phases.rows, strict=True):
        row |= {"waits": phase.waits, "kernels": phase.kernels}
    return {
        "peak": round(mode.peak / GIB, 2),
        "fixed": round(fixed / GIB, 2),
        "waits outside generation": phases.waits_outside("generate"),
        "kernels": mode.kernels,
        "seconds": round(time.process_time() - started),
        "phases": rows,
        "places": {place: round(size / GIB, 2) for place, size in mode.at_peak.most_common(25)},
    }


def phases_of_loops(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The phases of ``core.run --profile`` of loop 1, until its backward, and of loop 2 -> their peak in GiB and waits."""
    named: dict[str, dict[str, float]] = {}
    loop = 1
    for row in rows:
        if row["name"] in ("generate", "caption states", "segment", "backward"):
            named[f"loop{loop} {row['name'].replace(' ', '_')}"] = {"peak_gib": row["peak"], "waits": row["waits"]}
        loop = 2 if row["name"] == "backward" else loop
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", help="small, 1B, 4B, Sa2VA-Qwen3-VL-4B, ... or 4B/2: two layers of it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument("--recipe", default=str(HERE.parents[1] / "recipes" / "dual_loop_8gpu.yaml"))
    parser.add_argument("--keep", type=Path, metavar="FILE", help="put the result into this JSON file")
    parser.add_argument("--places", action="store_true", help="what is alive at the peak, by the line that made it (slow)")
    given = parser.parse_args()
    import fakedevice

    if lacks := fakedevice.missing():
        sys.exit(lacks)
    fakedevice.load()
    found = count(given.recipe, given.size, given.overrides, given.places)
    for row in found["phases"]:
        print("{name:16} before {before:7.2f}  after {after:7.2f}  peak {peak:7.2f} GiB  {waits:5} waits {kernels:7} kernels".format(**row))
    for place, size in found["places"].items():
        print(f"{size:8.2f} GiB  {place}")
    whole = {key: value for key, value in found.items() if key not in ("phases", "places")}
    if given.keep:
        settings = {"size": given.size, "recipe": Path(given.recipe).stem, "overrides": given.overrides}
        kept = json.loads(given.keep.read_text(encoding="utf-8")) if given.keep.is_file() else []
        kept = [other for other in kept if not settings.items() <= other.items()]
        rows = [settings | whole | {"phases": phases_of_loops(found["phases"])}, *kept]
        rows.sort(key=lambda row: (row["size"], row["recipe"], row["overrides"]))
        given.keep.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    print(json.dumps(whole))


if __name__ == "__main__":
    main()
