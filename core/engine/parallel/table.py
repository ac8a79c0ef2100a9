"""The names of ``launch.strategy`` and what each is made of. A new sharding of the optimizer is a ``Step`` and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parts:
    """What a name of ``launch.strategy`` is made of. Parts are named by their place, so that what is heavy is imported late."""

    several: bool  # whether it is a group of processes, perhaps of one; otherwise a process alone
    step: str  # module:function of (groups, optimizer, exchange, launch)
    shards_model: bool = False  # whether frozen weights are divided, so that no process holds the whole model


#: The values of ``launch.strategy`` (``core.recipe.schema.Launch``).
STRATEGIES: dict[str, Parts] = {
    "single": Parts(several=False, step="core.engine.parallel.step:torch_step"),
    "ddp": Parts(several=True, step="core.engine.parallel.step:torch_step"),
    "deepspeed": Parts(several=True, step="core.engine.parallel.zero:zero_step"),
    "fsdp2": Parts(several=True, step="core.engine.parallel.step:torch_step", shards_model=True),
}


def part(place: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = place.partition(":")
    return vars(importlib.import_module(module))[name]
