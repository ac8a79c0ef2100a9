"""Which call shape of its kind a component has: mask losses and token losses are both losses, and neither can stand for the other."""

from __future__ import annotations

import inspect
from typing import Any

from core.contracts import KINDS
from core.registry.offers import built_class


def misfit(component: Any, kind: str, wanted: type) -> str | None:
    """Why a component cannot be called as the protocol ``wanted`` of its kind, as far as its signature tells; None if it can."""
    kinds: list[Any] = KINDS[kind].__subclasses__()
    shapes = [one for one in kinds if one.__module__.startswith("core.contracts")]
    cls = built_class(component)
    if wanted not in shapes or cls is None:
        return None
    asked = _names(wanted)
    try:
        signature = inspect.signature(cls.__call__)
        signature.bind(None, *asked)
    except TypeError as error:
        return f"it cannot be called as {wanted.__name__} ({', '.join(asked)}): {error}"
    except ValueError:  # not written in Python: it has no signature to look at
        return None
    own = {p.name for p in signature.parameters.values()}
    notes = {str(p.annotation).rpartition(".")[2] for p in signature.parameters.values()}

    def likeness(shape: type) -> int:
        typed = {str(p.annotation) for p in inspect.signature(shape.__call__).parameters.values()} - {"Tensor"}
        return len(own & set(_names(shape))) + len(notes & {"Tokens"} & typed)

    best = max(shapes, key=likeness)
    if likeness(best) <= likeness(wanted):
        return None
    return f"it is a {best.__name__} ({', '.join(_names(best))}), and a {wanted.__name__} ({', '.join(asked)}) is wanted here"


def _names(shape: type) -> list[str]:
    return list(inspect.signature(shape.__call__).parameters)[1:]  # without self
