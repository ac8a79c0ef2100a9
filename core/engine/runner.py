"""A run from beginning to end: build what the recipe names, train, save, evaluate before and after, write the result."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError

from core.contracts import Evaluation, Evaluator, Loop, Model, Picture, RunInfo, Teacher, UserError
from core.engine import blocks, checkpoint, stopping
from core.engine.evaluation import before_after_table, evaluate_all, metric_values, write_result, write_whole
from core.engine.feed import Feed, bad_summary
from core.engine.launch import RESUME
from core.engine.noise import derived_seed
from core.engine.plan import Plan, Source
from core.engine.progress import Progress
from core.engine.ranks import Joined, Ranks, join, lost_loader
from core.engine.running import RunningGradient
from core.engine.sheet import picture_sheet
from core.engine.strategy import make_strategy
from core.engine.tracking import Trackers, peak_gib
from core.engine.update import LoopSetup, Trainer, advance
from core.recipe import Recipe, build, local_files, resolved_values, resolved_yaml
from core.registry import Registry

#: What may differ between a run and its resumption without making it another experiment.
FREE_ON_RESUME = (
    "track",
    "checkpoint",
    "output",
    "launch",
    "evaluate",
    "train.workers",
    "train.activation_checkpointing",
    "train.compile",
    "train.evaluate",
    "train.max_bad_fraction",
    "train.max_bad_updates",
    "train.batch_size",
    "train.accumulate",
)

#: Of the probability that the sampler's k tokens hold: the less, the further its gradient is from the exact one.
LOW_TOPK_MASS = 0.8


@dataclass
class Run:
    """The built parts of a run."""

    recipe: Recipe
    folder: Path
    model: Model
    teacher: Teacher | None
    trainer: Trainer
    evaluators: dict[str, Evaluator]
    trackers: Trackers
    optimizer: torch.optim.Optimizer
    start: int  # updates already done


def run(recipe: Recipe, registry: Registry, resume: Path | bool | None = None, quiet: bool = False) -> int:
    """Carries a checked recipe out. Returns 0.

    Raises ``UserError`` for what the user can put right and ``Stopped``, after saving, where a signal asked for it.
    """
    _sharded_trains_only(recipe.values)
    ranks = join(recipe.values["launch"])
    with _told_plainly(Path(recipe.values["output"])):
        return _run(recipe, registry, resume, quiet, ranks)


def _run(recipe: Recipe, registry: Registry, resume: Path | bool | None, quiet: bool, ranks: Ranks) -> int:
    console = Console()
    where = ranks.from_main(lambda: [path and str(path) for path in _run_folder(recipe, registry, resume)])
    folder, last, new = Path(where[0]), where[1] and Path(where[1]), bool(where[2])
    total = recipe.values["train"]["updates"]
    with Progress(total, quiet or not ranks.main) as progress:
        progress.note(f"run folder: {folder}")
        with _removed_on_failure(folder, new and ranks.main):
            built = _build(recipe, registry, folder, last, ranks)
            _room(built)
            built.trainer.strategy.check_agreement("at the start")
        for line in _trained(built.model):
            progress.note(line)
        built.trackers.start(RunInfo(folder, recipe.values["name"], recipe.values, built.start))
        evaluate = ranks.main and recipe.values["train"]["evaluate"] == "before_and_after" and bool(built.evaluators)
        with ranks.main_first("evaluation before training"):
            before = _before(built, progress) if evaluate else {}
        with _feeds_closed(built.trainer):
            history = _train(built, progress)
        bad = ranks.total(bad_summary({name: loop.feed for name, loop in built.trainer.loops.items()}))
        ranks.leave()
        if not ranks.main:
            return 0
        after = evaluate_all(built.model, built.evaluators, progress) if evaluate else {}
        summary = _finish(built, before, after, history, bad)
    if after:
        before_after_table(before, after, console)
    for name, value in summary.items():
        console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"finished: {folder}", highlight=False, markup=False, soft_wrap=True)
    return 0


@contextmanager
def _feeds_closed(trainer: Trainer) -> Iterator[None]:
    """No loader's worker is left afterwards, also where something fails."""
    try:
        yield
    finally:
        for loop in trainer.loops.values():
            loop.feed.close()


