"""The model of a checkpoint: the base with the run's trained values, or with those of some groups only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoints.made_of import require_base_of
from core.checkpoints.model_files import Weights, group_names
from core.checkpoints.own_recipe import own_recipe
from core.contracts import KnowsBaseValues, Model, UserError
from core.engine import checkpoint
from core.engine.best import named_best
from core.engine.parallel.gradients import Groups
from core.recipe import Recipe, build, load
from core.registry import Registry

#: In a run's folder: the weights that it began with, where it began with another run's.
START = "start.safetensors"
#: The ablation of the method: base weights, with the trained weights of these groups.
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": ("projector", "text_hidden_fcs", "lora", "sam2_decoder"),
    "lora": ("lora",),
    "sam2_decoder+text_hidden_fcs": ("sam2_decoder", "text_hidden_fcs"),
    "lora+sam2_decoder+text_hidden_fcs": ("lora", "sam2_decoder", "text_hidden_fcs"),
    "projector": ("projector",),
}


@dataclass
class Trained:
    """A model with the base's value and the trained value of each trained parameter."""

    model: Model
    base: Mapping[str, Tensor]  # group/name -> the value before training
    values: Mapping[str, Tensor]  # group/name -> the trained value
    source: Path  # the checkpoint's folder or the training file
    recipe: Path | None = None

    @torch.no_grad()
    def use(self, variant: str) -> None:
        """Trained values in the groups of ``variant`` (joined by ``+``; ``full``: all; ``base``: none), the base's in the others."""
        groups = self.model.trainable()
        wanted = {group for name in group_names(variant) for group in {"full": list(groups), "base": []}.get(name, [name])}
        if unknown := sorted(wanted - set(groups)):
            raise UserError(f"--groups {variant}: {', '.join(unknown)} was not trained here; there are {', '.join(groups)}")
        for group, members in groups.items():
            source = self.values if group in wanted else self.base
            for name, parameter in members:
                parameter.copy_(source[f"{group}/{name}"])


def is_run(path: Path) -> bool:
    """Whether it is a run's folder or one of its checkpoints."""
    return (path / "trained.safetensors").is_file() or (path / "recipe.json").is_file()


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """(the checkpoint, its run's recipe): of a run folder its newest checkpoint, or ``path`` itself if it is one. Raises ``UserError``.

    ``RUN/checkpoints/best`` is the checkpoint of the run's best evaluation.
    """
    path = named_best(path)
    if not path.is_dir():
        raise UserError(f"{path}: not found; name a run folder or one of its checkpoints")
    if (path / "trained.safetensors").is_file():
        folder, run = path, path.resolve().parent.parent
    else:
        found = checkpoint.list_checkpoints(path / "checkpoints")
        if not found:
            raise UserError(f"{path}: holds no checkpoint; name a run folder or a folder like runs/NAME/checkpoints/update-000250")
        folder, run = found[-1][1], path
    file = run / "recipe.yaml"
    if not file.is_file():
        raise UserError(f"{file}: not found; a checkpoint is read together with its run's recipe")
    return folder, file


def open_run(path: Path, registry: Registry, recipe: Recipe | None = None, weights: Weights = "trained") -> Trained:
    """The model of a run folder (its newest checkpoint) or of one checkpoint in it, built from ``recipe`` or else from the run's own.

    ``weights``: ``teacher`` takes its teacher's slow weights instead of those trained. Raises ``UserError``, also where the recipe's base
    is not the one that the run was trained over.
    """
    folder, file = find_checkpoint(path)
    own = recipe or own_recipe(file.parent)
    require_base_of(file.parent, own, registry)
    model: Model = build(own, ("model",), registry)
    groups = model.trainable()
    values = read_tensors(folder / "trained.safetensors") if weights == "trained" else _slow_weights(folder, groups)
    base = _base_values(groups, load(file), file.parent)
    checkpoint.load_trained(values, groups, folder)
    return Trained(model, base, values, folder, file)


def _base_values(groups: Groups, recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """``group/name`` -> the value before training: as ``groups`` were built, or what the run in ``folder`` began with.

    Raises ``UserError`` where a run's ``start.safetensors`` is gone.
    """
    if given := recipe.values.get("start_from"):
        if not (folder / START).is_file():
            raise UserError(f"{folder / START}: not found; the run began with the weights of {given}, and keeps them in that file")
        return read_tensors(folder / START)
    return {f"{group}/{name}": p.detach().clone() for group, members in groups.items() for name, p in members}


def _slow_weights(folder: Path, groups: Groups) -> dict[str, Tensor]:
    """The teacher's value of each trained parameter. A teacher may keep more than these, or none of them."""
    file, wanted = folder / "teacher.safetensors", {f"{group}/{name}" for group, members in groups.items() for name, _ in members}
    kept = read_tensors(file) if file.is_file() else {}
    if not kept.keys() & wanted:
        raise UserError(f"{folder}: --weights teacher needs a teacher that keeps slow weights of the student; this run has none")
    return {name: tensor for name, tensor in kept.items() if name in wanted}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint. Raises ``UserError``."""
    with checkpoint.reading(file.parent):
        return load_file(file)


def open_file(source: Path, model: Model) -> Trained:
    """``model``, which was built from the training file or the adapters ``source``. Raises ``UserError``."""
    if not isinstance(model, KnowsBaseValues):
        raise UserError(f"{source}: {type(model).__name__} does not give the trained values before training (base_values)")
    values = {f"{group}/{name}": p.detach().clone() for group, members in model.trainable().items() for name, p in members}
    return Trained(model, model.base_values(), values, source)
