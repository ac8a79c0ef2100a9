"""What a component tells of itself without being built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Component = TypeVar("Component", bound=Callable[..., Any])


def offers(**functions: Callable[..., Any]) -> Callable[[Component], Component]:
    """Sets each function as an attribute of the component: ``facts(**given)``, ``opens(path)``."""

    def mark(component: Component) -> Component:
        for name, function in functions.items():
            setattr(component, name, function)
        return component

    return mark
