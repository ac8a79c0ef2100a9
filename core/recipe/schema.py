"""The keys of a recipe that belong to no component. Components bring their own, from their constructors' signatures."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from core.contracts import Dataset, Evaluator, GradientOp, Loop, Model, OptimizerFactory, Precision, Schedule, Teacher, Tracker, Within
from core.recipe.faults import DEFAULT, KeyPath, Origin


@dataclass(frozen=True)
class EngineKeys:
    """Keys that stand among a component's own but are the engine's: name -> type; ``optional`` ones may be absent."""

    types: dict[str, Any] = field(default_factory=dict)
    optional: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"with {', '.join([*self.types, *self.optional])}"


#: ``weight``: the source's share of its loop's samples, relative to the other sources'; without it, its number of samples.
Source = Annotated[Dataset, EngineKeys(optional={"weight": Annotated[float, Within(0)]})]
Sources = Annotated[dict[str, Source], Within(1)]
Task = Annotated[Loop, EngineKeys({"data": Sources})]
#: ``by``: whose gradients the op sees, each loop's (the default) or each task's, called LOOP/TASK. ``own_weights``: whether weights that
#: components bring are ``apart`` from it (the default: their gradients are summed) or in ``surgery`` like the model's groups.
Surgery = Annotated[GradientOp, EngineKeys(optional={"by": Literal["loop", "task"], "own_weights": Literal["apart", "surgery"]})]


@dataclass(frozen=True)
class LoopEntry:
    tasks: Annotated[dict[str, Task], Within(1)]  # by name: a loop component and its `data`
    weight: Annotated[float, Within(0)] = 1.0  # of the loop's gradient, e.g. beta for loop 2


@dataclass(frozen=True)
class Train:
    updates: Annotated[int, Within(1)]  # optimizer steps
    batch_size: Annotated[int, Within(1)]  # regions in a micro-batch, per process and loop
    accumulate: Annotated[int, Within(1)] = 1  # micro-batches of a loop in an update
    clip_norm: Annotated[float, Within(0)] = 1.0  # largest norm of an update's gradient, all groups together; `.inf` never clips
    precision: Precision = "auto"  # of the training forwards; auto: what the model's dtype asks for. Trained weights stay float32
    group_pictures: bool = False  # regions of one picture follow each other, so that a batch encodes it once
    activation_checkpointing: bool = False  # of the model's layers: less memory, one more forward
    compile: bool = False  # the model's layers with torch.compile, in the forwards that train
    workers: Annotated[int, Within(0)] = 0  # that load data, for each process and all its loops; 0 prepares samples in the main process
    prefetch_gib: Annotated[float, Within(0)] = 2.0  # of samples that workers prepare ahead for each process; one micro-batch at least
    max_bad_fraction: Annotated[float, Within(0, 1)] = 0.01  # of a source's samples, before the run stops
    max_bad_updates: Annotated[int, Within(0)] = 0  # with a loss or gradient of NaN or Inf, skipped before the run stops
    evaluate: Literal["none", "before_and_after"] = "none"  # within the run; `core.evaluate` measures it later
    evaluate_every: Annotated[int, Within(1)] | None = None  # updates; the evaluators of `evaluate`, by all processes together
    patience: Annotated[int, Within(1)] | None = None  # evaluations without a better `checkpoint.best`, after which training ends
    samples_every: Annotated[int, Within(1)] | None = None  # updates; what the loops make of a few samples, as texts and masks
    samples: Annotated[int, Within(1)] = 4  # how many of each task are shown then


@dataclass(frozen=True)
class Checkpoint:
    every: Annotated[int, Within(1)]  # updates
    keep: Annotated[int, Within(1)] = 3  # the newest ones
    best: str | None = None  # a metric, EVALUATOR/METRIC: the checkpoint of its best evaluation is kept beside the newest ones
    best_is: Literal["highest", "lowest"] = "highest"  # which value of it is good
    export: bool = False  # at the end, write the trained model in its published layout to RUN_FOLDER/export


@dataclass(frozen=True)
class Launch:
    strategy: Literal["single", "ddp", "deepspeed", "fsdp2"] = "single"  # how several processes share the work
    zero_stage: Annotated[int, Within(1, 2)] = 2  # of deepspeed; stage 0 is ddp
    processes: Annotated[int, Within(1)] = 1  # of all machines together
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is a GPU, else cpu; one GPU for each process
    check_every: Annotated[int, Within(1)] = 50  # updates, after which the ranks' weights are compared; also at every checkpoint
    timeout_s: Annotated[int, Within(1)] = 1800  # how long a rank waits for the others in an exchange
    requeue: bool = False  # after SIGTERM or SIGUSR1 exit with 0; the same command goes on with the newest unfinished run


@dataclass(frozen=True)
class RecipeSchema:
    recipe: Literal[1]  # version of this format
    name: str  # run folders are called NAME-TIME; W&B groups its runs by it
    seed: Annotated[int, Within(0)]  # of the samples' order, all noise and new weights
    model: Model  # and which of its parameter groups are trained
    loops: Annotated[dict[str, LoopEntry], Within(1)]  # by name: tasks, their data, and the loop's weight
    optimizer: OptimizerFactory  # with its learning rate and schedule
    train: Train
    checkpoint: Checkpoint
    output: str = "runs"  # folder in which run folders are made
    start_from: Path | None = None  # a run or one of its checkpoints, whose trained weights this run begins with
    teacher: Teacher | None = None  # writes the captions of mask_caption_mask: an average of the student, or another model
    gradient: Surgery = field(default_factory=lambda: typing.cast(GradientOp, {"use": "sum"}))  # makes one update of all gradients
    schedule: Schedule = field(default_factory=lambda: typing.cast(Schedule, {"use": "alternate"}))  # which loops, when
    evaluate: dict[str, Evaluator] = field(default_factory=dict)  # by name; `train.evaluate` and `core.evaluate` use them
    track: dict[str, Tracker] = field(default_factory=dict)  # by name; `metrics.jsonl` is written without being asked
    launch: Launch = field(default_factory=Launch)
    data: dict[str, Any] = field(default_factory=dict)  # variables for ${data.name}


def fill_defaults(values: dict[str, Any], origins: dict[KeyPath, Origin]) -> None:
    """Adds the top-level defaults to a recipe's values, in place; what has the wrong shape is left for the check."""
    loops = values.get("loops")
    if "schedule" not in values:  # all loops in every update, as they stand in the recipe
        values["schedule"] = {"use": "alternate", "order": list(loops) if isinstance(loops, dict) else []}
        origins[("schedule",)] = DEFAULT
    _fill(RecipeSchema, values, origins, ())
    for name, entry in loops.items() if isinstance(loops, dict) else ():
        if isinstance(entry, dict):
            _fill(LoopEntry, entry, origins, ("loops", name))


def _fill(cls: Any, values: dict[str, Any], origins: dict[KeyPath, Origin], path: KeyPath) -> None:
    hints = typing.get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        here = (*path, entry.name)
        if entry.name not in values:
            default = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
            if default is dataclasses.MISSING:
                continue
            values[entry.name] = {} if dataclasses.is_dataclass(default) else default
            origins[here] = DEFAULT
        if dataclasses.is_dataclass(hints[entry.name]) and isinstance(values[entry.name], dict):
            _fill(hints[entry.name], values[entry.name], origins, here)


def drop_removed(values: dict[str, Any]) -> None:
    """``track.wandb=null`` takes a named entry away, in place: nulls in mappings of the user's own names."""
    _drop_nulls(values.get("track"))
    _drop_nulls(values.get("evaluate"))
    for entry in _drop_nulls(values.get("loops")):
        for task in _drop_nulls(entry.get("tasks")):
            _drop_nulls(task.get("data"))


def _drop_nulls(named: Any) -> list[dict[str, Any]]:
    """Removes the null entries; returns the entries that are mappings."""
    if not isinstance(named, dict):
        return []
    for name in [name for name, value in named.items() if value is None]:
        del named[name]
    return [value for value in named.values() if isinstance(value, dict)]
