"""torch, loaded when something of it is first used.

A component's module is imported to read its signature: ``--check``, ``components explain``, the recipe's schema. Loading torch takes
longer than all of that, so a component's module takes torch from here, and its types under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Late(ModuleType):
    """A placeholder for a module; every attribute is looked up in the module itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch as torch
    from torch.nn import functional as F
else:
    torch, F = _Late("torch"), _Late("torch.nn.functional")


def no_grad(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.no_grad`` as a decorator that does not load torch."""

    @wraps(function)
    def without_gradient(*given: P.args, **named: P.kwargs) -> R:
        with torch.no_grad():
            return function(*given, **named)

    return without_gradient


__all__ = ["F", "no_grad", "torch"]
