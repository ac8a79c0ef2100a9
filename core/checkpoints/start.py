"""A run that begins with another run's trained weights (the recipe's ``start_from``).

Its folder keeps the weights that it began with (``start.safetensors``, ``group/name``) and where they came from (``start.json``): they
are what its groups are compared with later, and the other run may go on or go away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.checkpoints import contents
from core.checkpoints.hashes import sha256
from core.checkpoints.made_of import base_contents, load_made_of, require_same_base
from core.checkpoints.own_recipe import own_recipe
from core.checkpoints.trained_weights import START, find_checkpoint, read_tensors
from core.contracts import UserError
from core.engine import checkpoint
from core.engine.evaluation import write_whole
from core.engine.parallel.exchange import Exchange
from core.engine.parallel.gradients import Groups
from core.recipe import Recipe, path_report, resolved_values
from core.registry import Registry

FACTS = "start.json"


def fix_start(recipe: Recipe) -> None:
    """Makes ``start_from`` absolute, so that the run's own recipe means the same from any folder."""
    if given := recipe.values.get("start_from"):
        recipe.values["start_from"] = str(Path(given).expanduser().resolve())


@torch.no_grad()
def start_weights(recipe: Recipe, registry: Registry, groups: Groups, folder: Path, exchange: Exchange) -> None:
    """Loads the weights that a new run begins with into ``groups``, in place; the main process keeps them in the run's ``folder``.

    A group that the other run did not train keeps the base's values. Raises ``UserError`` for one that only the other run trained, for
    other names or shapes, and for values that were trained over other frozen weights than this recipe's.
    """
    if not recipe.values.get("start_from"):
        return
    if (folder / START).is_file():  # the run began before, and ended before its first checkpoint
        checkpoint.load_trained(read_tensors(folder / START), groups, folder / START)
        return
    try:
        source, file = find_checkpoint(Path(recipe.values["start_from"]).expanduser())
    except UserError as error:
        raise UserError(f"start_from: {error}") from None
    differences: list[str] = exchange.from_main(lambda: list(_differences(source, own_recipe(file.parent), recipe, registry)))
    values = read_tensors(source / "trained.safetensors")
    there = dict.fromkeys(name.partition("/")[0] for name in values)
    if lost := [group for group in there if group not in groups]:
        raise UserError(
            f"start_from: {source} trained {', '.join(lost)}, which this recipe does not train: its values would be lost. Train it too, or "
            f"write them into a model of its own, python -m core.convert {source} OUT, and start from OUT as the model's checkpoint"
        )
    checkpoint.load_trained(values, {group: members for group, members in groups.items() if group in there}, source)
    if exchange.main:
        new = [group for group in groups if group not in there]
        begun = {f"{group}/{name}": p.detach().cpu().contiguous() for group, members in groups.items() for name, p in members}
        facts = {"start_from": str(source), "sha256": sha256(source / "trained.safetensors"), "from_the_base": new}
        brought = read_tensors(source / "own.safetensors") if (source / "own.safetensors").is_file() else {}
        left = list(dict.fromkeys(name.partition("/")[0] for name in brought))  # groups of loops' own weights, called after their tasks
        _keep(folder, begun, facts | {"differences": differences, "left": left})


def _keep(folder: Path, begun: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    write_whole(folder / FACTS, json.dumps(facts, indent=2) + "\n")
    beside = folder / f"{START}.new"
    save_file(begun, beside)
    beside.replace(folder / START)


def _differences(source: Path, theirs: Recipe, ours: Recipe, registry: Registry) -> Iterator[str]:
    """How the models of two recipes differ, besides what is trained. Raises ``UserError`` where their files do: it may read all of them."""
    both = (theirs, ours)
    then, now = (dict(_leaves(resolved_values(each, registry)["model"], "model")) for each in both)
    files = [{key: path for key, path, _, _ in path_report(each, registry) if key.startswith("model.")} for each in both]
    for key in sorted(key for key in then.keys() | now.keys() if not key.startswith("model.train")):
        one, other = (found.get(key) for found in files)
        if one is None or other is None:
            if then.get(key) != now.get(key):
                yield f"{key} was {then.get(key)!r}, is {now.get(key)!r}"
        elif one.resolve() != other.resolve():
            if lost := [path for path in (one, other) if not path.exists()]:
                yield f"{key} was {one}, is {other}; whether they are equal is not known, {lost[0]} is not there"
            elif contents.differences(*(contents.contents(contents.counted(path)) for path in (one, other))):
                raise UserError(
                    f"start_from: {source} was trained over {key}={one}, this recipe has {other}, with other weights: trained values fit "
                    f"the weights they were trained over; set {key}={one}"
                )
    run = theirs.file.parent
    if made_of := load_made_of(run):  # their base may have been exchanged since
        require_same_base(run, made_of, base_contents(ours, registry, made_of["contents"], only="model"))


def started_from(folder: Path) -> list[str]:
    """What the run in ``folder`` began with, as sentences; empty for one that began with its base."""
    if not (folder / FACTS).is_file():
        return []
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    new = f"; from the base, since not trained there: {', '.join(facts['from_the_base'])}" if facts["from_the_base"] else ""
    return [
        f"start: the trained weights of {facts['start_from']}{new}",
        *(f"warning: start_from: {each}" for each in facts["differences"]),
        *(f"note: the weights that {each} brought itself there are not taken over, they begin anew" for each in facts["left"]),
    ]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value
