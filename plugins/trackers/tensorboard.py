"""Metrics and pictures as TensorBoard event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.contracts import RunInfo, Sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tensorboard:
    """Writes to ``<run folder>/<folder>``; look at it with ``tensorboard --logdir <run folder>``.

    On resume the points past the resumed update are taken out of the earlier files. The summary is written as points at the last update.
    """

    def __init__(self, *, folder: str = "tensorboard") -> None:
        if not folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ValueError(f"folder must be a path inside the run folder, not {folder!r}.")
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._last = 0

    def start(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes about a second: only when a run uses it

        self._last = run.resumed_at
        for file in sorted((run.folder / self.folder).glob("events.out.tfevents.*")):  # also of a run that ended before any checkpoint
            _drop_after(file, run.resumed_at)
        self._writer = SummaryWriter(str(run.folder / self.folder), flush_secs=10)

    def log(self, update: int, values: Mapping[str, float]) -> None:
        self._last = max(self._last, update)
        for name, value in values.items():
            self._open().add_scalar(name, float(value), update)

    def picture(self, update: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))  # [H, W, 3] uint8
        self._open().add_image(name, pixels, update, dataformats="HWC")

    def training_samples(self, update: int, name: str, samples: Sequence[Sample]) -> None:
        """The texts as a table; the masks are on the sheet."""
        texts = list(dict.fromkeys(text for sample in samples for text in sample.texts))
        rows = [["id", *texts, "IoU"], ["---"] * (len(texts) + 2)]
        rows += [[one.id, *(one.texts.get(text, "") for text in texts), "" if one.score is None else f"{one.score:.2f}"] for one in samples]
        lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        self._open().add_text(name, "\n".join(lines), update)

    def finish(self, summary: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        self.log(self._last, summary)
        self._writer.close()
        self._writer = None

    def add_results(self, run: RunInfo, update: int, values: Mapping[str, float], pictures: Mapping[str, Path]) -> str:
        """Points at the checkpoint's update, in a file of their own."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / self.folder))
        self.log(update, values)
        for name, path in pictures.items():
            self.picture(update, name, path)
        self._writer.close()
        self._writer = None
        return str(run.folder / self.folder)

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            raise RuntimeError("start() comes before log() and picture().")
        return self._writer


def _drop_after(file: Path, update: int) -> None:
    """Takes the events past step ``update`` out of a file; it is complete or unchanged. What a killed writer left unfinished goes too."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = list(RawEventFileLoader(str(file)).Load())
    kept = [event for event in events if Event.FromString(event).step <= update]
    if len(kept) == len(events):
        return
    beside = file.with_name("rewritten.new")  # a name that TensorBoard does not read
    with beside.open("wb") as stream:
        writer = RecordWriter(stream)
        for event in kept:
            writer.write(event)
        writer.flush()
    beside.replace(file)
