"""The repeated layers of a model, such as a language model's: what may be sharded, recomputed or compiled one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core.engine.parallel.exchange import Exchange


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists, each of which the model calls as a whole."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from blocks(child)


def recompute(module: nn.Module, exchange: Exchange | None = None) -> None:
    """Activation checkpointing: backward keeps the layers' inputs only and computes each layer once more, with the same dropout.

    Without gradient, as in generation and in frozen encoders, layers run as they are.
    """
    for layer in blocks(module):
        layer.forward = partial(_one_of, partial(checkpoint, layer.forward, use_reentrant=False), layer.forward)  # type: ignore[method-assign]


def compiled(module: nn.Module, exchange: Exchange | None = None, backend: str = "inductor") -> None:
    """``torch.compile`` of each layer in the forwards that train, at the first of them; batches of any size share a compilation.

    Without gradient, as in generation, layers run as they are: their caches would be compiled anew for each length.
    """
    for layer in blocks(module):
        layer.forward = partial(_one_of, torch.compile(layer.forward, dynamic=True, backend=backend), layer.forward)  # type: ignore[method-assign]


def _one_of(fast: Callable[..., Any], plain: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return (fast if torch.is_grad_enabled() else plain)(*given, **named)