@contextmanager
def _told_plainly(output: Path) -> Iterator[None]:
    """What a full or read-only disk throws, wherever the run writes, and the death of a loader's worker become a ``UserError``."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has the system's words only
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            raise
        raise UserError(
            f"{output}: the run cannot write ({error}); its checkpoints are untouched. Make room or give another disk, then --resume"
        ) from error
    except RuntimeError as error:
        if not lost_loader(error):
            raise
        what = str(error).strip().rstrip(".")
        raise UserError(
            f"a process that loads data is gone ({what}); {RESUME}. Mostly the memory is too small: lower train.workers"
        ) from error


@contextmanager
def _removed_on_failure(folder: Path, new: bool) -> Iterator[None]:
    """A run that cannot be built leaves no folder behind, in which ``--resume`` would find nothing."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _trained(model: Model) -> Iterator[str]:
    """What is trained: each group's parameters and their share of the model's."""
    numbers = {group: sum(p.numel() for _, p in members) for group, members in model.trainable().items()}
    whole = sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else 0
    for group, number in {**numbers, "in all": sum(numbers.values())}.items():
        share = f", {number / whole:.2%} of {whole:,}" if whole else ""
        yield f"trained: {group}, {number:,} parameters{share}"


def _run_folder(recipe: Recipe, registry: Registry, resume: Path | bool | None) -> tuple[Path, Path | None, Path | None]:
    """(the run's folder, the checkpoint to continue from, the folder again if it is new).

    A new folder gets the resolved recipe and local plugin files.
    """
    parent, name = Path(recipe.values["output"]), recipe.values["name"]
    runs = sorted(path for path in parent.glob(f"{name}-*") if (path / "recipe.json").is_file())
    if not resume and recipe.values["launch"]["requeue"] and runs and not (runs[-1] / "result.json").is_file():
        resume = runs[-1]  # this is the same job, started again
    if resume:
        folder = resume if isinstance(resume, Path) else runs[-1] if runs else None
        if folder is None or not folder.is_dir():
            raise UserError(f"nothing to resume: no run folder {folder or parent / (name + '-*')}; run without --resume first")
        _same_recipe(json.loads((folder / "recipe.json").read_text(encoding="utf-8")), resolved_values(recipe, registry), folder)
        found = checkpoint.list_checkpoints(folder / "checkpoints")
        return folder, found[-1][1] if found else None, None
    stamp, folder = time.strftime("%Y%m%d-%H%M%S"), parent
    for attempt in range(1000):
        folder = parent / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # two runs in one second
            continue
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be made ({error}); give another folder, output=...") from None
    with _removed_on_failure(folder, True):
        for file in local_files(recipe):
            shutil.copyfile(file, folder / file.name)
        (folder / "recipe.yaml").write_text(resolved_yaml(recipe, registry, beside=True), encoding="utf-8")
        values = json.dumps(resolved_values(recipe, registry), indent=2, default=str) + "\n"
        write_whole(folder / "recipe.json", values)  # the folder counts as a run once it has this file
    return folder, None, folder


def _sharded_trains_only(values: Mapping[str, Any]) -> None:
    if values["launch"]["strategy"] != "fsdp2":
        return
    asked = ["train.evaluate=none"] if values["train"]["evaluate"] != "none" else []
    asked += ["checkpoint.export=false"] if values["checkpoint"]["export"] else []
    if asked:
        raise UserError(
            f"with launch.strategy=fsdp2 no process holds the whole model: set {' and '.join(asked)}, then evaluate or export the run "
            "afterwards, python -m core.evaluate or python -m core.convert"
        )


def _global_batch(values: Mapping[str, Any]) -> int:
    return values["train"]["batch_size"] * values["train"]["accumulate"] * values["launch"]["processes"]


def _same_recipe(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    def leaves(value: Any, path: str = "") -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}" if path else key).items()}
        return {path: value}

    old, new = leaves(json.loads(json.dumps(then))), leaves(json.loads(json.dumps(now, default=str)))
    different = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not key.startswith(("data.", "base"))
        and not any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME)
        and not key.endswith(".use")  # a local file is named by its copy when the run folder's own recipe is resumed
    ]
    if different:
        changes = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different[:5])
        raise UserError(f"{folder} was made by another recipe: {changes}; start a new run, or give the same values")
    if (was := _global_batch(then)) != (asked := _global_batch(now)):
        raise UserError(
            f"{folder} was made with {was} samples per update and loop, this asks for {asked}; choose train.batch_size x "
            f"train.accumulate x launch.processes = {was}: which samples come next depends on it"
        )


