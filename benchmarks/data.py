"""One loader worker's work on the same SA-1B files, ours and the plain way: python -m benchmarks.data

plain   decode, to float32, two float resizes of each of two views (448 and 1024) with the same filter, two float masks at
        1024, both views sent
ours    decode, two 8-bit resizes of one view, uint8 pictures, masks at a quarter of the SAM2 side, equal pictures sent once
fast    the same with the model's option resize: fast, which changes some pixels by a step
draft   ours with the readers' option draft: 512, which changes pixels: JPEGs decoded at 1/2, 1/4 or 1/8 while both sides keep 512
both    fast and draft

Each runs in one loader worker on one thread, in turns. Compared is the processor time that the worker takes for a sample, from
reading the file until the batch is in the queue: other processes on the machine hardly change it. Bytes are those of the batch's
arrays. The second view equals the first, as in all sources but SA-V. ``--memory N`` prepares N samples of small pictures and
reports by how much the process's own memory grows over the last nine tenths.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from core.contracts import Region
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.shapes.writers import rle
from plugins.models.sa2va.backends.internvl_pictures import TiledPictures
from plugins.models.sa2va.pixels import MEAN, STD, normalize, square
from plugins.models.sa2va.preparation import Sa2vaPreparation

TILE, SAM = 448, 1024
DRAFT = 512  # the least side of a picture that is decoded at a fraction of its size


def write_pictures(root: Path, count: int, height: int, width: int, masks: int = 4) -> None:
    """Pictures with detail at several scales and elliptic masks, in SA-1B's layout."""
    root.mkdir(parents=True)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for number in range(count):
        draw = np.random.default_rng(number)
        picture = np.zeros((height, width, 3), np.float32)
        for side in (8, 64, 256):
            noise = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
            picture += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 3
        Image.fromarray(picture.astype(np.uint8)).save(root / f"sa_{number}.jpg", quality=92)
        annotations = []
        for one in range(masks):
            y, x, size = (draw.uniform(low, high) * side for low, high, side in ((0.2, 0.8, height), (0.2, 0.8, width), (0.1, 0.2, height)))
            mask = (rows - y) ** 2 + (columns - x) ** 2 < size**2  # [H, W]
            annotations.append({"id": one, "segmentation": rle(mask), "area": int(mask.sum())})
        (root / f"sa_{number}.json").write_text(json.dumps({"annotations": annotations}))


def plain(regions: Sequence[Region]) -> dict[str, Tensor]:
    """The plain way's batch."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    batch: dict[str, list[Tensor]] = {}
    for region in regions:
        for view in (1, 2):
            image = torch.from_numpy(region.image).permute(2, 0, 1).float() / 255  # [3, H, W]
            for side in (TILE, SAM):
                resized = F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)
                batch.setdefault(f"image{view}_{side}", []).append((resized - mean) / std)
            mask = torch.from_numpy(region.mask)[None, None].float()
            batch.setdefault(f"mask{view}", []).append(F.interpolate(mask, (SAM, SAM), mode="nearest")[0])
    return {name: torch.stack(values) for name, values in batch.items()}


def ours(regions: Sequence[Region], fast: bool = False) -> dict[str, Any]:
    """The engine's batch."""
    prepare = Sa2vaPreparation(TiledPictures(tile=TILE, grid=16, most=1), sam_size=SAM, fast=fast)
    return vars(prepare.collate([prepare(region) for region in regions]))


def weight(batch: dict[str, Any]) -> int:
    """Bytes of a batch's tensors."""
    return sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, Tensor))


class Batches(Dataset[dict[str, Any]]):
    """The work of a worker: batch after batch of the same samples."""

    def __init__(self, source: Sa1b, make: Callable[[Sequence[Region]], dict[str, Any]], batch: int, count: int) -> None:
        self.source, self.make, self.count = source, make, count
        self.chosen = [int(i) for i in np.linspace(0, len(source) - 1, batch)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"begun": time.process_time(), **self.make([self.source[i] for i in self.chosen])}


