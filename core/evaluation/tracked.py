"""``core.evaluate RUN --track``: results of a checkpoint, sent to the run's own trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoints.own_recipe import own_recipe
from core.contracts import RunInfo, TakesResults, UserError
from core.engine import checkpoint
from core.engine.history import metrics_file, rows
from core.engine.sweep_point import group_of, point_of
from core.evaluation.card import Results, result_name
from core.evaluation.source import Job
from core.recipe import build
from core.registry import Registry


@dataclass
class Tracked:
    """Gathers what was measured; ``send`` gives it to each tracker that takes it."""

    run: RunInfo
    trackers: Mapping[str, TakesResults]
    update: int
    values: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job, registry: Registry) -> Tracked:
        """Raises ``UserError`` where there is no run, or no tracker of it takes results."""
        if job.kind != "run" or job.file is None:
            raise UserError(f"--track needs a run or one of its checkpoints; {job.path} is none")
        folder, recipe = job.file.parent, own_recipe(job.file.parent)
        given: Mapping[str, Any] = recipe.values.get("track") or {}
        built = {name: build(recipe, ("track", name), registry) for name, entry in given.items() if entry is not None}
        taking = {name: tracker for name, tracker in built.items() if isinstance(tracker, TakesResults)}
        if not taking:
            why = f"its recipe tracks with {', '.join(built)}" if built else "its recipe names no tracker"
            raise UserError(f"--track: no tracker of {folder} takes results ({why}); leave --track out, and the card is made all the same")
        whole = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        last = max(rows(folder / metrics_file(whole))[0], default=0)
        run = RunInfo(folder, str(whole.get("name", folder.name)), whole, last, point_of(folder, whole), group_of(folder))
        return cls(run, taking, checkpoint.update_of(job.path))

    def add(self, job: Job, name: str, found: Mapping[str, Results], folder: Path) -> None:
        """One evaluator's results: of the trained weights under its name, of others as on the comparison page."""
        of = name if job.weights == "trained" else f"{name}@{job.weights}"
        for variant, metrics in found.items():
            named = result_name(of, variant)
            for metric, given in metrics.items():
                self.values[f"{named}/{metric}"] = given["value"]
                if ends := given.get("interval"):
                    self.values |= {f"{named}/{metric}/low": ends[0], f"{named}/{metric}/high": ends[1]}
            if (sheet := folder / variant / "sheet.png").is_file():
                self.pictures[f"pictures/evaluated/{named}"] = sheet

    def send(self) -> Iterator[str]:
        """A line for each tracker. Raises ``UserError`` where one fails, after the others: the cards are written already."""
        failed = []
        for name, tracker in self.trackers.items():
            try:
                yield f"tracker {name}: results of update {self.update} are in {tracker.add_results(*self._given())}"
            except Exception as error:  # whatever a tracker's server or library throws must not hide the others' success
                failed.append(f"tracker {name} took no results ({type(error).__name__}: {error})")
        if failed:
            raise UserError("; ".join(failed) + "; the cards are written, and the same command tries again")

    def _given(self) -> tuple[RunInfo, int, dict[str, float], dict[str, Path]]:
        return self.run, self.update, self.values, self.pictures
