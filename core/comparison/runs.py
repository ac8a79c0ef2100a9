"""Run folders as data: recipe, metrics, evaluations and picture sheets, also of runs that crashed or still run."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.engine.history import NO_METRICS, kept_terms, metrics_file, rows
from core.engine.which_run import MADE_OF, begun
from core.evaluation.draws import Drawn, read_draws

FINISHED, RUNNING, STOPPED = "finished", "running", "stopped"
SAMPLES, MOST_SHEETS = "samples after update", 12  # sheets of a run's samples, the newest first; of more some, evenly spaced
_QUIET_S = 300.0  # a run that has written nothing for longer than this and than ten updates is taken for stopped


@dataclass(frozen=True)
class Value:
    """One evaluated number, with its interval where the evaluation gave one."""

    value: float
    low: float | None = None
    high: float | None = None
    to_full: Value | None = None  # of an ablation's variant: the difference to the variant ``full``


@dataclass
class RunData:
    """What one run folder holds. ``series`` are aligned with ``updates``; None where a row lacks the metric or it is not finite."""

    folder: Path
    recipe: dict[str, Any]  # resolved
    updates: list[int]
    series: dict[str, list[float | None]]
    state: str  # FINISHED, RUNNING or STOPPED
    before: dict[str, Value] = field(default_factory=dict)  # "evaluator/metric"
    after: dict[str, Value] = field(default_factory=dict)
    sheets: dict[str, Path] = field(default_factory=dict)  # "before", "after" -> PNG
    paths: frozenset[str] = frozenset()  # keys of the recipe that are paths
    contents: dict[str, str] = field(default_factory=dict)  # key of a path of the base, or of a source -> what tells it from others
    evaluators: dict[str, str] = field(default_factory=dict)  # name -> component
    draws: dict[str, Path] = field(default_factory=dict)  # evaluator of ``after`` -> folder of its draws over the pictures
    terms: list[str] = field(default_factory=list)  # metrics that are terms of a loss, as far as the run has written them down
    begun: float = 0.0  # seconds since 1970
    made_with: str = ""  # version and commit of the toolkit
    notes: list[str] = field(default_factory=list)  # what could not be read, and why the run stopped where that is known

    @property
    def planned(self) -> int:
        """Updates the recipe asks for; 0 where it does not say."""
        updates = _within(self.recipe, "train").get("updates")
        return updates if isinstance(updates, int) else 0

    def last(self, metric: str) -> float | None:
        """The mean over the last tenth of the updates that have ``metric``."""
        values = [value for value in self.series.get(metric, []) if value is not None]
        return statistics.fmean(values[-max(1, len(values) // 10) :]) if values else None

    def losses(self) -> list[str]:
        """The metrics that are losses: each loop's sum first, then its terms, as the recipe names them."""
        loops = _within(self.recipe, "loops")
        sums = [f"{loop}/loss" for loop in loops]
        terms = [
            f"{loop}/{task}/{term}"
            for loop, setting in loops.items()
            for task, inner in _within(setting, "tasks").items()
            for term in _within(inner, "losses")
        ]
        return [name for name in dict.fromkeys([*sums, *terms, *self.terms]) if name in self.series]


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among ``paths`` and inside those that are none: a sweep's folder, or one with runs and sweeps; in their order.

    Raises UserError for a path that holds no run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no run folder {path}: give folders that `core.run` made, or a folder that holds some")
        inside = list(_runs_in(path, deeper=2))
        if not inside:
            raise UserError(f"{path} is no run folder and holds none: a run folder has a recipe.json")
        found |= dict.fromkeys(inside)
    return list(found)


def _runs_in(folder: Path, deeper: int) -> Iterator[Path]:
    """``folder`` if it is a run, otherwise the runs in it and, as sweeps lie beside runs, in its folders."""
    if (folder / "recipe.json").is_file():
        yield folder
    elif deeper:
        for child in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _runs_in(child, deeper - 1)


