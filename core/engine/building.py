"""Builds the parts of a run that its recipe names, at the update where it begins or goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.checkpoints.start import start_weights
from core.contracts import Dataset, ElementWise, Evaluator, KeepsRunningGradient, Loop, Model, Schedule, Stateful, Teacher, Usage, UserError
from core.engine import checkpoint
from core.engine.feed import Feed, Supply, ahead
from core.engine.launch import device_of
from core.engine.memory import require_room
from core.engine.moving import MovingValue
from core.engine.noise import derived_seed
from core.engine.own_weights import Named, move_to, own_weights, refuse_untrained
from core.engine.parallel.exchange import Alone, Exchange
from core.engine.parallel.gradients import Groups
from core.engine.parallel.strategy import Strategy, make_strategy
from core.engine.parallel.transforms import transform
from core.engine.plan import Plan, Source, needs_of
from core.engine.running_gradient import RunningGradient
from core.engine.surgery import Surgery
from core.engine.teaching import teacher_preparation
from core.engine.tracking import Trackers
from core.engine.update import LoopSetup, Trainer, advance
from core.engine.usage import usages_of
from core.recipe import Recipe, build, moving_numbers, path_text
from core.recipe.faults import KeyPath
from core.registry import Registry


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
    groups: Groups  # the model's trained weights
    own: Groups  # weights that loops brought themselves, by the key path of their task
    datasets: dict[KeyPath, Dataset]  # the sources and the data sets inside them, by their place in the recipe
    usages: dict[str, list[Usage]]  # key path of each data set -> how much of its sources it uses


def build_run(recipe: Recipe, registry: Registry, folder: Path, last: Path | None, exchange: Exchange | None = None) -> Run:
    """The run of a checked recipe in ``folder``, going on from the checkpoint ``last`` if there is one."""
    exchange = exchange or Alone()
    values, seed = recipe.values, recipe.values["seed"]
    train, launch = values["train"], values["launch"]
    if device_of(launch) == "cpu":
        _sums_in_one_order()
    require_room(recipe, registry)
    torch.manual_seed(derived_seed(seed, "weights"))  # fresh adapters are drawn from it
    with exchange.main_first("building the model"):  # it may write files that the others then read
        model: Model = build(recipe, ("model",), registry)
    if isinstance(model, torch.nn.Module):
        transform(model, values, exchange)
    groups = model.trainable()
    refuse_untrained(model, "model", groups)
    if last is None:
        start_weights(recipe, registry, groups, folder, exchange)
    parts: dict[KeyPath, Any] = {}
    tasks, own = _tasks(recipe, registry, parts)
    factory = build(recipe, ("optimizer",), registry)
    optimizer, rate = factory.build(groups | own, train["updates"])
    surgery, schedule, by_task = _surgery(recipe, registry, groups, own, parts)
    most = sum(map(len, tasks.values())) if by_task else len(tasks)
    strategy = make_strategy(launch, groups | own, optimizer, train["clip_norm"], exchange, most)
    teacher: Teacher | None = build(recipe, ("teacher",), registry, parts) if values.get("teacher") else None
    if teacher is not None:
        move_to(teacher, device_of(launch))
        teacher.start(groups)
    for where, component in {"teacher": teacher, "gradient": surgery.op, "schedule": schedule, "optimizer": factory}.items():
        refuse_untrained(component, where, groups | own)
    start, skipped = 0, 0
    if last is not None:
        optimizer_state = strategy.stepper.gathered_state()
        state = checkpoint.load(last, groups, optimizer_state, teacher, own)
        strategy.stepper.take_state(optimizer_state)
        start, skipped = state["update"], state.get("skipped", 0)
        advance(rate, start)
        if isinstance(surgery.op, Stateful):
            surgery.op.load_state_dict(state["gradient_op"])
        if surgery.running:
            surgery.running.load_state_dict(checkpoint.load_running(last))
    datasets: dict[KeyPath, Any] = {}
    loops = _loops(recipe, registry, datasets, tasks, schedule, start, strategy, model, teacher, folder)
    parts |= datasets
    trackers = {name: build(recipe, ("track", name), registry) for name in values["track"] if exchange.main}
    if exchange.main and not any(tracker["use"] == "jsonl" for tracker in values["track"].values()):
        trackers["metrics.jsonl"] = registry.get("trackers", "jsonl").object()  # always on, whatever the recipe's trackers are called
    evaluators = {name: build(recipe, ("evaluate", name), registry, parts) for name in values["evaluate"]}
    for name, evaluator in evaluators.items():
        refuse_untrained(evaluator, f"evaluate.{name}", groups | own)
    trainer = Trainer(model, loops, teacher, surgery, schedule, strategy, rate, seed, device_of(launch), train["precision"], folder)
    trainer.max_bad_updates, trainer.skipped, trainer.by_task = train["max_bad_updates"], skipped, by_task
    owners = parts | {("loops", name): loop for name, loop in loops.items()}
    trainer.moving = [MovingValue(path, owners[path[:-1]], moving) for path, moving in moving_numbers(recipe, registry).items()]
    used = usages_of(parts)
    return Run(recipe, folder, model, teacher, trainer, evaluators, Trackers(trackers), optimizer, start, groups, own, datasets, used)


def _tasks(recipe: Recipe, registry: Registry, parts: dict[KeyPath, Any]) -> tuple[dict[str, dict[str, Loop]], dict[str, Named]]:
    """(loop -> task -> component, the weights of their own: a group for each task that has some, named by its key path)."""
    tasks: dict[str, dict[str, Loop]] = {}
    own: dict[str, Named] = {}
    for name, loop in recipe.values["loops"].items():
        tasks[name] = {}
        for task in loop["tasks"]:
            path: KeyPath = ("loops", name, "tasks", task)
            torch.manual_seed(derived_seed(recipe.values["seed"], "weights", *path))  # the same on all ranks
            component = tasks[name][task] = build(recipe, path, registry, parts)
            move_to(component, device_of(recipe.values["launch"]))
            try:
                weights = own_weights(component)
            except UserError as error:
                raise UserError(f"{recipe.origin(path)}: {path_text(path)}: {error}") from None
            if weights:
                own[path_text(path)] = weights
    return tasks, own


def _loops(
    recipe: Recipe,
    registry: Registry,
    datasets: dict[KeyPath, Any],
    tasks: Mapping[str, Mapping[str, Loop]],
    schedule: Schedule,
    start: int,
    strategy: Strategy,
    model: Model,
    teacher: Teacher | None,
    folder: Path,
) -> dict[str, LoopSetup]:
    """The loops with their data, which is added to ``datasets`` by key path; the workers that load it are started."""
    values, train = recipe.values, recipe.values["train"]
    plans: dict[str, Plan] = {}
    for name, loop in values["loops"].items():
        sources = [
            Source(
                name,
                task,
                source,
                build(recipe, ("loops", name, "tasks", task, "data", source), registry, datasets),
                needs_of(tasks[name][task]),
                entry.get("weight"),
            )
            for task, setting in loop["tasks"].items()
            for source, entry in setting["data"].items()
        ]
        plans[name] = Plan(sources, values["seed"], train["batch_size"] * train["accumulate"] * strategy.world, train["group_pictures"])
    supply = Supply(
        plans,
        model.preparation,
        ((update, name) for update in range(start, train["updates"]) for name in schedule.loops(update)),
        train["batch_size"],
        strategy.rank,
        strategy.world,
        ahead(train),
        teacher_preparation=teacher_preparation(teacher, model),
        pinned=device_of(values["launch"]) == "cuda",
    )
    record = folder / f"bad_samples{f'.rank{strategy.rank}' if strategy.rank else ''}.jsonl"
    return {
        name: LoopSetup(name, loop["weight"], tasks[name], Feed(name, supply, train["max_bad_fraction"], record))
        for name, loop in values["loops"].items()
    }


def _surgery(recipe: Recipe, registry: Registry, groups: Groups, own: Groups, parts: dict[KeyPath, Any]) -> tuple[Surgery, Schedule, bool]:
    """The gradient op with what it sees, the schedule, and whether each task has a gradient of its own."""
    setting = recipe.values["gradient"]
    op, schedule = build(recipe, ("gradient",), registry, parts), build(recipe, ("schedule",), registry)
    apart = frozenset() if setting.get("own_weights") == "surgery" else frozenset(own)
    surgery, by_task = Surgery(op, recipe.values["seed"], apart), setting.get("by") == "task"
    surgery.unreached = {f"{group}/{name}": parameter for group, members in own.items() for name, parameter in members}
    if isinstance(schedule, KeepsRunningGradient):
        if by_task or isinstance(op, ElementWise):
            what = "gradient.by=task" if by_task else f"gradient.use={setting['use']}, number by number"
            raise UserError(f"{recipe.origin(('schedule',))}: schedule: keeping a loop's running gradient does not go with {what}")
        surgery.running = RunningGradient({**groups, **own}, *schedule.running)
    return surgery, schedule, by_task


def _sums_in_one_order() -> None:
    """Without this setting, several threads sum the gradient of an indexed row in a different order each time.

    Not on GPUs: there some operators (``grid_sample``'s backward) have no such form.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would cost time


def trained_shares(model: Model, own: Groups) -> Iterator[str]:
    """What is trained: each group's parameters and their share of the model's; and the weights that loops brought."""
    numbers = {group: sum(p.numel() for _, p in members) for group, members in model.trainable().items()}
    whole = sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else 0
    for group, number in {**numbers, "in all": sum(numbers.values())}.items():
        share = f", {number / whole:.2%} of {whole:,}" if whole else ""
        yield f"trained: {group}, {number:,} parameters{share}"
    for group, members in own.items():
        yield f"trained: {group}, {sum(p.numel() for _, p in members):,} parameters of its own, outside the model"
