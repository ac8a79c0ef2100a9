"""The tensors of a checkpoint folder, streamed one by one. Safetensors only, no remote code, no unpickling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.contracts import UserError

_MAPPED = 2**24  # bytes of a file that are mapped at one time


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder, as its index lists them. Raises ``UserError`` where one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not an index of safetensors files ({error}); copy it again") from None
        files = [folder / Path(name).name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise UserError(f"{folder}: {'missing ' + ', '.join(missing) if missing else 'no *.safetensors file'}; is the checkpoint complete?")
    return files


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
        raise UserError(f"{file}: damaged safetensors file ({error}); copy it again") from None
