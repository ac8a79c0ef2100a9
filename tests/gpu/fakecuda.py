"""Tensors on a CUDA device that is not there: the unmodified trainer runs on them, for its devices, types, memory and waits.

``FakeCuda()`` is a mode. Inside it floats on "cuda" are FakeTensors, which have a shape, a type and a device but no values; integers and
booleans carry real values beside them, so that masks, token ids and ``nonzero`` have the right shapes. CPU tensors stay what they are.

- A CPU tensor or a CPU generator that meets a CUDA tensor raises, as does a product of two types (``WrongDevice``, ``WrongType``).
- Live bytes are counted by storage (``live``, ``peak``); so is every place where the host waits for the device (``waits``).
- Attention goes to the kernel that CUDA would take, and is counted by kernel (``fakeattention``).

Not counted: workspaces of cuBLAS and cuDNN, NCCL's buffers, the allocator's fragments. Kernels' own faults cannot show.
Load ``fakedevice`` before torch.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from fakeattention import Attention
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

ROOT = str(Path(__file__).parents[2])
LIBRARIES = ("site-packages/transformers", "site-packages/peft")
ROUND = 512  # bytes: what CUDA's allocator rounds up to
KNOWN_FLOATS, KNOWN = 2**12, 2**26  # numbers of a float tensor, and of any, whose values are followed
MADE_UP = 2**20  # of an integer or boolean tensor that depends on floats, what is made up before it is asked for
TOKEN = 300  # what an argmax over scores that nobody has gives
#: Kernels that take one type; the fake ones do not look.
ONE_TYPE = {"mm", "addmm", "bmm", "baddbmm", "convolution", "native_layer_norm", "native_group_norm", "grid_sampler_2d", "masked_scatter"}
#: Kernels whose result has a shape that depends on values: the host waits for them.
BY_VALUE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave"}
INDEXING = {"index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put"}


class WrongDevice(RuntimeError):
    """A CPU tensor or generator met a CUDA tensor."""


class WrongType(RuntimeError):
    """A product of two types."""


class FakeCuda(TorchDispatchMode):
    """See the module. ``token``: what the model writes when it generates, whose scores nobody has."""

    def __init__(self, token: int = TOKEN) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=False)
        self.token = token
        self.live = self.peak = 0  # bytes
        self.waits: Counter[str] = Counter()  # place and what -> how often the host waited for the device there
        self.copied: Counter[str] = Counter()  # place -> bytes from the host to the device
        self.kernels = 0
        self.attention = Attention(self)
        self.sites: Counter[str] | None = None  # place -> live bytes; slow, so only where one asks for it
        self.at_peak: Counter[str] = Counter()
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __enter__(self) -> FakeCuda:
        self.fake.__enter__()
        super().__enter__()
        self.attention.install()
        self._tolist, FakeTensor.tolist = FakeTensor.tolist, self._listed  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: Any) -> None:
        self.attention.remove()
        FakeTensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*error)
        self.fake.__exit__(*error)

    # ------------------------------------------------------------------------------------------ bookkeeping

    def place(self) -> str:
        """The innermost line of this project on the stack, and the line of a library that it called, rather one of a model's own file."""
        frame, library = sys._getframe(1), ""
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(ROOT) and "site-packages" not in file and not file.startswith(os.path.dirname(__file__)):
                return f"{os.path.relpath(file, ROOT)}:{frame.f_lineno}{library}"
            if any(name in file for name in LIBRARIES) and (not library or ("modeling_" in file and "modeling_" not in library)):
                library = f" < {os.path.basename(file)}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return f"?{library}"

    def waited(self, what: str) -> None:
        self.waits[f"{self.place()} {what}"] += 1

    def _count(self, tensor: Any) -> None:
        """Adds a new storage to the live bytes, until it is freed."""
        if not self.on_cuda(tensor):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // ROUND) * ROUND
        if key in self._storages:
            return
        site = self.place() if self.sites is not None else ""

        def freed(_: Any) -> None:
            if self._storages.pop(key, None) is not None:
                self.live -= size
                if self.sites is not None:
                    self.sites[site] -= size

        self._storages[key] = weakref.ref(storage, freed)
        self.live += size
        if self.sites is not None:
            self.sites[site] += size
            if self.live > self.peak + 2**26:
                self.at_peak = self.sites.copy()
        self.peak = max(self.peak, self.live)

    @staticmethod
    def on_cuda(tensor: Any) -> bool:
        return isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda"

    # ------------------------------------------------------------------------------------------ values

    def value(self, tensor: Any) -> Any:
        """The real value that a fake tensor carries, or None; anything else is its own."""
        return vars(tensor).get("_real") if isinstance(tensor, FakeTensor) else tensor

    def needed(self, tensor: Any) -> Any:
        """The value, made up where it depends on floats that nobody has: True in every eighth place, ``token``, or 1."""
        if self.value(tensor) is None:
            with _disable_current_modes():
                if tensor.dtype == torch.bool:
                    made = (torch.arange(tensor.numel()) % (8 if tensor.numel() <= KNOWN // 4 else 256) == 0).view(tensor.shape)
                elif tensor.is_floating_point():
                    made = torch.ones(tensor.shape, dtype=tensor.dtype)
                else:
                    made = torch.full(tensor.shape, min(self.token, torch.iinfo(tensor.dtype).max), dtype=tensor.dtype)
            tensor._real = made
        return self.value(tensor)

    @property
    def _listed(self) -> Any:
        """``tolist`` as one wait; torch's own for fake tensors asks for number after number."""

        def listed(tensor: Any) -> Any:
            self.waited("tolist")
            with _disable_current_modes():
                return self.needed(tensor).tolist()

        return listed

    def _empty(self, shape: Any, dtype: torch.dtype, device: torch.device, real: Tensor | None = None) -> Any:
        with self.fake:
            made: Any = torch.empty(shape, dtype=dtype, device=device)
        if real is not None and (not real.is_floating_point() or real.numel() <= KNOWN_FLOATS):
            made._real = real
        self._count(made)
        return made

    def _lifted(self, name: str, tensor: Any) -> Any:
        """CUDA kernels take CPU tensors as numbers and as indices only."""
        if not isinstance(tensor, Tensor) or isinstance(tensor, FakeTensor):
            return tensor
        if tensor.dim() and name not in INDEXING:
            raise WrongDevice(f"{name}: a CPU tensor {list(tensor.shape)} with CUDA ones, at {self.place()}")
        with _disable_current_modes():
            plain = tensor.detach()
        with self.fake:
            lifted: Any = self.fake.from_tensor(plain, static_shapes=True)
        lifted._real = tensor
        return lifted

    # ------------------------------------------------------------------------------------------ dispatch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        plain = name.rstrip("_")
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        cuda = any(self.on_cuda(tensor) for tensor in tensors)
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if name in ("_to_copy", "copy_"):
            copied = self._copy(name, args, kwargs, device)
            if copied is not NotImplemented:
                return copied
        if not cuda and (device is None or device.type != "cuda"):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if name == "_local_scalar_dense":
            self.waited("item")
            with _disable_current_modes():
                number = self.needed(args[0]).item()
            return number if not isinstance(number, float) or math.isfinite(number) else 1.0
        if name in ("equal", "is_nonzero"):
            self.waited(name)
            with _disable_current_modes():
                return func(*map(self.needed, args))
        if name in BY_VALUE:
            self.waited(name)
            return self._by_value(name, func, args, kwargs)
        if plain in INDEXING:
            args = self._without_masks(args)
            tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        self._require(plain, tensors, kwargs)
        given, named = tree_map(lambda one: self._lifted(plain, one), (args, kwargs))
        named.pop("pin_memory", None)
        with self.fake:
            out = func(*given, **named)
        self.kernels += 1
        for one in tree_leaves(out):
            self._count(one)
        self._follow(func, args, kwargs, out, tensors)
        return out

    def _require(self, name: str, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise WrongDevice(f"{name}: a generator on {generator.device} for a CUDA tensor, at {self.place()}")
        types = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()}
        if name in ONE_TYPE and len(types) > 1:
            raise WrongType(f"{name} of {' and '.join(sorted(types))}, at {self.place()}")

    def _copy(self, name: str, args: Any, kwargs: dict[str, Any], device: torch.device | None) -> Any:
        """Copies between host and device; NotImplemented for all others."""
        to, source = (None, args[0]) if name == "_to_copy" else (args[0], args[1])
        here = self.on_cuda(source)
        there = self.on_cuda(to) if to is not None else here if device is None else device.type == "cuda"
        if here == there:
            return NotImplemented
        dtype = (kwargs.get("dtype") or source.dtype) if to is None else to.dtype
        self.waited("from the host" if there else "to the host")
        if there:
            self.copied[self.place()] += source.numel() * source.element_size()
        with _disable_current_modes():
            real = self.needed(source).detach().to(dtype).clone() if not there or source.numel() <= KNOWN else None
            if to is not None and self.value(to) is not None and real is not None:
                self.value(to).copy_(real)
        if to is not None:
            return to
        assert device is not None
        return self._empty(source.shape, dtype, device, real) if there else real

    def _by_value(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        source = args[0]
        if name == "masked_select":  # the values of floats are not there, but their number is
            with _disable_current_modes():
                count = int(self.needed(args[1]).expand(torch.broadcast_shapes(args[1].shape, source.shape)).sum())
            return self._empty((count,), source.dtype, source.fake_device)
        given, named = tree_map(lambda one: self.needed(one) if isinstance(one, FakeTensor) else one, (args, kwargs))
        with _disable_current_modes():
            found = func(*given, **named)
        return tree_map(lambda one: self._empty(one.shape, one.dtype, source.fake_device, one) if isinstance(one, Tensor) else one, found)

    def _without_masks(self, args: Any) -> Any:
        """Boolean indices become integer ones, as CUDA does it, after waiting for their number."""
        indices: list[Any] = []
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                self.waited("index by a mask")
                with _disable_current_modes():
                    parts = self.needed(index).nonzero(as_tuple=True)
                indices += [self._empty(part.shape, part.dtype, args[0].device, part) for part in parts]
            else:
                indices.append(index)
        return (args[0], indices, *args[2:])

    def _follow(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any, tensors: list[Tensor]) -> None:
        """Computes the real values of small results whose inputs are all known."""
        results = [one for one in tree_leaves(out) if isinstance(one, FakeTensor)]
        if not results or any(one.numel() > KNOWN for one in [*results, *tensors]):
            return
        if any(self.value(tensor) is None for tensor in tensors):
            if func._schema.is_mutable and tensors[0].is_floating_point():
                vars(tensors[0]).pop("_real", None)  # written over with what nobody knows
            elif "dropout" not in func._schema.name:
                for one in results:  # what is decided by floats is made up once, so that all that follows agrees
                    if one.numel() <= MADE_UP and one.dtype in (torch.bool, torch.int64):
                        self.needed(one)
            return
        if "bernoulli" in func._schema.name:  # dropout's bits matter to nobody
            vars(results[0]).pop("_real", None)
            return
        if results[0].is_floating_point() and max(one.numel() for one in results) > KNOWN_FLOATS:
            return
        given, named = tree_map(self._real_argument, (args, kwargs))
        if named.get("device") is not None:
            named["device"] = "cpu"
        named.pop("pin_memory", None)
        try:
            with _disable_current_modes(), torch.no_grad():
                found = func(*given, **named)
        except (RuntimeError, NotImplementedError) as error:
            warnings.warn(f"no value for {func}: {error}", stacklevel=2)
            return
        for one, real in zip(tree_leaves(out), tree_leaves(found), strict=True):
            if isinstance(one, FakeTensor):
                one._real = real  # type: ignore[attr-defined]

    def _real_argument(self, one: Any) -> Any:
        return torch.device("cpu") if isinstance(one, torch.device) else self.value(one)
