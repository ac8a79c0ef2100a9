"""``core.check`` on a large tree, timed: python -m benchmarks.check [--regions 1000000] [--folder FOLDER]

Writes SA-1B with so many regions (100 to a picture of 1500 x 2250; the pictures are links to a few real ones), a Describe Anything
split with as many described regions, and small sources for the rest of recipes/dual_loop_8gpu.yaml; then runs ``python -m core.check``
on that recipe twice, in processes of their own: without indices of the sources, and with them. Besides the time that passed it
prints the processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.data import write_pictures
from plugins.datasets.shapes import write_world
from plugins.datasets.shapes.writers import rle

HERE = Path(__file__).parents[1]
OF_A_PICTURE = 100  # regions, as in SA-1B
LINKS = 10_000  # to one picture; file systems bound them


def write_sa1b(root: Path, regions: int) -> None:
    """Folders of a thousand pictures, each picture's JSON beside it."""
    few = root.with_name("few")
    height, width = 1500, 2250
    pictures = -(-regions // OF_A_PICTURE)
    write_pictures(few, -(-pictures // LINKS), height, width, masks=1)
    annotations = []
    for number in range(OF_A_PICTURE):
        mask = np.zeros((height, width), bool)
        top, left = 140 * (number // 10), 220 * (number % 10)
        mask[top : top + 130, left : left + 200] = True
        annotations.append({"id": number, "segmentation": rle(mask), "area": int(mask.sum()), "bbox": [left, top, 199, 129]})
    for number in range(pictures):
        folder = root / f"sa_{number // 1000:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        count = min(OF_A_PICTURE, regions - number * OF_A_PICTURE)
        (folder / f"sa_{number}.json").write_text(json.dumps({"image": {"image_id": number}, "annotations": annotations[:count]}))
        os.link(few / f"sa_{number // LINKS}.jpg", folder / f"sa_{number}.jpg")


def write_lvis(root: Path, regions: int, pictures: int = 200) -> None:
    """``annotations.json`` and a tar, as Describe Anything's LVIS split has them; many regions to a picture."""
    (root / "images").mkdir(parents=True)
    mask = np.zeros((480, 640), bool)
    mask[100:300, 200:400] = True
    caption = "A red cup of smooth glazed clay with a small chip at its rim, a curved handle on the left and a flat wide foot."
    with tarfile.open(root / "images" / "00000000.tar", "w") as tar:
        for number in range(pictures):
            data = io.BytesIO()
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(data, "JPEG")
            member = tarfile.TarInfo(f"{number:012d}.jpg")
            member.size = data.tell()
            tar.addfile(member, io.BytesIO(data.getvalue()))
    with (root / "annotations.json").open("w") as file:
        each = -(-regions // pictures)
        for number in range(pictures):
            name = f"{number:012d}"
            region = {"image": f"{name}.jpg", "tar_file": "00000000.tar", "caption": caption, "mask_rle": rle(mask)}
            count = min(each, regions - number * each)
            if count <= 0:
                break
            file.write(("{" if number == 0 else ", ") + json.dumps(name) + ": [" + ", ".join([json.dumps(region)] * count) + "]")
        file.write("}")


def _children() -> float:
    """Processor seconds of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def checked(folder: Path) -> tuple[float, float, int, list[str]]:
    """(seconds, processor seconds, exit code, lines printed) of the command on the tree."""
    world = folder / "world"
    paths = {
        "model.checkpoint": HERE / "assets/sa2va-shapes",
        "data.sav": world / "sav",
        "data.sa1b": folder / "sa1b",
        "data.openimages": world / "openimages",
        "data.refcoco": world / "ref_seg",
        "data.dam": world / "dam",
    }
    command = [sys.executable, "-m", "core.check", str(HERE / "recipes/dual_loop_8gpu.yaml"), "--out", str(folder / "sheets")]
    command += [f"{key}={path}" for key, path in paths.items()]
    environment = os.environ | {"DUALLOOP_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
    begun, before = time.perf_counter(), _children()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return time.perf_counter() - begun, _children() - before, done.returncode, (done.stderr + done.stdout).splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time core.check on a large tree.")
    parser.add_argument("--regions", type=int, default=1_000_000, help="of SA-1B, and as many of a Describe Anything split")
    parser.add_argument("--folder", type=Path, help="where the tree is written and removed again (default: a temporary folder)")
    parser.add_argument("--verbose", action="store_true", help="print what the command printed")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        write_world(folder / "world", pictures=60, seed=1)
        shutil.rmtree(folder / "world/dam/LVIS")
        write_lvis(folder / "world/dam/LVIS", arguments.regions)
        write_sa1b(folder / "sa1b", arguments.regions)
        for state in ("without indices", "with indices"):
            seconds, processor, code, lines = checked(folder)
            if arguments.verbose:
                print("\n".join(lines))
            print(f"{state}: {seconds:.1f} s, {processor:.1f} s of processor, exit code {code}; {lines[-1] if lines else ''}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