def _build(recipe: Recipe, registry: Registry, folder: Path, last: Path | None, ranks: Ranks | None = None) -> Run:
    ranks = ranks or Ranks()
    values, seed = recipe.values, recipe.values["seed"]
    train, launch = values["train"], values["launch"]
    torch.manual_seed(derived_seed(seed, "weights"))  # fresh adapters are drawn from it
    with ranks.main_first("building the model"):  # it may write files that the others then read
        model: Model = build(recipe, ("model",), registry)
    if isinstance(model, torch.nn.Module):
        if isinstance(ranks, Joined) and launch["strategy"] == "fsdp2":
            from core.engine.strategy_fsdp2 import shard_frozen

            shard_frozen(model, ranks, launch["device"])  # before the device would have to hold all of it
        model.to(launch["device"]).train()
        if train["compile"]:
            blocks.compiled(model)
        if train["activation_checkpointing"]:
            blocks.recompute(model)
    groups = model.trainable()
    optimizer, rate = build(recipe, ("optimizer",), registry).build(groups, train["updates"])
    strategy = make_strategy(launch, groups, optimizer, train["clip_norm"], ranks, len(values["loops"]))
    teacher: Teacher | None = build(recipe, ("teacher",), registry) if values.get("teacher") else None
    if teacher is not None:
        teacher.start(groups)
    op = build(recipe, ("gradient",), registry)
    start, skipped = 0, 0
    if last is not None:
        whole = strategy.whole_optimizer()
        state = checkpoint.load(last, groups, whole, teacher)
        strategy.restored(whole)
        start, skipped = state["update"], state.get("skipped", 0)
        advance(rate, start)
        if hasattr(op, "load_state_dict"):
            op.load_state_dict(state["gradient_op"])
    schedule, loops = build(recipe, ("schedule",), registry), {}
    running = RunningGradient(groups, *schedule.running) if hasattr(schedule, "running") else None
    if running and last is not None:
        running.load_state_dict(checkpoint.load_running(last))
    for name, loop in values["loops"].items():
        tasks: dict[str, Loop] = {task: build(recipe, ("loops", name, "tasks", task), registry) for task in loop["tasks"]}
        sources = [
            Source(name, task, source, build(recipe, ("loops", name, "tasks", task, "data", source), registry), tasks[task].needs)
            for task, setting in loop["tasks"].items()
            for source in setting["data"]
        ]
        plan = Plan(sources, seed, train["batch_size"] * train["accumulate"] * strategy.world, train["group_pictures"])
        feed = Feed(
            plan,
            model.preparation,
            [update for update in range(start, train["updates"]) if name in schedule.loops(update)],
            train["batch_size"],
            strategy.rank,
            strategy.world,
            train["workers"],
            train["max_bad_fraction"],
            folder / f"bad_samples{f'.rank{strategy.rank}' if strategy.rank else ''}.jsonl",
        )
        loops[name] = LoopSetup(name, loop["weight"], tasks, feed)
    trackers = {name: build(recipe, ("track", name), registry) for name in values["track"] if ranks.main}
    if ranks.main and not any(tracker["use"] == "jsonl" for tracker in values["track"].values()):
        trackers["metrics.jsonl"] = registry.get("trackers", "jsonl").object()  # always on, whatever the recipe's trackers are called
    evaluators = {name: build(recipe, ("evaluate", name), registry) for name in values["evaluate"]}
    trainer = Trainer(model, loops, teacher, op, schedule, strategy, rate, seed, launch["device"], train["precision"], folder)
    trainer.max_bad_updates, trainer.skipped, trainer.running = train["max_bad_updates"], skipped, running
    return Run(recipe, folder, model, teacher, trainer, evaluators, Trackers(trackers), optimizer, start)


def _before(built: Run, progress: Progress) -> dict[str, Evaluation]:
    """Metrics of the untouched model; kept in the run folder, so that a resumed run still has them."""
    file = built.folder / "before.json"
    if file.is_file():
        return {name: Evaluation(metrics) for name, metrics in json.loads(file.read_text(encoding="utf-8")).items()}
    if built.start:
        return {}  # the run went on without them: weights that have moved are not the base
    results = evaluate_all(built.model, built.evaluators, progress)
    write_whole(file, json.dumps({name: result.metrics for name, result in results.items()}, indent=2) + "\n")
    _sheet(built, 0, "before", results)
    return results


def _sheet(built: Run, update: int, name: str, results: Mapping[str, Evaluation]) -> None:
    pictures: list[Picture] = [picture for result in results.values() for picture in result.pictures]
    if pictures:
        path = built.folder / f"pictures_{name}.png"
        picture_sheet(pictures, path, title=f"{built.recipe.values['name']}: {name} training")
        built.trackers.picture(update, f"pictures/{name}", path)
        built.trackers.panels(update, f"pictures/{name}", pictures)


def _train(built: Run, progress: Progress) -> list[dict[str, float]]:
    """All updates; returns what was logged of each but the skipped. Now and again the ranks' weights are compared.

    Raises ``Stopped`` after the update in which a signal asked any rank for it, and after saving.
    """
    with stopping.patiently():
        return _updates(built, progress)


