"""The tensors of a checkpoint folder, streamed one by one. Safetensors only, no remote code, no unpickling."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.checkpoints.hashes import sha256
from core.contracts import UserError
from plugins.models.sa2va.published.other_folders import is_pointer, pointer_sentence, told

_MAPPED = 2**24  # bytes of a file that are mapped at one time


def shards(folder: Path) -> list[Path]:
    """The safetensors files that are a folder's weights: those that its index lists, or else ``model.safetensors``, and no others.

    Raises ``UserError`` where one is missing or damaged, where two hold one key, and where index and ``model.safetensors`` are both there.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        listed = _listed(index)
        files = [folder / name for name in sorted(set(listed.values()))]
        if single.is_file() and single not in files:
            raise UserError(
                f"{folder}: {index.name} lists other files than {single.name}, which is there too; remove the one that is not meant"
            )
    elif single.is_file():
        listed, files = {}, [single]
    else:
        raise UserError(
            told(folder) or f"{folder}: no *.safetensors file with the name model.safetensors, nor {index.name}{_there(folder)}"
        )
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{folder}: missing {', '.join(missing)}, which {index.name} lists; is the checkpoint complete?")
    _require_keys_once(files, listed)
    return files


def weights_hash(folder: Path) -> str:
    """Of what is in a folder's weights, whatever their files are called and whatever lies beside them."""
    return hashlib.sha256("".join(sorted(map(sha256, shards(folder)))).encode()).hexdigest()


def stray(folder: Path) -> list[str]:
    """The names of further safetensors files in a folder, which are not read."""
    return sorted({file.name for file in folder.glob("*.safetensors")} - {file.name for file in shards(folder)})


def _listed(index: Path) -> dict[str, str]:
    """Key -> file of an index. Raises ``UserError``."""
    try:
        listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        names = set(map(Path, listed.values()))
    except (ValueError, KeyError, TypeError) as error:
        what = pointer_sentence(index) if is_pointer(index) else f"{index}: not an index of safetensors files ({error}); copy it again"
        raise UserError(what) from None
    if not names:
        raise UserError(f"{index}: it lists no tensor; copy it again")
    if outside := [str(name) for name in names if name.name != str(name)]:
        raise UserError(f"{index}: {outside[0]!r} is no file of its own folder; list names without folders")
    return listed


def _there(folder: Path) -> str:
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    if not found:
        return "; is the checkpoint complete?"
    pieces = [name for name in found if re.fullmatch(r".*-\d+-of-\d+\.safetensors", name)]
    todo = "copy the index again" if pieces else "rename the one that holds the weights to model.safetensors"
    return f", which tell what is read; there are {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}: {todo}"


def _require_keys_once(files: list[Path], listed: dict[str, str]) -> None:
    """Raises ``UserError`` where two of the files hold a key, or one does not hold what the index says."""
    holder: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                keys = list(handle.keys())
        except SafetensorError as error:
            raise _damaged(file, error) from None
        if twice := sorted(holder.keys() & keys):
            raise UserError(f"{file}: {_some(twice)} is in {holder[twice[0]]} too; which is meant cannot be told, remove one")
        holder |= dict.fromkeys(keys, file.name)
    if wrong := sorted(key for key, name in listed.items() if holder.get(key) != name):
        raise UserError(f"{files[0].parent}: {_some(wrong)} is not in {listed[wrong[0]]}, where the index has it; copy that file again")


def _some(keys: list[str]) -> str:
    return keys[0] + (f" (and {len(keys) - 1} more keys)" if len(keys) > 1 else "")


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(pointer_sentence(file) if is_pointer(file) else f"{file}: damaged safetensors file ({error}); copy it again")


def stored_tensors(folder: Path, wanted: Callable[[str], bool] = lambda key: True) -> Iterator[tuple[str, Tensor]]:
    """(published key, tensor) of a folder, one at a time, of the ``wanted`` keys."""
    for file in shards(folder):
        for key, _, tensor in _read(file, lambda handle: [(name, slice(None)) for name in filter(wanted, handle.keys())]):
            yield key, tensor


def pieces(folder: Path) -> Iterator[tuple[str, tuple[int, ...], int, Tensor]]:
    """(published key, shape of the tensor, first row, rows) of a folder: a large tensor comes in several pieces.

    Embeddings in float32 alone are a quarter of the size of a small model in 16 bit.
    """

    def rows(handle: Any) -> Iterator[tuple[str, slice]]:
        for key in handle.keys():  # noqa: SIM118  it is no dictionary
            [count, *row] = handle.get_slice(key).get_shape() or [1]
            step = max(1, _MAPPED // (4 * math.prod(row)))
            yield from ((key, slice(start, start + step)) for start in range(0, max(1, count), step))

    for file in shards(folder):
        for key, span, tensor in _read(file, rows):
            yield key, tuple(tensor.shape), span.start, tensor[span] if tensor.ndim else tensor


def _read(file: Path, choose: Callable[[Any], Iterable[tuple[str, slice]]]) -> Iterator[tuple[str, slice, Tensor]]:
    """The tensors that ``choose`` names of an open file, mapped into memory, and which rows of each are going to be read."""
    try:
        with safe_open(file, framework="pt") as handle:
            chosen = list(choose(handle))
        place = 0
        while place < len(chosen):
            # reopened from time to time: what was read stays mapped, and so in memory, until the file is closed
            with safe_open(file, framework="pt") as handle:
                mapped = 0
                while place < len(chosen) and mapped < _MAPPED:
                    key, span = chosen[place]
                    tensor = handle.get_tensor(key)
                    mapped += tensor[span].nbytes if tensor.ndim else tensor.nbytes
                    yield key, span, tensor
                    place += 1
                    del tensor
    except SafetensorError as error:
        raise _damaged(file, error) from None


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same values, up to the rounding of the coarser of their types."""
    coarse = one.dtype if one.element_size() <= other.element_size() else other.dtype
    return bool((one.to(coarse) == other.to(coarse)).all())


def keys_of(folder: Path) -> set[str]:
    """The published keys of a folder."""
    found: set[str] = set()
    for file in shards(folder):
        with safe_open(file, framework="pt") as handle:
            found |= set(handle.keys())
    return found


def same_values(folder: Path, one: str, other: str) -> bool | None:
    """Whether two keys hold the same values; None where one of them is not there. Read in pieces."""
    holder: dict[str, Path] = {}
    for file in shards(folder):
        with safe_open(file, framework="pt") as handle:
            holder |= dict.fromkeys({one, other} & set(handle.keys()), file)
    if len(holder) < 2:
        return None
    with safe_open(holder[one], framework="pt") as first, safe_open(holder[other], framework="pt") as second:
        here, there = first.get_slice(one), second.get_slice(other)
        if here.get_shape() != there.get_shape() or here.get_dtype() != there.get_dtype():
            return False
        [count, *row] = here.get_shape() or [1]
        step = max(1, _MAPPED // (4 * math.prod(row)))
        return all(bool((here[start : start + step] == there[start : start + step]).all()) for start in range(0, count, step))
