"""The repeated layers of a model, such as a language model's: what may be sharded, recomputed or compiled one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost module lists, each of which the model calls as a whole."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from blocks(child)
