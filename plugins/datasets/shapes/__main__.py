"""``python -m plugins.datasets.shapes OUT_FOLDER [--pictures N] [--seed N] [--size PIXELS] [--alike] [--look LOOK] [--only SOURCE]``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.outside import Ending, any_text
from plugins.datasets.shapes import words, write_world
from plugins.datasets.shapes.looks import LOOKS


def main(arguments: list[str] | None = None) -> int:
    """write the synthetic world that the small recipes train on"""
    prog = "dualloop world" if Path(sys.argv[0]).stem == "dualloop" else "python -m plugins.datasets.shapes"
    parser = argparse.ArgumentParser(prog=prog, description="Writes a synthetic world of coloured shapes.")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="made here; left alone where it holds the same world already")
    parser.add_argument("--pictures", type=int, default=600, help="pictures in all, roughly (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default %(default)s)")
    parser.add_argument("--alike", action="store_true", help="one colour in each picture: shape, size and place tell its things apart")
    looks = "another look of the same scenes: " + ", ".join(LOOKS)
    parser.add_argument("--look", choices=LOOKS, default="", metavar="LOOK", help=looks)
    parser.add_argument("--only", nargs="+", metavar="SOURCE", default=[], help="write these sources alone, for example dam refcoco/train")
    chosen = parser.parse_args(arguments)
    begun = time.monotonic()
    with Ending() as ending:
        how: dict[str, Any] = {"pictures": chosen.pictures, "seed": chosen.seed, "size": chosen.size, "alike": chosen.alike}
        how |= {"look": chosen.look, "only": chosen.only}
        try:
            write_world(chosen.out, **how, progress=lambda line: print(line, flush=True))
        except ValueError as fault:
            raise UserError(fault) from fault
        regions = sum(json.loads((chosen.out / "world.json").read_text())["regions"].values())
        size = sum(file.stat().st_size for file in chosen.out.rglob("*") if file.is_file())
        print(f"{chosen.out}: {regions} regions, {size / 2**20:.1f} MiB, {len(words())} words, {time.monotonic() - begun:.1f} s")
        return 0
    return ending.code


if __name__ == "__main__":
    any_text()
    sys.exit(main())
