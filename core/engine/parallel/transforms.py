"""What may be done to a model before it trains, in this order. A new memory trick is one function and one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from core.engine.launch import device_of
from core.engine.parallel.exchange import Exchange
from core.engine.parallel.table import STRATEGIES, part

Values = Mapping[str, Any]  # of the recipe


@dataclass(frozen=True)
class Transform:
    """One change of a model in place."""

    asked: Callable[[Values], bool]  # whether the recipe asks for it
    change: str  # module:function of (model, exchange), imported late
    before_moving: bool = False  # whether it comes before the device would have to hold all of the model


TRANSFORMS: list[Transform] = [
    Transform(lambda values: STRATEGIES[values["launch"]["strategy"]].shards_model, "core.engine.parallel.shard:shard_frozen", True),
    Transform(lambda values: values["train"]["compile"], "core.engine.parallel.blocks:compiled"),
    Transform(lambda values: values["train"]["activation_checkpointing"], "core.engine.parallel.blocks:recompute"),
]


def transform(model: nn.Module, values: Values, exchange: Exchange) -> None:
    """Moves the model to its device, with everything that the recipe asks for before and after that."""
    chosen = [one for one in TRANSFORMS if one.asked(values)]
    for one in (one for one in chosen if one.before_moving):
        part(one.change)(model, exchange)
    model.to(device_of(values["launch"]))
    for one in (one for one in chosen if not one.before_moving):
        part(one.change)(model, exchange)
