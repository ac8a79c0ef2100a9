"""A run from beginning to end: build what the recipe names, train, save, evaluate before and after, write the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.checkpoints.start import started_from
from core.contracts import ReportsStatistics, RunInfo, Stateful, UserError
from core.engine import checkpoint
from core.engine.before_after import before_after_table
from core.engine.best import Watch
from core.engine.between import Between
from core.engine.building import Run, build_run, trained_shares
from core.engine.demands import require
from core.engine.evaluation import strict
from core.engine.feed import forget_bad_samples
from core.engine.going_on import go_on_with, take_over
from core.engine.history import keep_terms
from core.engine.launch import stopping
from core.engine.outlook import Doubts
from core.engine.parallel.exchange import Exchange, join
from core.engine.processor import slow_bfloat16
from core.engine.profile import Profile
from core.engine.progress import Output, Progress
from core.engine.reach import require_reach
from core.engine.result import before_training, finish
from core.engine.run_folder import Found, remember, removed_on_failure, run_folder
from core.engine.sweep_point import group_of, point_of
from core.engine.tracking import peak_gib
from core.engine.update import Trainer
from core.engine.usage import lines, write_left_out
from core.outside import sentence
from core.recipe import Recipe, resolved_values
from core.registry import Registry


def run(recipe: Recipe, registry: Registry, resume: Path | bool | None = None, quiet: bool = False, profile: int = 0) -> int:
    """Carries a checked recipe out. Returns 0. ``profile``: how many of its updates are measured (``core.engine.profile``).

    Raises ``UserError`` for what the user can put right and ``Stopped``, after saving, where a signal asked for it.
    """
    require(recipe.values)
    exchange = join(recipe.values["launch"])
    with _as_user_error(Path(recipe.values["output"])):
        return _run(recipe, registry, resume, quiet, profile, exchange)


def _run(recipe: Recipe, registry: Registry, resume: Path | bool | None, quiet: bool, profile: int, exchange: Exchange) -> int:
    with ExitStack() as held:  # the lock of the run's folder
        found = Found(**exchange.from_main(lambda: run_folder(recipe, registry, resume, held).plain()))
        return _in_folder(found, recipe, registry, quiet, profile, exchange)


def _in_folder(found: Found, recipe: Recipe, registry: Registry, quiet: bool, profile: int, exchange: Exchange) -> int:
    console = Output()
    folder, last = Path(found.folder), found.last and Path(found.last)
    total = recipe.values["train"]["updates"]
    if found.finished:
        exchange.leave()
        if exchange.main:
            console.print(found.finished, highlight=False, markup=False, soft_wrap=True)
        return 0
    take_over(recipe, found.taken_over, folder)
    with Progress(total, quiet or not exchange.main) as progress:
        progress.note(f"run folder: {folder}")
        with removed_on_failure(folder, found.new and exchange.main):
            built = build_run(recipe, registry, folder, last or None, exchange)
            between = Between(built, progress, last or None)
            _room(built)
            require_reach(built.trainer, built.start, total)
            notes = [*found.notes, *_remembered(built, registry, progress)]
            built.trainer.strategy.check_agreement("at the start")
        profiled = _profile(built, profile) if profile and exchange.main else None
        longer = go_on_with(folder, recipe, registry) if exchange.main else None
        told = [*trained_shares(built.model, built.own), *lines(built.usages), *started_from(folder), *notes]
        for line in [*told, *filter(None, [longer, slow_bfloat16(recipe.values)])]:
            progress.note(line)
        whole = strict(resolved_values(recipe, registry))  # as recipe.json has it: with the defaults, by which one may want to group
        built.trackers.start(RunInfo(folder, recipe.values["name"], whole, built.start, point_of(folder, whole), group_of(folder)))
        evaluate = recipe.values["train"]["evaluate"] == "before_and_after" and bool(built.evaluators)
        before = before_training(built, progress) if evaluate else {}
        between.take_before(before)
        with _feeds_closed(built.trainer):
            history = _train(built, between, progress, profiled)
        after = between.after(evaluate)
        exchange.leave()
        if not exchange.main:
            return 0
        summary = finish(built, before, after, history, between)
    if after:
        before_after_table(before, after, console)
    for name, value in summary.items():
        console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"finished: {folder}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _remembered(built: Run, registry: Registry, progress: Progress) -> list[str]:
    """The main rank writes down what the run is made of, or finds it to be the same; sentences for the user. Raises ``UserError``."""
    exchange = built.trainer.strategy.exchange
    with exchange.main_first("looking at the base and the data"), progress.phase("looking at the base and the data"):
        if exchange.main:
            forget_bad_samples(built.folder, built.start)
            write_left_out(built.folder / "bad_samples.jsonl", built.usages)
        return remember(built.folder, built.recipe, registry, built.datasets, built.start) if exchange.main else []


def _train(built: Run, between: Between, progress: Progress, profiled: Profile | None) -> list[dict[str, float]]:
    """Runs all updates; returns the logged values of those that were not skipped. From time to time it compares the ranks' weights.

    Raises ``Stopped`` after the update in which a signal asked any rank for it, and after saving.
    """
    with stopping.patiently():
        between.begin()
        try:
            return _updates(built, between, progress, profiled)
        finally:
            if profiled and profiled.numbers and not profiled.done:  # the run ended early
                progress.say(f"{profiled.write()}\n{profiled.folder}")


def _updates(built: Run, between: Between, progress: Progress, profiled: Profile | None) -> list[dict[str, float]]:
    exchange = built.trainer.strategy.exchange
    train, every = built.recipe.values["train"], built.recipe.values["checkpoint"]["every"]
    history: list[dict[str, float]] = []
    doubts = Doubts({f"{name}/{task}": one for name, loop in built.trainer.loops.items() for task, one in loop.tasks.items()})
    for number in range(built.start, train["updates"]):
        if between.watch.ended():
            break
        skipped, terms = built.trainer.skipped, len(built.trainer.terms)
        between.watch_batches(number)
        try:
            values = profiled.update(number) if profiled and not profiled.done else built.trainer.update(number)
        except stopping.Stopped:  # it waited for samples, and has changed nothing yet
            saved = dict(checkpoint.list_checkpoints(built.folder / "checkpoints"))
            if exchange.world == 1 and number > built.start and number not in saved:
                _save(built, number, between.watch)
            raise
        if profiled and profiled.done and profiled.made:
            progress.say(f"{profiled.write()}\n{profiled.folder}")
            profiled = None
        samples = train["batch_size"] * train["accumulate"] * built.trainer.strategy.world * len(built.trainer.schedule.loops(number))
        values["time/samples_per_s"] = samples / values["time/update_s"]
        values["memory/peak_gib"] = peak_gib(built.trainer.device)
        statistics: dict[str, float] = built.teacher.statistics() if isinstance(built.teacher, ReportsStatistics) else {}
        values |= {f"teacher/{name}": value for name, value in statistics.items()}
        better = between.evaluate(number + 1, values)
        built.trackers.log(number + 1, values)
        if exchange.main and len(built.trainer.terms) > terms:
            keep_terms(built.folder, built.trainer.terms)
        progress.update(number + 1, values, samples)
        for doubt in doubts.take(values, number + 1 == train["updates"]):
            progress.note(doubt)
        between.note(number + 1)
        between.samples(number)
        if built.trainer.skipped == skipped:
            history.append(values)
        stop = next((asked for asked in exchange.gather(stopping.asked()) if asked), None)
        save = (number + 1) % every == 0 or number + 1 == train["updates"] or stop or better or between.watch.ended()
        if save or (number + 1) % built.recipe.values["launch"]["check_every"] == 0:
            built.trainer.strategy.check_agreement(f"after update {number + 1}")
        if save:
            _save(built, number + 1, between.watch)
            _warn_of_unreached(built, number + 1, progress)
        if better:
            between.mark_best()
        if stop:
            with exchange.main_first("saving"):  # a rank that ends first must not end rank 0 while it writes
                pass
            raise stopping.Stopped(stop, f"after update {number + 1} of {train['updates']}")
    return history


def _profile(built: Run, updates: int) -> Profile:
    train = built.recipe.values["train"]
    return Profile(built.trainer, updates, train["updates"] - built.start, built.folder / "profile", train["compile"])


def _save(built: Run, update: int, watch: Watch) -> None:
    op, strategy = built.trainer.surgery.op, built.trainer.strategy
    optimizer = strategy.stepper.gathered_state()
    if not strategy.exchange.main:
        return
    state = {
        "gradient_op": op.state_dict() if isinstance(op, Stateful) else None,
        "skipped": built.trainer.skipped,
        **({"evaluations": watch.state()} if watch.history else {}),
    }
    keep, running = built.recipe.values["checkpoint"]["keep"], built.trainer.surgery.running
    mean = running.state_dict() if running else None
    checkpoint.save(built.folder / "checkpoints", update, built.groups, optimizer, built.teacher, state, keep, mean, built.own)


def _warn_of_unreached(built: Run, updates: int, progress: Progress) -> None:
    """Says once which weights that loops brought no loss has reached so far: they have stayed as they were."""
    if names := ", ".join(built.trainer.surgery.unreached):
        progress.note(f"warning: in {updates} updates no loss has reached {names}: use them in the loop's losses, or freeze them")
        built.trainer.surgery.unreached = {}


def _room(built: Run) -> None:
    """Raises ``UserError`` if the first checkpoint would not fit on the disk: at the start, not after hours."""
    if built.trainer.strategy.exchange.main:
        trained = sum(p.nbytes for members in built.trainer.strategy.groups.values() for _, p in members)
        checkpoint.check_space(
            built.folder, trained * (3 + bool(built.teacher) + bool(built.trainer.surgery.running))
        )  # with Adam's two moments


@contextmanager
def _feeds_closed(trainer: Trainer) -> Iterator[None]:
    """No loader's worker is left afterwards, also where something fails."""
    try:
        yield
    finally:
        for loop in trainer.loops.values():
            loop.feed.close()


@contextmanager
def _as_user_error(output: Path) -> Iterator[None]:
    """Errors of outside, wherever they come up in a run, become a ``UserError``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (words := _with_remains(error, output)):
            raise
        raise UserError(words) from error


def _with_remains(error: Exception, output: Path) -> str:
    """The sentence for an error of outside; empty for a fault of the program."""
    found = sentence(error, output)
    return f"{found}; checkpoints that the run has saved are untouched, --resume goes on from the last one" if found else ""
