"""What an evaluation is asked for: which model, which evaluators with which settings. Importing this does not import torch."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core.checkpoints.made_of import base_setting
from core.checkpoints.model_files import Weights, holds_trained_tensors_only, model_entry, refuse_other_folder
from core.checkpoints.own_recipe import own_recipe
from core.contracts import Evaluator, Model, UserError, Within
from core.engine.best import named_best
from core.installed.shipped import find_recipe, recipe_names
from core.recipe import Recipe, check, load
from core.recipe.faults import COMMAND_LINE
from core.recipe.interpolate import resolve
from core.recipe.plan import Planner
from core.recipe.recipe import Plan
from core.recipe.source import Source, override
from core.registry import Component, Registry


@dataclass(frozen=True)
class Asked:
    """The part of a recipe that an evaluation needs."""

    model: Model
    evaluate: Annotated[dict[str, Evaluator], Within(1)]


@dataclass
class Job:
    """``recipe`` is cut down to ``model`` and ``evaluate``, and checked."""

    recipe: Recipe
    kind: str  # "run", "file", "folder" (published) or "recipe"
    path: Path  # the checkpoint, file, folder or recipe
    out: Path  # the default place of the results
    file: Path | None = None  # the recipe it comes from
    base: Path | None = None  # of a training file
    ablate: bool = False
    weights: Weights = "trained"  # of a run's checkpoint
    groups: str = "full"  # those that are asked for

    @property
    def trained(self) -> bool:
        """Whether the values before and after training are both known."""
        return self.kind in ("run", "file")


def read_job(
    source: Path,
    use: str | None,
    data: str | None,
    base: Path | None,
    pairs: Sequence[str],
    registry: Registry,
    weights: Weights = "trained",
    groups: str = "full",
) -> tuple[Job, list[str]]:
    """The job, and the faults of its settings as lines. Raises ``UserError`` for a source that cannot be evaluated.

    ``pairs`` are ``key=value``: with dots a key path of the recipe, without dots a parameter of the evaluators, else of their
    data sets; ``ablate`` is the command's own.
    """
    settings = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    if broken := [pair for pair in pairs if "=" not in pair or pair.startswith("=")]:
        raise UserError(f"{broken[0]!r} is no setting: write key=value, e.g. max_samples=100")
    ablate = settings.pop("ablate", "false")
    if ablate not in ("true", "false"):
        raise UserError(f"ablate={ablate}: write ablate=true or ablate=false")
    job = _job(source, base, registry)
    job.groups = groups
    job.ablate, job.weights = ablate == "true", weights
    if weights == "teacher":
        if job.kind != "run":
            raise UserError(f"--weights teacher needs a run or one of its checkpoints; {source} is none")
        job.out = job.out.with_name(f"{job.out.name}-teacher")
    dotted = [f"{key}={value}" for key, value in settings.items() if "." in key]
    if base is not None and job.kind == "run" and job.file is not None:
        dotted.append(base_setting(job.file.parent, own_recipe(job.file.parent), base, registry))
    short = {key: value for key, value in settings.items() if "." not in key}
    if data is not None and use is None:
        raise UserError("--data goes with --use: name the evaluator too, e.g. --use refcoco --data refcoco")
    if use is not None:
        name = _name(use, data, short, registry)
        entry = {"use": use} | ({"data": {"use": data}} if data else {})
        dotted.insert(0, f"evaluate={{{name}: {json.dumps(entry)}}}")
        names: list[str] | None = [name]
    else:
        names = None
    recipe = _recipe(job, dotted, registry)
    entries = {key: value for key, value in _mapping(recipe.values, "evaluate").items() if names is None or key in names}
    if not entries and recipe.readable:
        example = "--use refcoco --data refcoco root=DATA/ref_seg split=val"
        raise UserError(f"{source}: its recipe names no evaluator; choose one, e.g. {example}")
    dotted += [f"{path}={value}" for key, value in short.items() for path in _places(key, entries, registry)]
    job.recipe = _recipe(job, dotted, registry)
    return job, _cut(job.recipe, list(entries), registry)


def _job(source: Path, base: Path | None, registry: Registry) -> Job:
    if not source.exists() and source.name in recipe_names():
        source = find_recipe(source)
    source = named_best(source)
    if not source.exists():
        near = difflib.get_close_matches(str(source), recipe_names(), n=1)
        hint = f"did you mean the recipe {near[0]!r}?" if near else f"the recipes that come with dualloop are {', '.join(recipe_names())}"
        what = "name a run, a checkpoint, a published folder, a training file .pth or a recipe"
        raise UserError(f"{source}: not found; {what}; {hint}")
    nothing = Recipe(source, {}, {}, [])
    if source.is_file() and source.suffix in (".yaml", ".yml"):
        job = Job(nothing, "recipe", source, Path("evaluations") / source.stem, source)
    elif holds_trained_tensors_only(source):
        return Job(nothing, "file", source, Path("evaluations") / source.stem, base=base)
    elif (source / "config.json").is_file():
        job = Job(nothing, "folder", source, Path("evaluations") / source.resolve().name)
    else:
        from core.checkpoints.trained_weights import find_checkpoint, is_run  # late: it imports torch

        if not is_run(source):
            refuse_other_folder(source, registry)
        checkpoint, recipe = find_checkpoint(source)
        job = Job(nothing, "run", checkpoint, recipe.parent / "evaluation" / checkpoint.name, recipe)
    if base is not None and job.kind != "run":
        raise UserError(f"--base goes with a training file, adapters or a run; {source} knows its base itself")
    return job


def _recipe(job: Job, overrides: Sequence[str], registry: Registry) -> Recipe:
    if job.file is not None:
        return own_recipe(job.file.parent, overrides) if job.kind == "run" else load(job.file, overrides)
    source = Source(origins={(): COMMAND_LINE})
    for text in (f"model={json.dumps(model_entry(job.path, job.base, registry, job.groups))}", *overrides):
        override(source, text)
    values, broken = resolve(source)
    return Recipe(job.path, values, source.origins, source.faults, broken, typed=source.typed, notes=source.notes)


def _cut(recipe: Recipe, names: list[str], registry: Registry) -> list[str]:
    """Leaves only the model and the named evaluators in ``recipe``; the faults of these as lines."""
    chosen = {("evaluate", name) for name in names}
    recipe.faults = [fault for fault in recipe.faults if not fault.path or fault.path[0] == "model" or fault.path[:2] in chosen]
    given = _mapping(recipe.values, "evaluate")
    recipe.values = {"model": recipe.values.get("model"), "evaluate": {name: given[name] for name in names if name in given}}
    planner = Planner(registry, recipe.locate, recipe.broken, recipe.from_environment, recipe.foreign, recipe.typed)
    root = planner.plan(Asked, recipe.values, ())
    recipe.take_texts(planner.taken)
    planner.close()
    recipe.leave_out(planner.left_out)
    recipe.plans[registry] = Plan(root, planner.faults)
    return [str(fault) for fault in check(recipe, registry)]


def _mapping(values: Any, key: str) -> dict[str, Any]:
    inner = values.get(key) if isinstance(values, Mapping) else None
    return dict(inner) if isinstance(inner, Mapping) else {}


def _component(registry: Registry, kind: str, entry: Any) -> Component | None:
    """The component that a recipe's entry names; None where it names none, which the check reports."""
    name = entry.get("use") if isinstance(entry, Mapping) else None
    return registry.get(kind, name) if isinstance(name, str) else None