def _room(built: Run) -> None:
    """Raises ``UserError`` where the first checkpoint would not find a place: at the start, not after hours."""
    if built.trainer.strategy.ranks.main:
        trained = sum(p.nbytes for members in built.trainer.strategy.groups.values() for _, p in members)
        checkpoint.check_space(built.folder, trained * (3 + bool(built.teacher) + bool(built.trainer.running)))  # with Adam's two moments


def _updates(built: Run, progress: Progress) -> list[dict[str, float]]:
    ranks = built.trainer.strategy.ranks
    train, every = built.recipe.values["train"], built.recipe.values["checkpoint"]["every"]
    history: list[dict[str, float]] = []
    for number in range(built.start, train["updates"]):
        skipped = built.trainer.skipped
        values = built.trainer.update(number)
        samples = train["batch_size"] * train["accumulate"] * built.trainer.strategy.world * len(built.trainer.schedule.loops(number))
        values["time/samples_per_s"] = samples / values["time/update_s"]
        values["memory/peak_gib"] = peak_gib(built.trainer.device)
        statistics: dict[str, float] = getattr(built.teacher, "statistics", dict)()
        values |= {f"teacher/{name}": value for name, value in statistics.items()}
        built.trackers.log(number + 1, values)
        progress.update(number + 1, values, samples)
        if built.trainer.skipped == skipped:
            history.append(values)
        stop = next((asked for asked in ranks.gather(stopping.asked()) if asked), None)
        save = (number + 1) % every == 0 or number + 1 == train["updates"] or stop
        if save or (number + 1) % built.recipe.values["launch"]["check_every"] == 0:
            built.trainer.strategy.check_agreement(f"after update {number + 1}")
        if save:
            _save(built, number + 1)
        if stop:
            with ranks.main_first("saving"):  # who ends first must not take rank 0 along while it writes
                pass
            raise stopping.Stopped(stop, f"after update {number + 1} of {train['updates']}")
    return history


def _save(built: Run, update: int) -> None:
    op, strategy = built.trainer.op, built.trainer.strategy
    optimizer = strategy.whole_optimizer()
    if not strategy.ranks.main:
        return
    state = {
        "gradient_op": op.state_dict() if hasattr(op, "state_dict") else None,
        "skipped": built.trainer.skipped,
    }
    keep, running = built.recipe.values["checkpoint"]["keep"], built.trainer.running
    mean = running.state_dict() if running else None
    checkpoint.save(built.folder / "checkpoints", update, strategy.groups, optimizer, built.teacher, state, keep, mean)


def _finish(
    built: Run,
    before: Mapping[str, Evaluation],
    after: Mapping[str, Evaluation],
    history: list[dict[str, float]],
    bad: Mapping[str, float],
) -> dict[str, Any]:
    """Pictures, result files and the export; returns the summary shown to the user."""
    _sheet(built, built.recipe.values["train"]["updates"], "after", after)
    summary: dict[str, Any] = {}
    for name, (first, last) in ends(history).items():
        summary[name] = f"{first:.4f} -> {last:.4f}"
        if name.endswith("/topk_mass") and last < LOW_TOPK_MASS:
            summary[name] += f"; below {LOW_TOPK_MASS}: the sampler's gradient leaves much out, raise its k"
    if built.trainer.skipped:
        summary["skipped updates"] = f"{built.trainer.skipped}, in which a loss or gradient was NaN or Inf; see not_finite-*.json"
    if bad:
        counts = ", ".join(f"{count:.0f} x {what}" for what, count in bad.items())
        summary["bad samples"] = f"{counts}; {built.folder / 'bad_samples*.jsonl'} name them"
    if built.recipe.values["checkpoint"]["export"]:
        target = built.folder / "export"
        shutil.rmtree(target, ignore_errors=True)
        built.model.save(target)
        summary["export"] = str(target)
    write_result(built.folder, before, after, summary)
    built.trackers.finish(metric_values(after))
    return summary


def ends(history: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Of each loop's loss, the gradients' cosine and ``topk_mass``: the mean over the first and the last tenth of the updates."""
    window, found = max(1, len(history) // 10), {}
    for name in sorted({key for values in history for key in values}):
        if name.endswith(("/loss", "/topk_mass")) or (name.startswith("surgery/cosine/") and name.count("/") == 2):
            series = [values[name] for values in history if name in values]
            first, last = series[:window], series[-window:]
            found[name] = (sum(first) / len(first), sum(last) / len(last))
    return found
