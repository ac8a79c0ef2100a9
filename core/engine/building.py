"""Builds the parts of a run that its recipe names, at the update where it begins or goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.contracts import Evaluator, KeepsRunningGradient, Loop, Model, Stateful, Teacher, UserError
from core.engine import checkpoint
from core.engine.feed import Feed
from core.engine.noise import derived_seed
from core.engine.parallel.exchange import Alone, Exchange
from core.engine.parallel.strategy import make_strategy
from core.engine.parallel.table import STRATEGIES
from core.engine.parallel.transforms import transform
from core.engine.plan import Plan, Source
from core.engine.running_gradient import RunningGradient
from core.engine.tracking import Trackers
from core.engine.update import LoopSetup, Trainer, advance
from core.recipe import Recipe, build
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


def sharded_trains_only(values: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where a strategy that shards the model is asked for something that needs the whole model in one process."""
    strategy = values["launch"]["strategy"]
    if not STRATEGIES[strategy].shards_model:
        return
    asked = ["train.evaluate=none"] if values["train"]["evaluate"] != "none" else []
    asked += [f"train.{key}=null" for key in ("evaluate_every", "samples_every") if values["train"][key]]
    asked += ["checkpoint.export=false"] if values["checkpoint"]["export"] else []
    if asked:
        raise UserError(
            f"with launch.strategy={strategy} no process holds the whole model: set {' and '.join(asked)}, then evaluate or export the run "
            "afterwards, python -m core.evaluate or python -m core.convert"
        )


def build_run(recipe: Recipe, registry: Registry, folder: Path, last: Path | None, exchange: Exchange | None = None) -> Run:
    """The run of a checked recipe in ``folder``, going on from the checkpoint ``last`` if there is one."""
    exchange = exchange or Alone()
    values, seed = recipe.values, recipe.values["seed"]
    train, launch = values["train"], values["launch"]
    if launch["device"] == "cpu":
        _sums_in_one_order()
    torch.manual_seed(derived_seed(seed, "weights"))  # fresh adapters are drawn from it
    with exchange.main_first("building the model"):  # it may write files that the others then read
        model: Model = build(recipe, ("model",), registry)
    if isinstance(model, torch.nn.Module):
        transform(model, values, exchange)
    groups = model.trainable()
    optimizer, rate = build(recipe, ("optimizer",), registry).build(groups, train["updates"])
    strategy = make_strategy(launch, groups, optimizer, train["clip_norm"], exchange, len(values["loops"]))
    teacher: Teacher | None = build(recipe, ("teacher",), registry) if values.get("teacher") else None
    if teacher is not None:
        teacher.start(groups)
    op = build(recipe, ("gradient",), registry)
    start, skipped = 0, 0
    if last is not None:
        optimizer_state = strategy.stepper.gathered_state()
        state = checkpoint.load(last, groups, optimizer_state, teacher)
        strategy.stepper.take_state(optimizer_state)
        start, skipped = state["update"], state.get("skipped", 0)
        advance(rate, start)
        if isinstance(op, Stateful):
            op.load_state_dict(state["gradient_op"])
    schedule, loops = build(recipe, ("schedule",), registry), {}
    running = RunningGradient(groups, *schedule.running) if isinstance(schedule, KeepsRunningGradient) else None
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
    trackers = {name: build(recipe, ("track", name), registry) for name in values["track"] if exchange.main}
    if exchange.main and not any(tracker["use"] == "jsonl" for tracker in values["track"].values()):
        trackers["metrics.jsonl"] = registry.get("trackers", "jsonl").object()  # always on, whatever the recipe's trackers are called
    evaluators = {name: build(recipe, ("evaluate", name), registry) for name in values["evaluate"]}
    trainer = Trainer(model, loops, teacher, op, schedule, strategy, rate, seed, launch["device"], train["precision"], folder)
    trainer.max_bad_updates, trainer.skipped, trainer.running = train["max_bad_updates"], skipped, running
    return Run(recipe, folder, model, teacher, trainer, evaluators, Trackers(trackers), optimizer, start)


def _sums_in_one_order() -> None:
    """Without this setting, several threads sum the gradient of an indexed row in a different order each time.

    Not on GPUs: there some operators (``grid_sample``'s backward) have no such form.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would cost time


def trained_shares(model: Model) -> Iterator[str]:
    """What is trained: each group's parameters and their share of the model's."""
    numbers = {group: sum(p.numel() for _, p in members) for group, members in model.trainable().items()}
    whole = sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else 0
    for group, number in {**numbers, "in all": sum(numbers.values())}.items():
        share = f", {number / whole:.2%} of {whole:,}" if whole else ""
        yield f"trained: {group}, {number:,} parameters{share}"
