"""FSDP2 over the frozen weights: each rank holds its part of every layer, and the whole of a layer only while computing it.

Trained weights, their gradients and the step are as with ``ddp``. ``fully_shard`` expects that all ranks compute the same
layers in the same order; here they do not, since their samples belong to different tasks and captions end at different
lengths. So every gathering is a round: each rank says which layer it needs, and all take part in gathering all of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from core.engine.parallel.blocks import blocks
from core.engine.parallel.exchange import Exchange, Group

SMALLEST = 1e-3  # of all frozen weights: a layer with less stays whole, its message would cost more than its memory
#: Called all_gather_into_tensor before torch 2.13.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_NONE = -1  # the number of a rank that needs no layer


def shard_frozen(model: nn.Module, exchange: Exchange) -> list[nn.Module]:
    """Shards the frozen weights of the model's layers, which go to the group's device, in place; returns these layers."""
    if not isinstance(exchange, Group):
        raise TypeError("frozen weights are sharded over a group of processes")
    layers = list(blocks(model))
    frozen = [sum(p.numel() for p in layer.parameters() if not p.requires_grad) for layer in layers]
    total = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    chosen = [layer for layer, size in zip(layers, frozen, strict=True) if size > SMALLEST * total]
    mesh = init_device_mesh(exchange.device, (exchange.world,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in chosen:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    rounds = Rounds(exchange, chosen)
    for number, layer in enumerate(chosen):
        assert isinstance(layer, FSDPModule)
        layer.set_custom_all_gather(Gather(rounds, number))  # type: ignore[arg-type]  # the interface is not exported
        layer.set_modules_to_backward_prefetch([layer])  # nothing: by default it gathers the layer that came before
    exchange.before_exchange = rounds.finish
    return chosen


class Rounds:
    """Lets ranks gather different layers, in different order and number, without waiting for a gathering to which some never come."""

    def __init__(self, group: Group, layers: Sequence[nn.Module]) -> None:
        self.group, self.parts = group, [_own_parts(layer) for layer in layers]
        self.seen: set[int] = set()

    def gather(self, number: int, whole: Tensor, own: Tensor) -> None:
        """Fills ``whole`` with all ranks' parts of layer ``number``; ``own`` is this rank's, as FSDP2 packs it."""
        if number not in self.seen and not torch.equal(_bytes(own), self._packed(number)):
            raise RuntimeError("fully_shard packs a layer's parts otherwise than expected: this version of torch is not supported")
        self.seen.add(number)
        self._round(number, whole, own)

    def finish(self) -> None:
        """Gives to the other ranks until none needs a layer any more; all ranks come here before they exchange anything else."""
        while self._round(_NONE):
            pass

    def _round(self, number: int, whole: Tensor | None = None, own: Tensor | None = None) -> bool:
        """Gathers all layers that any rank needs now, in the same order on all ranks; False if there is none."""
        said = [torch.zeros(1, dtype=torch.int64) for _ in range(self.group.world)]
        with self.group.exchanging("gathering frozen weights"):
            dist.all_gather(said, torch.tensor([number]))  # over gloo, on the CPU
            wanted = sorted({int(one) for one in said} - {_NONE})
            for layer in wanted:
                if layer == number and whole is not None and own is not None:
                    all_gather(_bytes(whole), _bytes(own))
                else:
                    self._give(layer)
        return bool(wanted)

    def _give(self, number: int) -> None:
        own = self._packed(number)  # [bytes]
        all_gather(own.new_empty(len(own) * self.group.world), own)

    def _packed(self, number: int) -> Tensor:
        return torch.cat([_bytes(part) for part in self.parts[number]])


class Gather:
    """What FSDP2 calls to gather one layer (its ``AllGather`` interface)."""

    def __init__(self, rounds: Rounds, number: int) -> None:
        self.rounds, self.number = rounds, number

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False) -> None:
        self.rounds.gather(self.number, output_tensor, input_tensor)


def _own_parts(layer: nn.Module) -> list[Tensor]:
    """This rank's parts of a layer's sharded parameters, flat, with the padding that makes all ranks' equally long."""
    local = [p.to_local().detach() for p in dict.fromkeys(_children_first(layer)) if isinstance(p, DTensor)]
    return [part.as_strided((part.untyped_storage().nbytes() // part.itemsize,), (1,), 0) for part in local]


def _children_first(module: nn.Module) -> Iterator[nn.Parameter]:
    """A module's parameters in the order in which FSDP2 packs them."""
    for child in module.children():
        yield from _children_first(child)
    yield from module.parameters(recurse=False)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)
