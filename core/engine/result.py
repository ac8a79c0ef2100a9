"""What a run reports: metrics before and after, pictures, result files and the export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.contracts import Evaluation, Picture
from core.engine.before_after import all_draws, seen
from core.engine.between import Between
from core.engine.building import Run
from core.engine.evaluation import evaluate_all, metric_values, strict, write_result, write_whole
from core.engine.feed import bad_samples
from core.engine.history import logged_before, metrics_file
from core.engine.progress import Progress
from core.engine.sheet import picture_sheet
from core.engine.usage import for_result

#: Of the probability that the sampler's k tokens hold: the less, the further its gradient is from the exact one.
LOW_TOPK_MASS = 0.8

DRAWS_BEFORE = "before_draws.json"  # beside before.json: with it the intervals of the changes survive a resume


def before_training(built: Run, progress: Progress) -> dict[str, Evaluation]:
    """Metrics of the untouched model, measured by all ranks together; kept in the run folder, so that a resumed run still has them."""
    file, exchange = built.folder / "before.json", built.trainer.strategy.exchange
    found = exchange.from_main(lambda: json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None)
    if found is not None:
        drawn = _drawn_before(built.folder)
        return {name: Evaluation(metrics, **drawn.get(name, {})) for name, metrics in found.items()}
    if built.start:
        return {}  # the run went on without them: weights that have moved are not the base
    results = evaluate_all(built.model, built.evaluators, progress, exchange)
    if exchange.main:
        draws = json.dumps(strict(dict(all_draws(results))), allow_nan=False, separators=(",", ":"))
        write_whole(built.folder / DRAWS_BEFORE, draws + "\n")
        write_whole(file, json.dumps({name: result.metrics for name, result in results.items()}, indent=2) + "\n")
        built.trackers.log(0, points_before(built, results))
        _sheet(built, 0, "before", results)
    return results


def points_before(built: Run, results: Mapping[str, Evaluation]) -> dict[str, float]:
    """The evaluation before training as trackers take it: where the result's curves begin, and those of the evaluations during training."""
    values = metric_values(results)
    during = {f"evaluation/{name}": value for name, value in values.items()} if built.recipe.values["train"]["evaluate_every"] else {}
    return values | during


def _drawn_before(folder: Path) -> dict[str, Any]:
    """Of each evaluator what ``Evaluation`` takes; nothing for a run of a version that did not keep it: the changes have no interval."""
    file = folder / DRAWS_BEFORE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _sheet(built: Run, update: int, name: str, results: Mapping[str, Evaluation]) -> None:
    pictures: list[Picture] = [picture for result in results.values() for picture in result.pictures]
    if pictures:
        path = built.folder / f"pictures_{name}.png"
        picture_sheet(pictures, path, title=f"{built.recipe.values['name']}: {name} training")
        built.trackers.picture(update, f"pictures/{name}", path)
        built.trackers.panels(update, f"pictures/{name}", pictures)


def finish(
    built: Run,
    before: Mapping[str, Evaluation],
    after: Mapping[str, Evaluation],
    history: list[dict[str, float]],
    between: Between,
) -> dict[str, Any]:
    """Pictures, result files and the export; returns the summary shown to the user."""
    _sheet(built, between.done, "after", after)
    summary: dict[str, Any] = between.summary()
    earlier, lost = logged_before(built.folder, built.recipe.values, built.start)
    for name, (first, last) in ends([*earlier, *history]).items():
        summary[name] = f"{first:.4f} -> {last:.4f}"
        if name.endswith("/topk_mass") and last < LOW_TOPK_MASS:
            summary[name] += f"; below {LOW_TOPK_MASS}: the sampler's gradient leaves much out, raise its k"
    if lost:
        summary["not in the means"] = f"{lost} of the first {built.start} updates, of which {metrics_file(built.recipe.values)} has no line"
    if built.trainer.skipped:
        summary["skipped updates"] = f"{built.trainer.skipped}, in which a loss or gradient was NaN or Inf; see not_finite-*.json"
    if bad := bad_samples(built.folder):
        counts = ", ".join(f"{count} x {what}" for what, count in bad.items())
        summary["bad samples"] = f"{counts}; {built.folder / 'bad_samples*.jsonl'} name them"
    if built.recipe.values["checkpoint"]["export"]:
        target = built.folder / "export"
        shutil.rmtree(target, ignore_errors=True)
        built.model.save(target)
        summary["export"] = str(target)
    data = {"data": for_result(built.usages)} if built.usages else {}
    said = seen(before, after, built.evaluators)
    write_result(built.folder, before, after, summary | data, between.watch.history, said)
    if said:
        summary = {"seen (95 %, the same pictures)": said} | summary
    built.trackers.finish(metric_values(after))
    return summary


def ends(history: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Of each loop's loss, the gradients' cosine and ``topk_mass``: the mean over the first and the last tenth of the updates."""
    window, found = max(1, len(history) // 10), {}
    for name in sorted({key for values in history for key in values if not key.startswith("evaluation/")}):
        if name.endswith(("/loss", "/topk_mass")) or (name.startswith("surgery/cosine/") and name.count("/") == 2):
            series = [values[name] for values in history if name in values]
            first, last = series[:window], series[-window:]
            found[name] = (sum(first) / len(first), sum(last) / len(last))
    return found
