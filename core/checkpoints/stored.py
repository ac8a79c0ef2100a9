"""A run's checkpoints as files: which one is meant, and what is in it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.contracts import UserError
from core.engine import checkpoint


def is_run(path: Path) -> bool:
    """Whether it is a run's folder or one of its checkpoints."""
    return (path / "trained.safetensors").is_file() or (path / "recipe.json").is_file()


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """(the checkpoint, its run's recipe): of a run folder its newest checkpoint, or ``path`` itself if it is one. Raises ``UserError``."""
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


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint. Raises ``UserError``."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file.parent}: not a complete checkpoint ({error})") from None