def _places(key: str, entries: Mapping[str, Any], registry: Registry) -> list[str]:
    """The key paths that a short key means. Raises ``UserError`` where no evaluator and no data set takes it."""
    places, known = [], {"ablate"}
    for name, entry in entries.items():
        for kind, inner, path in (("evaluators", entry, ""), ("datasets", _mapping(entry, "data"), "data.")):
            component = _component(registry, kind, inner)
            takes = {parameter.name for parameter in component.parameters} - {"data"} if component else set()
            known |= takes
            if key in takes:
                places.append(f"evaluate.{name}.{path}{key}")
                break  # the evaluator's own parameter comes before its data set's
    if not places:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise UserError(f"no evaluator or data set here takes {key!r}: {hint}")
    return places


def _name(use: str, data: str | None, short: Mapping[str, str], registry: Registry) -> str:
    """``refcoco-refcocog-umd-val``: the evaluator with the data set's choices, so that two of them do not share a place."""
    registry.get("evaluators", use)  # reports an unknown name
    component = registry.get("datasets", data) if data else None
    choices = [p.name for p in component.parameters if typing.get_origin(p.type) is typing.Literal] if component else []
    data_name = [data] if data and data != use else []
    return "-".join(re.sub(r"[^\w+-]+", "_", part) for part in [use, *data_name, *(short[name] for name in choices if name in short)])
