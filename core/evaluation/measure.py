"""The work of ``core.evaluate`` in each of its processes: build, share the units, put the parts together, write the card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from core.checkpoints.hashes import sha256
from core.checkpoints.trained_weights import VARIANTS, Trained, open_file, open_run
from core.contracts import Evaluator, Item, Model, TellsLeftOut, UserError
from core.engine import checkpoint
from core.engine.evaluation import bad_reasons, measured
from core.engine.parallel.exchange import Exchange
from core.engine.progress import Output, Progress
from core.evaluation import card, store
from core.evaluation.draws import write_draws
from core.evaluation.source import Job
from core.evaluation.tracked import Tracked
from core.recipe import KeyPath, build, path_text, resolved_values
from core.recipe.recipe import nodes, plan_of
from core.registry import Registry


@dataclass
class Options:
    """Settings that do not change the result, except ``groups``."""

    out: Path
    groups: str = "full"
    max_bad: int = 0  # items of one evaluator that may be left out
    overwrite: bool = False
    device: str = "cpu"
    quiet: bool = False
    track: bool = False  # send the results to the run's trackers


def run(job: Job, registry: Registry, options: Options, exchange: Exchange) -> int:
    """Measures all that is missing and writes the cards. Returns 0; raises ``UserError``."""
    if not job.trained and (job.ablate or options.groups != "full"):
        raise UserError(f"{job.path}: ablate and --groups need what was trained: name a run or checkpoint, or a training file with --base")
    tracked = Tracked.of(job, registry) if options.track else None
    names = list(job.recipe.values["evaluate"])
    evaluators: dict[str, Evaluator] = {name: build(job.recipe, ("evaluate", name), registry) for name in names}
    if empty := [name for name, evaluator in evaluators.items() if not len(evaluator)]:
        raise UserError(f"evaluator {empty[0]}: its data set has nothing to measure; check its paths and split")
    torch.manual_seed(0)
    with exchange.main_first("building the model"):  # it may write files that the others then read
        model, trained = _open(job, registry)
    variants = _variants(model, job, options)
    if trained is not None:
        trained.use(variants[0])  # reports an unknown group before anything is written
    if isinstance(model, torch.nn.Module):
        model.to(options.device)
    left_out = {group: list(names) for group, names in model.left_out().items()} if isinstance(model, TellsLeftOut) else {}
    console = Output()
    with Progress(0, options.quiet or not exchange.main, console=console) as progress:
        claimed = exchange.from_main(lambda: _claim(job, registry, options, evaluators))
        for variant in variants:
            if trained is not None:
                trained.use(variant)
            for name, evaluator in evaluators.items():
                _measure(name, variant, evaluator, model, options, exchange, progress)
    exchange.leave()
    if exchange.main:
        for name, evaluator in evaluators.items():
            found = _finish(name, evaluator, claimed[name], variants, options, exchange, console, left_out)
            if tracked is not None:
                tracked.add(job, name, found, options.out / name)
        for line in tracked.send() if tracked is not None else []:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _open(job: Job, registry: Registry) -> tuple[Model, Trained | None]:
    """The model as the recipe has it, settings of the command line included: what the card says is what was built."""
    if job.kind == "run":
        trained = open_run(job.path, registry, job.recipe, job.weights)
        return trained.model, trained
    model: Model = build(job.recipe, ("model",), registry)
    return model, open_file(job.path, model) if job.kind == "file" else None


def _variants(model: Model, job: Job, options: Options) -> list[str]:
    if not job.ablate:
        return [options.groups]
    there = set(model.trainable())
    variants = [name for name, groups in VARIANTS.items() if name == "full" or there >= set(groups)]
    if len(variants) == 1:
        raise UserError(f"ablate=true: {job.path} trained {', '.join(sorted(there))}, of which no variant of the ablation is made")
    return variants


def _claim(job: Job, registry: Registry, options: Options, evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """Makes each evaluator's folder; returns their protocols."""
    values, places = resolved_values(job.recipe, registry), _paths(job, registry)
    for place, path in places.items():  # the same place from wherever the command is started
        inner: Any = values
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = str(path.resolve())
    weights, protocols = _weights(job, places), {}
    moved = {"checkpoint.path", *(path_text(place) for place in places if place[0] == "model")}  # their hashes count
    for name, evaluator in evaluators.items():
        folder = options.out / name
        protocol = {**weights, "protocol": {**values["evaluate"][name], "units": len(evaluator)}, "model": values["model"]}
        if options.overwrite and (folder / "protocol.json").is_file():
            shutil.rmtree(folder)
        try:
            store.claim(folder, protocol, moved)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}); choose another --out") from None
        protocols[name] = store.plain(protocol)
    return protocols


