"""Values with tensors, from one process to another over a socket: the bytes of all tensors arrive in one block of memory.

Nothing of it lies in shared memory, takes a file handle for each tensor, or needs a path for a socket: ``/dev/shm``, ``ulimit -n``
and ``TMPDIR`` set no limits to it. Both ends are processes of this run; what comes from elsewhere is never unpickled.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from typing import Any

import torch
from torch import Tensor

_SIZES = struct.Struct("<QQ")  # bytes of the pickle, bytes of the block of tensors
_ALIGNED = 64  # where a tensor may begin in the block: at what any of its types, and vector instructions, ask for


class Packed:
    """A value ready to be sent. Whatever cannot be pickled raises here."""

    def __init__(self, value: Any) -> None:
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(value)
        self.head, self.tensors, self.nbytes = file.getvalue(), pickler.tensors, pickler.nbytes

    def send(self, to: socket.socket) -> None:
        """Raises ``OSError`` where the other end is gone."""
        to.sendall(_SIZES.pack(len(self.head), self.nbytes) + self.head)
        for tensor in self.tensors:
            if tensor.nbytes:
                to.sendall(tensor.reshape(-1).view(torch.uint8).numpy().data)
                to.sendall(bytes(-tensor.nbytes % _ALIGNED))


def receive(of: socket.socket, pinned: bool = False) -> tuple[Any, int]:
    """(the value, its bytes here). ``pinned``: its tensors lie in pinned memory, from which a GPU copies while the host goes on.

    Raises ``EOFError`` where the other end is gone.
    """
    head_bytes, block_bytes = _SIZES.unpack(_read(of, bytearray(_SIZES.size)))
    head = _read(of, bytearray(head_bytes))
    block = torch.empty(block_bytes, dtype=torch.uint8, pin_memory=pinned)
    _read(of, block.numpy().data)
    return _Unpickler(io.BytesIO(head), block).load(), head_bytes + block_bytes


def _read(of: socket.socket, into: Any) -> Any:
    view = memoryview(into)
    while len(view):
        count = of.recv_into(view)
        if not count:
            raise EOFError("the other end is gone")
        view = view[count:]
    return into


class _Pickler(pickle.Pickler):
    """Leaves plain tensors of the CPU out, and notes them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self.nbytes = 0
        self._known: dict[int, tuple[Tensor, Any]] = {}  # by id, with the tensor, so that no other one gets this id meanwhile

    def persistent_id(self, value: Any) -> Any:
        plain = type(value) is torch.Tensor and value.layout is torch.strided and value.device.type == "cpu" and not value.requires_grad
        if not plain or value.is_quantized or value.is_conj() or value.is_neg():
            return None
        if id(value) not in self._known:
            self._known[id(value)] = value, (self.nbytes, value.dtype, tuple(value.shape))
            self.tensors.append(value.contiguous())
            self.nbytes += value.nbytes + -value.nbytes % _ALIGNED
        return self._known[id(value)][1]


class _Unpickler(pickle.Unpickler):
    """Puts them back, as views of the block: what copies from pinned memory must find the memory that torch has pinned."""

    def __init__(self, file: io.BytesIO, block: Tensor) -> None:
        super().__init__(file)
        self.block = block  # [bytes] uint8

    def persistent_load(self, place: Any) -> Tensor:
        start, dtype, shape = place
        count = torch.Size(shape).numel() * dtype.itemsize
        return self.block[start : start + count].view(dtype).view(shape)
