"""Opening large data sets: python -m benchmarks.index [--regions 1000000] [--folder FOLDER]

Writes six sources with so many regions each (SA-1B's and SA-V's JSON files, a Describe Anything annotations.json, an Open Images
CSV, a COCO file with REFER's pickle, a file for each pair; no pictures, masks of a few runs), then opens each in fresh processes:
first without an index, then with it. Reported are seconds, of building also those of processors, the index's bytes a region, and
by how much opening and walking through all rows raises the process's own memory (mapped pages, which all processes share, apart).
Writing a million files takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from core.contracts import BadSample, Dataset
from plugins.datasets import dam
from plugins.datasets._cache import cache_folder
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav import Sav
from plugins.datasets.sav_pairs import SavPairs

OF_A_PICTURE = 100  # regions, as in SA-1B


def write_sa1b(root: Path, regions: int) -> None:
    rle = {"size": [1500, 2250], "counts": "XYZ0o0000O2N1O1N3NhQ5"}
    for number in range(-(-regions // OF_A_PICTURE)):
        folder = root / f"sa_{number // 1000:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        few = range(min(OF_A_PICTURE, regions - number * OF_A_PICTURE))
        annotations = [{"id": 1000 * number + i, "area": 100 + i, "bbox": [0.0, 0.0, 9.0, 9.0], "segmentation": rle} for i in few]
        (folder / f"sa_{number}.json").write_text(json.dumps({"image": {"image_id": number}, "annotations": annotations}))


def write_dam(root: Path, regions: int) -> None:
    (root / "SAM").mkdir(parents=True)
    caption = "A thing with a long description that says how it looks and what it is made of, in some fifty words or more."
    with (root / "SAM" / "annotations.json").open("w") as file:
        for number in range(regions):
            key, image = f"sa_{number // 3}", f"sa_{number // 3}.jpg"
            region = {"image": image, "tar_file": "00000000.tar", "caption": caption, "mask_rle": {"size": [9, 9], "counts": "XYZ"}}
            first, last = number % 3 == 0, number % 3 == 2 or number + 1 == regions
            opening = ("{" if number == 0 else ", ") + json.dumps(key) + ": [" if first else ", "
            file.write(opening + json.dumps(region) + ("]" if last else ""))
        file.write("}")


def write_openimages(root: Path, regions: int) -> None:
    root.mkdir(parents=True)
    with (root / "train-annotations-object-segmentation.csv").open("w") as file:
        file.write("MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n")
        for number in range(regions):
            file.write(f"{number:016x}_m0pg52_{number:08x}.png,{number:016x},/m/0pg52,{number:08x},0.1,0.5,0.2,0.7,0.9,0.1 0.2 1\n")


def write_sav(root: Path, regions: int) -> None:
    """50 objects of each video, 20 pairs of each."""
    cells = [{"size": [848, 480], "counts": "XYZ0o0000O2N1O1N3NhQ5"}] * 50
    text = json.dumps({"video_frame_count": 104.0, "masklet": [cells] * 26})
    for number in range(-(-regions // 1000)):
        folder = root / f"sav_{number // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"sav_{number:06d}_manual.json").write_text(text)


def write_pairs(root: Path, regions: int) -> None:
    for number in range(regions):
        folder = root / f"{number // 10_000:03d}"
        if number % 10_000 == 0:
            folder.mkdir(parents=True)
        (folder / f"masklet_data_{number:07d}.npz").touch()


def write_refcoco(root: Path, regions: int) -> None:
    """Three sentences for each ref, as many refs as annotations, three to a picture."""
    (root / "train2014").mkdir(parents=True)
    (root / "refcoco").mkdir()
    words, refs = "the second person from the right", range(-(-regions // 3))
    polygon = [[round(10.5 + 3.25 * n, 2) for n in range(40)]]
    sentences = [
        [{"sent_id": n, "raw": words, "sent": words, "tokens": words.split()} for n in range(3 * ref, min(3 * ref + 3, regions))]
        for ref in refs
    ]
    table = [{"ref_id": n, "ann_id": n, "image_id": n // 3, "split": "train", "sentences": sentences[n]} for n in refs]
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(table, protocol=2))
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 480, "width": 640} for n in range(len(refs) // 3 + 1)]
    annotations = [{"id": n, "image_id": n // 3, "category_id": 1, "iscrowd": 0, "area": 9.5, "segmentation": polygon} for n in refs]
    (root / "refcoco" / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))


SOURCES: dict[str, tuple[Callable[[Path, int], None], Callable[..., Any]]] = {
    "sa1b": (write_sa1b, Sa1b),
    "dam": (write_dam, dam.sam),
    "openimages": (write_openimages, OpenImages),
    "refcoco": (write_refcoco, Refcoco),
    "sav": (write_sav, partial(Sav, distance=6, pairs=20)),
    "sav.pairs": (write_pairs, SavPairs),
}


def _own_memory() -> int:
    """Bytes of this process that it shares with no other and that are no file's pages."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def _processor() -> float:
    """Seconds that this process and those it has waited for have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _opened(name: str, root: Path) -> tuple[float, float, int, int]:
    """(seconds, those of processors, bytes of own memory, regions) of opening a source and looking at rows from all over it."""
    before, begun, processor = _own_memory(), time.perf_counter(), _processor()
    dataset: Dataset = SOURCES[name][1](root=root)
    seconds, processor = time.perf_counter() - begun, _processor() - processor
    for index in range(0, len(dataset), max(1, len(dataset) // 100)):
        try:
            dataset[index]
        except BadSample:  # there are no pictures
            continue
    return seconds, processor, _own_memory() - before, len(dataset)


def measure(name: str, root: Path, regions: int) -> dict[str, float]:
    """Writes a source below ``root`` and opens it twice, each time in a process of its own."""
    write, _ = SOURCES[name]
    write(root, regions)
    kept = {path: path.stat().st_mtime_ns for path in cache_folder().glob("*.index")} if cache_folder().is_dir() else {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        first, processor, _, _ = pool.submit(_opened, name, root).result()
        again, processor_again, memory, count = pool.submit(_opened, name, root).result()
    new = [path for path in cache_folder().glob("*.index") if path not in kept]
    return {
        "regions": count,
        "build_s": first,
        "build_processor_s": processor,
        "open_s": again,
        "open_processor_s": processor_again,
        "index_bytes_per_region": sum(path.stat().st_size for path in new) / count,
        "own_bytes_per_region": max(0, memory) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, open and weigh the indices of large data sets.")
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the sources are written and removed again (default: a temporary folder)")
    parser.add_argument("--source", choices=SOURCES, action="append", help="only this one")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    os.environ["DUALLOOP_CACHE"] = str(folder / "cache")
    try:
        print(f"{'source':<12}{'regions':>12}{'build s':>10}{'CPU s':>8}{'open s':>10}{'index B/region':>16}{'own B/region':>14}")
        for name in arguments.source or SOURCES:
            found = measure(name, folder / name, arguments.regions)
            seconds = f"{found['build_s']:>10.1f}{found['build_processor_s']:>8.1f}{found['open_s']:>10.2f}"
            weight = f"{found['index_bytes_per_region']:>16.1f}{found['own_bytes_per_region']:>14.1f}"
            shutil.rmtree(folder / name)
            print(f"{name:<12}{found['regions']:>12,.0f}{seconds}{weight}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