def _paths(job: Job, registry: Registry) -> dict[KeyPath, Path]:
    """The paths that the recipe gives, by their place in it."""
    return {node.path: node.value for node in nodes(plan_of(job.recipe, registry).root) if isinstance(node.value, Path)}


def _weights(job: Job, places: Mapping[KeyPath, Path]) -> dict[str, Any]:
    """Hashes of what the numbers are about: the checkpoint, and every file or folder that its model is built from."""
    files = {path_text(place): path for place, path in places.items() if place[0] == "model" and path.exists() and path != job.path}
    base = {place: sha256(path) for place, path in files.items()}
    if job.kind == "recipe":
        return {"base": base}
    weights = job.path / f"{job.weights}.safetensors" if job.kind == "run" else job.path
    if not weights.exists():
        raise UserError(f"{weights}: is gone; a run that still trains keeps its newest checkpoints only (checkpoint.keep): start again")
    found: dict[str, Any] = {"path": str(job.path.resolve()), "sha256": sha256(weights)}
    if job.kind == "run":
        found["update"] = checkpoint.update_of(job.path)
    if job.weights != "trained":
        found["weights"] = job.weights
    return {"checkpoint": found, "base": base}


def _measure(name: str, variant: str, evaluator: Evaluator, model: Model, options: Options, exchange: Exchange, progress: Progress) -> None:
    """This process's share of the units that are not there yet; ends when every process is through."""
    folder = options.out / name / variant
    todo: list[int] = exchange.from_main(lambda: store.missing(folder, len(evaluator)))
    mine = todo[exchange.rank :: exchange.world]
    bad: list[Item] = []
    label = name if variant == "full" else f"{name} [{variant}]"
    if len(todo) < len(evaluator):
        progress.note(f"{label}: {len(evaluator) - len(todo)} of {len(evaluator)} were measured before")
    if exchange.world > 1:
        label += f", process 1 of {exchange.world}"
    with model.computing(training=False), store.adding(folder, exchange.rank) as add, progress.phase(label) as callback:
        for done, unit in enumerate(mine):
            callback(done, len(mine))
            items = measured(evaluator, model, unit)
            bad += [item for item in items if "bad" in item]
            if len(bad) > options.max_bad:
                raise UserError(f"evaluator {name}: {bad_reasons(bad)}; put it right, or leave such items out with --max-bad N")
            add(unit, items)
        if mine:
            callback(len(mine), len(mine))
    exchange.gather(len(mine))


def _finish(
    name: str,
    evaluator: Evaluator,
    protocol: Mapping[str, Any],
    variants: list[str],
    options: Options,
    exchange: Exchange,
    console: Console,
    left_out: Mapping[str, list[str]],
) -> dict[str, card.Results]:
    """Everything in the evaluator's folder that is whole goes on the card, also variants that were measured before."""
    folder, found, bad = options.out / name, {}, []
    full: card.Measured | None = None
    there = {*variants, *(file.parent.name for file in folder.glob("*/items.jsonl"))}
    for variant in [*(v for v in VARIANTS if v in there), *sorted(there - set(VARIANTS))]:
        items = store.merge(folder / variant, len(evaluator))
        unusable = [item for item in items if "bad" in item]
        if len(unusable) > options.max_bad:
            hint = "put it right and use --overwrite, or leave such items out with --max-bad N"
            raise UserError(f"evaluator {name}: {bad_reasons(unusable)}; {hint}")
        whole = card.Measured.of(name, evaluator, items)
        write_draws(folder / variant, items, whole.draws)
        found[variant] = card.results(whole, full)
        full = whole if variant == "full" else full  # it comes first
        bad += unusable
        card.sheet(folder / variant / "sheet.png", card.result_name(name, variant), evaluator, items)
    facts = {"device": options.device, "processes": exchange.world, "left_out": left_out}
    card.write_card(folder, name, protocol, found, bad, facts)
    card.show(console, card.title(name, protocol), found)
    console.print(f"{folder / 'card.md'}", highlight=False, markup=False, soft_wrap=True)
    return found