def read_run(folder: Path, now: float | None = None) -> RunData:
    """Everything in ``folder``. Only a recipe that cannot be read raises UserError; other damage becomes a note."""
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'recipe.json'} cannot be read: {error}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{folder / 'recipe.json'} holds no recipe")
    notes: list[str] = []
    metrics = folder / metrics_file(recipe)
    updates, series = _table(_rows(metrics, notes))
    run = RunData(folder, recipe, updates, series, STOPPED, notes=notes)
    run.state = _state(run, metrics, time.time() if now is None else now)
    made_of = _json(folder / MADE_OF, notes)
    run.paths, run.contents = frozenset(_within(made_of, "paths")), _contents(made_of)
    run.before = dict(_values(_json(folder / "before.json", notes)))
    run.after = dict(_values(_within(_json(folder / "result.json", notes), "after")))
    run.terms, run.begun, run.made_with = kept_terms(folder), begun(folder), _made_with(made_of)
    run.evaluators = {name: str(one["use"]) for name, one in _within(recipe, "evaluate").items() if isinstance(one, dict) and "use" in one}
    add_cards(run, sorted(folder.glob("evaluation/*/*/card.json")))
    run.sheets = {path.stem.removeprefix("pictures_"): path for path in sorted(folder.glob("pictures_*.png"), key=_sheet_order)}
    samples = sorted(folder.glob("samples/update-*.png"))[::-1]
    run.sheets |= {f"{SAMPLES} {int(path.stem.removeprefix('update-'))}": path for path in samples[:: -(-len(samples) // MOST_SHEETS) or 1]}
    for file in sorted(folder.glob("not_finite*.json")):
        notes.append(f"{_json(file, notes).get('what', 'a value')} was not finite")
    return run


def _made_with(made_of: Mapping[str, Any]) -> str:
    version, commit = _within(made_of, "versions").get("dualloop"), made_of.get("commit")
    return ", ".join([*([f"dualloop {version}"] if version else []), *([f"commit {commit}"] if commit else [])])


def _contents(made_of: Mapping[str, Any]) -> dict[str, str]:
    """A short digest of each path's files, and of each source's samples and files; pictures count as far as decoders agree on them."""
    found = {key: _hashes(files) for key, files in _within(made_of, "contents").items()}
    for key, stamp in _within(made_of, "sources").items():
        looked = stamp.get("looked_at", []) if isinstance(stamp, Mapping) else []
        found[key] = [stamp.get("samples"), _hashes(_within(stamp, "files")), [one.get("sha256") for one in looked]]
    return {key: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12] for key, value in found.items()}


def _hashes(files: Any) -> Any:
    return sorted((name, entry.get("sha256")) for name, entry in files.items()) if isinstance(files, Mapping) else None


def _rows(file: Path, notes: list[str]) -> dict[int, dict[str, Any]]:
    """Update -> row. Notes tell of a missing file and of damaged lines."""
    if not file.is_file():
        notes.append(f"no {file.name} yet")
    found, bad = rows(file)
    if bad:
        notes.append(f"{bad} damaged line{'s' if bad > 1 else ''} in {file.name} left out")
    return found


def _table(found: Mapping[int, Mapping[str, Any]]) -> tuple[list[int], dict[str, list[float | None]]]:
    trained = {update: row for update, row in found.items() if update > 0}
    names = dict.fromkeys(name for row in trained.values() for name in row if name not in NO_METRICS)
    series = {name: [_number(row.get(name)) for row in trained.values()] for name in names}
    return list(trained), {name: values for name, values in series.items() if any(value is not None for value in values)}


def _number(value: Any) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None


def _state(run: RunData, metrics: Path, now: float) -> str:
    if (run.folder / "result.json").is_file():
        return FINISHED
    written = max(path.stat().st_mtime for path in (metrics, run.folder / "recipe.json") if path.is_file())
    seconds = [value for value in run.series.get("time/update_s", []) if value is not None]
    patience = max(_QUIET_S, 10 * statistics.median(seconds)) if seconds else _QUIET_S
    return RUNNING if now - written < patience else STOPPED


def add_cards(run: RunData, files: Iterable[Path]) -> None:
    """Adds the results of ``core.evaluate``: of the last update as results after training, of an earlier one under ``EVALUATOR@UPDATE``.

    Those of the teacher's weights come under ``EVALUATOR@teacher``, beside the student's.
    They may be of another data set or number of samples than the run's own evaluation: then there are no values before to compare with.
    """
    for file in files:
        card = _json(file, run.notes)
        measured = _within(card, "checkpoint")
        update, teacher = measured.get("update"), measured.get("weights") == "teacher"
        earlier = isinstance(update, int) and run.updates and update < run.updates[-1]
        of = (f"@{update}" if earlier else "") + ("@teacher" if teacher else "")
        for name, results in _within(card, "results").items():
            evaluator, colon, variant = name.partition(":")
            found = dict(_values({f"{evaluator}{of}{colon}{variant}": results}))
            run.after |= found
            run.draws[f"{evaluator}{of}{colon}{variant}"] = file.parent / (variant or "full")
            run.evaluators.setdefault(evaluator, str(_within(card, "protocol").get("use", "")))
            counts = [metric for metric in found if _is_count(metric) and metric in run.before]
            if any(found[metric].value != run.before[metric].value for metric in counts):
                run.before = {metric: value for metric, value in run.before.items() if metric.rpartition("/")[0] != name}


def drawn(run: RunData, evaluator: str) -> Drawn | None:
    """The draws over the pictures of an evaluator's result after training, where ``core.evaluate`` has made it."""
    return read_draws(run.draws[evaluator]) if evaluator in run.draws else None


def _is_count(metric: str) -> bool:
    return metric.rpartition("/")[2].startswith("n_")


def evaluated(runs: Iterable[RunData]) -> list[str]:
    """What was measured after training, ``evaluator/metric``, without counts and an ablation's variants."""
    names = dict.fromkeys(name for run in runs for name in run.after)
    return [name for name in names if not _is_count(name) and ":" not in name.rpartition("/")[0]]


def ablated(runs: Iterable[RunData]) -> dict[str, list[str]]:
    """Of each metric that an ablation measured, ``evaluator/metric``, the variants, ``full`` first."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.after):
        evaluator, _, metric = name.rpartition("/")
        base, colon, variant = evaluator.partition(":")
        if colon and not _is_count(name):
            found.setdefault(f"{base}/{metric}", ["full"]).append(variant)
    return found


def of_variant(name: str, variant: str) -> str:
    """The name of a metric of one variant: ``referring:lora/cIoU``; that of ``full`` is the metric's own."""
    evaluator, _, metric = name.rpartition("/")
    return name if variant == "full" else f"{evaluator}:{variant}/{metric}"


def _values(evaluations: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """``evaluator/metric`` and value, from numbers or from mappings with a value and an interval."""
    for name, metrics in evaluations.items():
        for metric, given in metrics.items() if isinstance(metrics, Mapping) else ():
            if (value := _value(given)) is not None:
                yield f"{name}/{metric}", value


def _value(given: Any) -> Value | None:
    if not isinstance(given, Mapping):
        number = _number(given)
        return None if number is None else Value(number)
    number, ends = _number(given.get("value")), given.get("interval")
    low, high = map(_number, ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return None if number is None else Value(number, low, high, _value(given.get("to_full")))


def _sheet_order(path: Path) -> tuple[int, str]:
    order = ("pictures_before", "pictures_after")
    return order.index(path.stem) if path.stem in order else len(order), path.stem


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no file, and with a note where it cannot be read."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    return value if isinstance(value, dict) else {}


def _within(values: Any, key: str) -> dict[str, Any]:
    """The mapping under ``key``; empty where there is none."""
    inner = values.get(key) if isinstance(values, Mapping) else None
    return dict(inner) if isinstance(inner, Mapping) else {}
