"""How an update is carried out over processes, in parts: exchange, gradient arena, step, and transforms of the model.

A new sharding of the optimizer is one ``Step`` and a line of ``STRATEGIES``; a new memory trick is one function and a line of
``core.engine.parallel.transforms``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from core.engine.parallel.exchange import Exchange
    from core.engine.parallel.gradients import Groups
    from core.engine.parallel.strategy import Strategy


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


def make_strategy(
    launch: Mapping[str, Any], groups: Groups, optimizer: torch.optim.Optimizer, clip_norm: float, exchange: Exchange, loops: int
) -> Strategy:
    """The strategy that the recipe's ``launch`` names; ``loops``: how many can take part in one update."""
    from core.engine.parallel.arena import Arena
    from core.engine.parallel.strategy import Strategy

    stepper = part(STRATEGIES[launch["strategy"]].step)(groups, optimizer, exchange, launch)
    return Strategy(groups, exchange, Arena(groups, exchange, loops), stepper, clip_norm)
