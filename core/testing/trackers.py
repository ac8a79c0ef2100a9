"""The contract kit of trackers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.contracts import Picture, RunInfo, Sample, ShowsTrainingSamples, Tracker
from core.engine.tracking import Trackers
from core.testing._offers import check_offers


class TrackerKit:
    """Give ``make``. A tracker that talks to a server must be made so that it stays offline."""

    def make(self) -> Tracker:
        raise NotImplementedError

    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunInfo:
        """A new run; the current folder is another one, so that stray files are seen."""
        folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        return RunInfo(folder, "kit", {"seed": 1, "train": {"updates": 3, "precision": "fp32"}}, 0)

    def finished(self, run: RunInfo, first: int) -> Tracker:
        """A whole run of three updates, pictures and a summary, driven as the engine does; whatever the tracker raises fails."""
        tracker = self.make()
        assert isinstance(tracker, Tracker)
        driven = Trackers({"kit": tracker}, warn=pytest.fail)
        driven.start(run)
        for update in range(first, first + 3):
            driven.log(update, {"loop1/loss": 1.0 / update, "optimizer/lr": 1e-4})
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run.folder / "sheet.png")
        driven.picture(first + 2, "pictures/after", run.folder / "sheet.png")
        mask = np.eye(8, dtype=bool)
        pictures = [
            Picture("with masks", np.zeros((8, 8, 3), np.uint8), mask, ~mask, "text", 0.5),
            Picture("without", np.zeros((8, 8, 3), np.uint8)),
        ]
        driven.panels(first + 2, "pictures/after", pictures)
        if isinstance(tracker, ShowsTrainingSamples):
            texts = {"teacher": "ein roter Würfel", "student": ""}
            shown = [Sample("one", np.zeros((8, 8, 3), np.uint8), mask, ~mask, score=0.5, id="one", texts=texts)]
            samples = [*shown, Sample("two", np.zeros((6, 9, 3), np.uint8), id="two", texts={"student": "no mask"})]
            driven.training_samples(first + 1, "samples/loop1", samples)
        driven.finish({"referring/cIoU": 0.5})
        return tracker

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "trackers")

    def test_takes_a_whole_run_and_stays_in_its_folder(self, run: RunInfo) -> None:
        self.finished(run, 1)
        assert list(Path.cwd().iterdir()) == [], "write into run.folder only"
        assert Image.open(run.folder / "sheet.png").size == (8, 8)

    def test_resumes_in_the_same_folder(self, run: RunInfo) -> None:
        self.finished(run, 1)
        self.finished(RunInfo(run.folder, run.name, run.recipe, 2), 3)

    def test_takes_numbers_that_are_not_finite_and_changes_none(self, run: RunInfo) -> None:
        tracker, given = self.make(), {"a": float("nan"), "b": float("inf"), "c": 1.0}
        tracker.start(run)
        tracker.log(1, given)
        tracker.finish(given)
        assert str(given) == "{'a': nan, 'b': inf, 'c': 1.0}"