def measure(root: Path, pictures: int, turns: int, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Of each way the best of some rounds of ``turns`` batches: the worker's processor milliseconds and what leaves it."""
    whole, drafted = Sa1b(root=root, max_samples=pictures), Sa1b(root=root, max_samples=pictures, draft=DRAFT)
    ways: dict[str, tuple[Sa1b, Callable[[Sequence[Region]], dict[str, Any]]]]
    ways = {"plain": (whole, plain), "ours": (whole, ours), "fast": (whole, partial(ours, fast=True))}
    ways |= {"draft": (drafted, ours), "both": (drafted, partial(ours, fast=True))}
    found = {way: {"ms/sample": float("inf"), "samples/s": 0.0, "MB/sample": 0.0} for way in ways}
    for _ in range(rounds):
        for way, (dataset, make) in ways.items():
            # three batches more than are counted: the first may load things, and the last ones' ends are not seen
            loader = iter(DataLoader(Batches(dataset, make, pictures, turns + 3), batch_size=None, num_workers=1, prefetch_factor=1))
            made, begun = next(loader), time.perf_counter()
            stamps = [made["begun"]]
            for _ in range(turns):
                made = next(loader)
                stamps.append(made["begun"])
            seconds, best = time.perf_counter() - begun, found[way]
            best["ms/sample"] = min(best["ms/sample"], (stamps[-1] - stamps[0]) / turns / pictures * 1e3)
            best["samples/s"] = max(best["samples/s"], turns * pictures / seconds)
            best["MB/sample"] = weight(made) / pictures / 1e6
            del loader
    return found


def difference(dataset: Sa1b) -> float:
    """The largest difference of a pixel between both ways, in steps of 8 bits: rounding at each of two passes."""
    region = dataset[0]
    a = plain([region])[f"image1_{SAM}"]
    return float((a - normalize(ours([region])["sam_pictures"], torch.float32)).abs().max()) * max(STD) * 255


def equal_pixels(region: Region) -> bool:
    """Whether uint8, sent and normalised on arrival, is exactly the float tensor that would have been sent."""
    small = square(region.image, SAM)  # [3, R, R] uint8
    resized = np.asarray(Image.fromarray(region.image).resize((SAM, SAM), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255  # [3, R, R]
    sent = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return torch.equal(normalize(torch.from_numpy(small)[None], torch.float32)[0], sent)


def growth(dataset: Sa1b, count: int) -> tuple[int, int]:
    """Own memory in bytes after a tenth of ``count`` prepared samples, and after all."""
    prepare = Sa2vaPreparation(TiledPictures(tile=64, grid=4, most=1), sam_size=64)
    sizes = []
    for number in range(count):
        prepare(dataset[number % len(dataset)])
        if number + 1 in (count // 10, count):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            sizes.append(1024 * int(status["RssAnon"].split()[0]))
    return sizes[0], sizes[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the data path with the plain way.")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", type=int, default=2000, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        print(f"batches of {arguments.pictures}, one worker, one thread, best of 3 rounds of {arguments.turns}\n")
        print(f"{'pictures':<12}{'way':<8}{'CPU ms/sample':>14}{'less by':>9}{'samples/s':>11}{'MB/sample':>11}{'less by':>9}")
        for height, width in ((1500, 2250), (480, 640)):
            root = Path(folder) / f"{height}x{width}"
            write_pictures(root, arguments.pictures, height, width)
            found = measure(root, arguments.pictures, arguments.turns)
            for way, one in found.items():
                less, fewer = (found["plain"][name] / one[name] for name in ("ms/sample", "MB/sample"))
                times = f"{one['ms/sample']:>14.1f}{less:>8.1f}x{one['samples/s']:>11.2f}"
                print(f"{root.name:<12}{way:<8}{times}{one['MB/sample']:>11.2f}{fewer:>8.1f}x", flush=True)
        dataset = Sa1b(root=root)
        print(f"\npixels equal after normalisation: {'yes' if equal_pixels(dataset[0]) else 'NO'}")
        print(f"largest difference to the plain way's pixels: {difference(dataset):.2f} of 255")
        write_pictures(Path(folder) / "small", 50, 96, 128)
        first, last = (size / 2**20 for size in growth(Sa1b(root=Path(folder) / "small"), arguments.memory))
        print(f"own memory after {arguments.memory // 10:,} samples {first:.1f} MiB, after {arguments.memory:,} {last:.1f} MiB")


if __name__ == "__main__":
    main()
