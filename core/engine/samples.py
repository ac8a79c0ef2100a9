"""What the loops make of a few regions during training (``train.samples_every``): texts and masks, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from core.contracts import RegionBatch, Sample, ShowsSamples, UserError
from core.engine.building import Run
from core.engine.evaluation import strict, write_whole
from core.engine.feed import MicroBatch
from core.engine.noise import RunNoise
from core.engine.sheet import picture_sheet
from core.engine.undisturbed import undisturbed

COLUMNS = 6  # of the sheet, at most
Batches = Mapping[str, Sequence[MicroBatch]]  # loop -> its micro-batches in one update


def check_samples(built: Run) -> None:
    """Raises ``UserError`` where samples are asked for and no loop can show any."""
    every = built.recipe.values["train"]["samples_every"]
    if every and not any(isinstance(task, ShowsSamples) for loop in built.trainer.loops.values() for task in loop.tasks.values()):
        raise UserError(f"train.samples_every={every}: none of the recipe's loops shows samples; remove it, or give a loop samples(...)")


def show_samples(built: Run, number: int, batches: Batches) -> None:
    """Shows what the loops make of the first regions of update ``number`` (from 0), with the weights after it; this process alone.

    Goes to the trackers and, as a sheet and as JSON, to ``samples/`` in the run folder. Training is not disturbed.
    """
    with undisturbed():
        found = {
            f"{name}/{task}": _of_task(built, name, task, number, micro_batches)
            for name, micro_batches in batches.items()
            for task, loop in built.trainer.loops[name].tasks.items()
            if isinstance(loop, ShowsSamples)
        }
    if not any(found.values()):  # only loops that show none took part, or none of their tasks had a region
        return
    update, trackers = number + 1, built.trackers
    file = built.folder / "samples" / f"update-{update:06d}.png"
    pictures = [replace(sample, title=task) for task, samples in found.items() for sample in samples]
    columns = min(COLUMNS, max(map(len, found.values())))
    picture_sheet(pictures, file, columns, title=f"{built.recipe.values['name']}: samples after update {update}")
    rows = {task: [{"id": one.id, "texts": one.texts, "iou": one.score} for one in samples] for task, samples in found.items()}
    text = json.dumps(strict({"update": update, "samples": rows}), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file.with_suffix(".json"), text + "\n")
    trackers.picture(update, "samples/sheet", file)
    for task, samples in found.items():
        trackers.training_samples(update, f"samples/{task}", samples)


def _of_task(built: Run, name: str, task: str, number: int, micro_batches: Sequence[MicroBatch]) -> list[Sample]:
    trainer, most = built.trainer, built.recipe.values["train"]["samples"]
    loop, noise = trainer.loops[name].tasks[task], RunNoise(trainer.seed, number)
    assert isinstance(loop, ShowsSamples)
    found: list[Sample] = []
    for batch in (batch for micro in micro_batches for own, batch in micro.parts if own == task):
        if len(found) < most:
            with trainer.model.computing(training=False, precision=trainer.precision):
                found += loop.samples(trainer.model, trainer.teacher, first(batch, most - len(found)).to(trainer.device), noise)
    return found[:most]


def first(batch: RegionBatch, count: int) -> RegionBatch:
    """The first ``count`` regions of a batch, with the pictures that they need."""
    if count >= len(batch):
        return batch
    pictures, rows = torch.cat([batch.view1[:count], batch.view2[:count]]).unique(return_inverse=True)  # [n], [2 * count]
    tiles, chosen = batch.tiles.split(batch.tile_counts), pictures.tolist()
    return replace(
        batch,
        ids=batch.ids[:count],
        captions=batch.captions[:count],
        tiles=torch.cat([tiles[picture] for picture in chosen]),
        tile_counts=[batch.tile_counts[picture] for picture in chosen],
        grids=[batch.grids[picture] for picture in chosen],
        sam_pictures=batch.sam_pictures[pictures],
        view1=rows[:count],
        view2=rows[count:],
        cells=batch.cells[:count],
        mask1=batch.mask1[:count],
        mask2=batch.mask2[:count],
        categories=batch.categories[:count],
        extra=batch.extra[:count],
        for_teacher=None if batch.for_teacher is None else first(batch.for_teacher, count),
    )
