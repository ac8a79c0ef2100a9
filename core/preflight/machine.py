"""Paths, the model's sizes, devices and disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from core.contracts import UserError
from core.cores import cores
from core.engine.identity import identities
from core.engine.launch import device_of
from core.engine.memory import facts_of, teacher_models
from core.preflight.data import Drawn, value_at
from core.preflight.finding import Facts, Finding, size
from core.recipe import KeyPath, Recipe, components_used, path_report, path_text
from core.recipe.missing import variable_of
from core.registry import Registry


def paths(recipe: Recipe, registry: Registry) -> Iterator[Finding]:
    """Whether each path of the recipe is there and can be read, and the output folder written."""
    for key, path, found, origin in path_report(recipe, registry):
        if not found:
            yield Finding("fail", key, f"{path} does not exist (given at {origin}){variable_of(recipe, key)}")
        elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            yield Finding("fail", key, f"{path} cannot be read by this user")
        else:
            yield Finding("pass", key, f"{path} found")
    parent = _existing(Path(recipe.values["output"]))
    if not os.access(parent, os.W_OK | os.X_OK):
        yield Finding("fail", "output", f"{parent} cannot be written by this user")


def model_facts(recipe: Recipe, registry: Registry, path: KeyPath = ("model",)) -> tuple[Facts, Finding]:
    """The facts that a model's component gives (``TellsFacts``) for its keys of the recipe."""
    name = path_text(path)
    try:
        facts = dict(facts_of(recipe, registry, path))
    except (UserError, OSError, ValueError, KeyError, TypeError) as fault:
        return {}, Finding("fail", name, str(fault))
    if not facts:
        entry = dict(components_used(recipe, registry))[path].entry
        return {}, Finding("warn", name, f"{entry.name} gives no facts: sizes and caption lengths are unknown")
    total = facts["parameters"]
    trained = ", ".join(f"{group} {count:,} ({count / total:.2%})" for group, count in facts["trained"].items())
    return facts, Finding("pass", name, f"{total:,} parameters; trained: {trained}")


def teacher_facts(recipe: Recipe, registry: Registry) -> list[tuple[Facts, Finding]]:
    """The same of each model that the teacher brings along; it trains none of them."""
    found = [model_facts(recipe, registry, path) for path in teacher_models(recipe, registry)]
    return [(facts, replace(one, text=one.text.partition("; trained:")[0])) for facts, one in found]


def answers(facts: Facts) -> Iterator[Finding]:
    """Whether the model's [SEG] token can be emitted and learned, and what its file leaves out, if its component says so."""
    for fact in ("seg", "left_out"):
        if fact in facts:
            status, text = facts[fact]
            yield Finding(status, "model", text)


def known(recipe: Recipe, registry: Registry) -> Iterator[Finding]:
    """Which known models the recipe names, as far as their components say."""
    for path, text in identities(recipe, registry):
        yield Finding("pass", path_text(path), text)


def epochs(recipe: Recipe, drawn: list[Drawn]) -> Iterator[Finding]:
    """Updates in an epoch of each loop, and how many epochs the run makes."""
    train, launch = recipe.values["train"], recipe.values["launch"]
    batch = train["batch_size"] * train["accumulate"] * launch["processes"]
    for loop in recipe.values["loops"]:
        sources = [one for one in drawn if one.path[:2] == ("loops", loop) and not one.nested]
        regions = sum(len(one.dataset) for one in sources)
        if not regions:
            continue
        data = [source for task in recipe.values["loops"][loop]["tasks"].values() for source in task["data"].values()]
        whole = sum(source.get("weight") or 0.0 for source in data)
        if not whole:
            text = f"{regions:,} regions / {batch} = {regions / batch:,.1f} updates an epoch; the run makes {train['updates']:,}"
            yield Finding("pass", f"loops.{loop}", f"{text}: {train['updates'] * batch / regions:.2f} epochs if it takes part in each")
            continue
        for one in sources:
            share, count = value_at(recipe.values, one.path)["weight"] / whole, len(one.dataset)
            text = f"{share:.1%} of {loop}'s samples by weight ({count / regions:.1%} by size); {count:,} regions"
            epochs = train["updates"] * batch * share / max(count, 1)
            yield Finding("pass", path_text(one.path), f"{text}: {epochs:.2f} epochs if it takes part in each update")


def devices(recipe: Recipe, card: float | None = None) -> Iterator[Finding]:
    """What the recipe asks of the machine and what there is. ``card``: of another machine, whose cards have so many GB."""
    launch, precision = recipe.values["launch"], recipe.values["train"]["precision"]
    if card is not None:
        yield Finding("pass", "launch", f"{launch['processes']} GPUs of {card:g} GB, on another machine")
    elif device_of(launch) == "cuda":
        found = torch.cuda.device_count()
        status = "pass" if found >= launch["processes"] else "fail"
        yield Finding(status, "launch", f"{launch['processes']} GPUs asked for, {found} found")
        if found and precision == "bf16" and not torch.cuda.is_bf16_supported():
            yield Finding("warn", "train.precision", "this GPU computes bf16 in software only")
    else:
        yield Finding("pass", "launch", f"{launch['processes']} process{'es' if launch['processes'] > 1 else ''} on the CPU")
    if card is not None:
        return
    here, wanted = cores(), launch["processes"] * (recipe.values["train"]["workers"] or 1)
    yield Finding("warn" if wanted > here else "pass", "train.workers", f"{wanted} processes prepare samples on {here} cores")


def disk(recipe: Recipe, facts: Facts, teachers: Sequence[Facts] = ()) -> Iterator[Finding]:
    """Disk for checkpoints, from the numbers of parameters. ``teachers``: models that the teacher brings."""
    free = shutil.disk_usage(_existing(Path(recipe.values["output"]))).free
    if not facts:
        yield Finding("warn", "checkpoint", f"{size(free)} free in {recipe.values['output']}; the model's size is unknown")
        return
    trained, total = sum(facts["trained"].values()), facts["parameters"]
    teacher = 4 * trained if recipe.values.get("teacher") and not teachers else 0  # an average of the student
    keep, export = recipe.values["checkpoint"]["keep"], recipe.values["checkpoint"]["export"]
    one = 12 * trained + teacher  # float32 weights and Adam's two moments
    disk = (keep + 1) * one + (total * facts["frozen_bytes"] if export else 0)  # one more while the newest is written
    text = f"{keep} + 1 checkpoints of {size(one)}{' and the export' if export else ''}: {size(disk)} of {size(free)} free"
    yield Finding("fail" if disk > free else "warn" if 2 * disk > free else "pass", "checkpoint", text)


def _existing(path: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
