"""What a component offers beyond its contract (``core.contracts.optional``), and whether it declares that rightly.

A misspelt optional method would never be called, and no error would say so. Therefore a name close to an optional one is a fault.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from core.contracts import BEFORE_BUILDING, OPTIONAL
from core.registry.signature import members

NEAR = 0.8  # likeness from which a name is taken for a misspelt one


def built_class(component: Any) -> type | None:
    """The class of what a component builds: itself, or what a function says that it returns; None where that cannot be read."""
    if inspect.isclass(component):
        return component
    try:
        made = typing.get_type_hints(inspect.unwrap(component)).get("return")
    except (NameError, AttributeError, TypeError):  # imported for the type checker alone
        return None
    return made if inspect.isclass(made) else None


def offers_of(component: Any, kind: str) -> dict[type, bool | None]:
    """Each optional protocol of the kind and whether the component has it; None where only the built one can tell."""
    cls = built_class(component)
    found: dict[type, bool | None] = {}
    for protocol in OPTIONAL.get(kind, ()):
        holder = component if protocol in BEFORE_BUILDING else cls
        missing = [] if holder is None else lacking(holder, protocol)
        # what a constructor assigns is there once it has run
        found[protocol] = None if holder is None or (missing and set(missing) <= _assigned(holder)) else not missing
    return found


def _assigned(holder: Any) -> set[str]:
    """Attribute names in the constructors of a class."""
    constructors = [vars(base).get("__init__") for base in holder.__mro__] if inspect.isclass(holder) else []
    return {name for constructor in constructors if inspect.isfunction(constructor) for name in constructor.__code__.co_names}


def _parameters(cls: type) -> set[str]:
    constructor = vars(cls).get("__init__")
    return set(inspect.signature(constructor).parameters) if inspect.isfunction(constructor) else set()


def wanted(protocol: type) -> list[str]:
    """The names that an optional protocol consists of."""
    methods, attributes = members(protocol)
    return sorted(methods | attributes)


def lacking(holder: Any, protocol: type) -> list[str]:
    """Those that an object or a class does not have."""
    there = set(dir(holder))
    return [name for name in wanted(protocol) if name not in there]


def faults(holder: Any, kind: str) -> Iterator[str]:
    """What is wrong with the offers of a component, of the class that it builds, or of a built one: a sentence each."""
    cls = holder if inspect.isclass(holder) else type(holder)
    named = "it" if inspect.isfunction(holder) else cls.__name__
    known = {name for protocol in OPTIONAL.get(kind, ()) for name in wanted(protocol)}
    for protocol in OPTIONAL.get(kind, ()):
        missing = lacking(holder, protocol)
        if missing and len(missing) < len(wanted(protocol)):
            has = ", ".join(name for name in wanted(protocol) if name not in missing)
            yield f"{named} has {has} without {', '.join(missing)}: {protocol.__name__} needs both"
        elif not missing:
            yield from (fault for name in members(protocol)[0] if (fault := _misfit(holder, protocol, name)))
    given = set() if holder is cls or inspect.isfunction(holder) else {name for name in vars(holder) if not name.startswith("_")}
    given -= _parameters(cls)  # a key of recipes that is kept under its name, such as a loop's sampler beside ``samples``
    for name in sorted({*_own_names(cls), *given}):
        if name not in known and (near := difflib.get_close_matches(name, known - set(dir(holder)), n=1, cutoff=NEAR)):
            yield f"{named} has {name!r}, which nothing calls: did you mean {near[0]!r}? If not, begin its name with an underscore"


def _misfit(holder: Any, protocol: type, name: str) -> str | None:
    """Why a method cannot be called as its protocol calls it."""
    method, pattern = inspect.getattr_static(holder, name), inspect.signature(vars(protocol)[name])
    if not callable(method) and not isinstance(method, staticmethod | classmethod):
        return f"{name} is no method; it is called as {name}{_shown(pattern)}"
    asked = [p for p in list(pattern.parameters.values())[1:] if p.kind is not p.VAR_KEYWORD]  # without self
    function: Callable[..., Any] = method.__func__ if isinstance(method, staticmethod | classmethod) else method
    first = [] if isinstance(method, staticmethod) or inspect.isfunction(holder) else [None]
    try:
        inspect.signature(function).bind(*first, *asked)
    except TypeError as error:
        return f"{name}{inspect.signature(function)} cannot be called as {name}{_shown(pattern)}: {error}"
    except ValueError:  # not written in Python: it has no signature to look at
        return None
    return None


def _shown(pattern: inspect.Signature) -> str:
    return str(pattern.replace(parameters=list(pattern.parameters.values())[1:], return_annotation=pattern.empty))


def _own_names(cls: type) -> list[str]:
    """Public names of a class and of its bases in the same package."""
    package = cls.__module__.partition(".")[0]
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == package]
    return sorted({name for base in own for name in vars(base) if not name.startswith("_")})
