"""A number that moves with the updates: ``{from: 2.0, to: 0.5, over: 1000, shape: cosine}``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from core.contracts import UserError, Within
from core.registry.attributes import attributes
from core.registry.signature import Parameter, record_fields

Shape = Literal["linear", "cosine", "exponential", "steps"]

#: Kinds whose components the engine asks anew in every update, so that a new value takes effect.
MOVABLE = ("loops", "samplers", "losses", "gradient_ops", "teachers")


@dataclass(frozen=True)
class Way:
    """How a value gets from its first number to its last."""

    over: Annotated[int, Within(1)]  # updates it takes
    shape: Shape = "linear"
    after: Annotated[int, Within(0)] = 0  # updates before it begins to move
    steps: Annotated[int, Within(1)] = 5  # how many there are in the shape `steps`, all of one size


@dataclass(frozen=True)
class Moving:
    """``first`` until update ``after``, then on its way to ``last``, which it is from update ``after + over`` on."""

    first: float
    last: float
    way: Way
    whole: bool = False  # whether it is rounded to an integer

    def at(self, update: int) -> float:
        """Its value in an update, counted from 0: a float, or an int where the component asks for one."""
        done = min(max(update - self.way.after, 0) / self.way.over, 1.0)
        value = self._between(done) if 0 < done < 1 else self.first if done <= 0 else self.last
        return round(value) if self.whole else float(value)

    def _between(self, done: float) -> float:
        if self.way.shape == "exponential":  # by the same factor in each update
            return self.first * (self.last / self.first) ** done
        if self.way.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        if self.way.shape == "steps":
            done = math.floor(done * self.way.steps) / self.way.steps
        return self.first + (self.last - self.first) * done


def moving_keys(annotation: Any) -> tuple[Parameter, ...]:
    """The keys of a moving number of the type ``annotation``."""
    return (Parameter("from", annotation), Parameter("to", annotation), *record_fields(Way))


def is_moving(annotation: Any, value: Any) -> bool:
    """Whether a mapping stands where a number is asked for and looks like a moving one."""
    return annotation in (float, int) and isinstance(value, dict) and bool({"from", "to", "over"} & value.keys())


def require_plain(make: Callable[[dict[Any, Any]], Any], given: Mapping[Any, Any], name: str, last: float, use: str) -> None:
    """Raises ``UserError`` unless setting the attribute ``name`` to ``last`` is all that building the component with it would do."""
    changed, other = _built(make, dict(given)), _built(make, dict(given) | {name: last})
    if name not in dir(changed):
        raise UserError(f"{name} cannot move: {use} keeps no attribute {name!r}, which could be set in each update")
    try:
        setattr(changed, name, last)
    except (AttributeError, TypeError) as error:  # a frozen dataclass, a property without a setter
        raise UserError(f"{name} cannot move: {use} does not let it be set ({error})") from None
    wanted = attributes(other)
    if different := sorted(key for key, known in attributes(changed).items() if not same(known, wanted.get(key))):
        what = ", ".join(different)
        raise UserError(f"{name} cannot move: {use} computes {what} from it when it is built; let it use self.{name} each time instead")


def _built(make: Callable[[dict[Any, Any]], Any], given: dict[Any, Any]) -> Any:
    """A component that draws, if it draws, the same numbers as the next one that is built here."""
    torch = sys.modules.get("torch")
    with nullcontext() if torch is None else torch.random.fork_rng(devices=[]):
        if torch is not None:
            torch.manual_seed(0)
        return make(given)


def same(a: Any, b: Any, deep: int = 8) -> bool:
    """Whether two values are equal all the way down, arrays and tensors included; what lies too deep counts as equal."""
    if a is b or deep == 0:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], deep - 1) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, deep - 1) for x, y in zip(a, b, strict=True))
    if (torch := sys.modules.get("torch")) and isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b))
    if (numpy := sys.modules.get("numpy")) and isinstance(a, numpy.ndarray):
        return bool(numpy.array_equal(a, b))
    if type(a).__eq__ is object.__eq__ and (inside := attributes(a)):
        return same(inside, attributes(b), deep - 1)
    return type(a).__eq__ is object.__eq__ or bool(a == b)
