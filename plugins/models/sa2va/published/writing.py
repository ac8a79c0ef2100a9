"""Writes a checkpoint folder, or a file: under a temporary name, and renamed at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from core.contracts import UserError

FILE_BYTES = 4 * 2**30  # of one written safetensors file
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".index.json", ".h5", ".msgpack", ".gguf", ".ckpt")  # of transformers in its kinds
_TEMPLATES = "additional_chat_templates"  # transformers keeps a tokenizer's further templates in this folder


@contextmanager
def complete(target: Path) -> Iterator[Path]:
    """A temporary path next to ``target`` to write to, renamed at the end; a failed attempt leaves nothing. Raises ``UserError``."""
    if target.exists():
        raise UserError(f"{target}: already exists; remove it or choose another name")
    beside = target.with_name(target.name + ".part")
    try:
        _remove(beside)
        beside.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.rename(target)
    except (OSError, SafetensorError) as error:
        _remove(beside)
        raise UserError(f"{target}: cannot be written ({error}); choose another place") from error
    except BaseException:
        _remove(beside)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def write_folder(target: Path, tensors: Iterable[tuple[str, Tensor]], config: dict[str, object], copy_from: Path | None) -> None:
    """Writes ``tensors`` as a published folder, with every file of ``copy_from`` but its weights; ``config`` where it has no config.json.

    Files of ``copy_from`` are copied byte for byte and never executed: config.json with its ``auto_map``, the code that this names, the
    tokenizer, chat templates, generation and preprocessor configurations.
    """
    with complete(target) as beside:
        beside.mkdir()
        for file in sorted(copy_from.iterdir()) if copy_from else []:
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                shutil.copyfile(file, beside / file.name)
            elif file.is_dir() and file.name == _TEMPLATES:
                shutil.copytree(file, beside / file.name)
        if not (beside / "config.json").is_file():  # otherwise it was copied as it is
            (beside / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_shards(beside, tensors)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """A safetensors file with the permissions of the folder's other files; the library lets only its owner read it."""
    save_file(tensors, file, metadata={"format": "pt"})
    beside = file.with_name(file.name + ".mode")
    beside.touch()
    shutil.copymode(beside, file)
    beside.unlink()


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """``model.safetensors``, or several files and their index where it would be larger than a file may be."""
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total, size = 0, 0

    def flush() -> None:
        save_tensors(held, folder / f"{len(files)}.part")
        files.append(list(held))
        held.clear()

    for key, tensor in tensors:
        if held and size + tensor.nbytes > FILE_BYTES:
            flush()
            size = 0
        tensor = tensor.detach().cpu().contiguous()
        tied = any(tensor.data_ptr() == other.data_ptr() for other in held.values())  # the file format wants values of its own
        held[key] = tensor.clone() if tied else tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    count = len(files)
    names = ["model.safetensors"] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for i, name in enumerate(names):
        (folder / f"{i}.part").rename(folder / name)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {key: names[i] for i, keys in enumerate(files) for key in keys}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
