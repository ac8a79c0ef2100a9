"""What a constructor takes, read from its signature: the signature of a component is the schema of its recipe entry.

Standard library only; nothing is evaluated but the annotations of the parameters themselves.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from core.contracts import KINDS

REQUIRED: Any = inspect.Parameter.empty
OMITTED: Any = object()  # the default of a key that is simply absent when it is not given
RESERVED = ("use",)  # the recipe's own words


class SignatureError(TypeError):
    """A signature that no recipe can describe; the message names the parameter."""


@dataclass(frozen=True)
class Parameter:
    """One key of a component's recipe entry. ``default`` is ``REQUIRED`` where the recipe must give a value."""

    name: str
    type: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def parameters(component: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The named, typed parameters of a class or factory. Raises ``SignatureError``."""
    function = inspect.unwrap(component.__init__ if inspect.isclass(component) else component)
    if getattr(function, "__module__", None) == "typing":  # a subclass of a protocol that has no constructor of its own
        return ()
    scope = getattr(function, "__globals__", {})
    return tuple(_parameter(p, scope) for p in inspect.signature(component).parameters.values() if p.kind is not p.VAR_POSITIONAL)


def _parameter(parameter: inspect.Parameter, scope: dict[str, Any]) -> Parameter:
    name = parameter.name
    if parameter.kind is parameter.VAR_KEYWORD:
        raise SignatureError(f"takes **{name}: name and type every parameter, the signature is the recipe's schema")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise SignatureError(f"parameter {name!r} is positional-only: a recipe gives parameters by name")
    if name in RESERVED:
        raise SignatureError(f"parameter {name!r} has a name that recipes reserve")
    if parameter.annotation is parameter.empty:
        raise SignatureError(f"parameter {name!r} has no type: the signature is the recipe's schema")
    holder = types.SimpleNamespace(__annotations__={name: parameter.annotation})  # alone: other annotations may not be importable
    try:
        hint = typing.get_type_hints(holder, globalns=scope, include_extras=True)[name]
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise SignatureError(f"the type of parameter {name!r} cannot be read ({error}); import it outside TYPE_CHECKING") from error
    return Parameter(name, hint, parameter.default)


def record_fields(annotation: Any) -> tuple[Parameter, ...]:
    """The keys of a dataclass or ``TypedDict``, also of one in ``X | None``; of any other type none."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((fields for branch in typing.get_args(annotation) if (fields := record_fields(branch))), ())
    if typing.is_typeddict(annotation):
        return _typed_dict_fields(annotation)
    return _dataclass_fields(annotation) if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else ()


def _dataclass_fields(cls: Any) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(Parameter(f.name, hints[f.name], _field_default(f)) for f in dataclasses.fields(cls) if f.init)


def _field_default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default is not dataclasses.MISSING:
        return entry.default
    return REQUIRED if entry.default_factory is dataclasses.MISSING else OMITTED


def _typed_dict_fields(cls: Any) -> tuple[Parameter, ...]:
    fields = []
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        required = name in cls.__required_keys__
        if typing.get_origin(hint) in (typing.Required, typing.NotRequired):  # not seen by Python where annotations are strings
            required = typing.get_origin(hint) is typing.Required
            (hint,) = typing.get_args(hint)
        fields.append(Parameter(name, hint, REQUIRED if required else OMITTED))
    return tuple(fields)


def kind_of(annotation: Any) -> str | None:
    """The kind of component that an annotation asks for, or None: ``MaskLoss`` -> ``losses``."""
    if not getattr(annotation, "_is_protocol", False):
        return None
    return next((kind for kind, contract in KINDS.items() if contract in annotation.__mro__), None)


def members(contract: type) -> tuple[set[str], set[str]]:
    """(methods, data attributes) that a protocol of ``core.contracts`` asks for."""
    methods: set[str] = set()
    attributes: set[str] = set()
    for base in contract.__mro__:
        if base in (typing.Protocol, typing.Generic, object):
            continue
        methods |= {name for name, value in vars(base).items() if inspect.isfunction(value)} - {"__init__", "__subclasshook__"}
        attributes |= set(vars(base).get("__annotations__", {}))
    return methods, attributes


def missing_methods(cls: type, contract: type) -> list[str]:
    """Methods of the contract that a class lacks. Looked up in its bases only: every class has ``type.__call__``."""
    return sorted(m for m in members(contract)[0] if not any(vars(base).get(m) is not None for base in cls.__mro__))


def missing_members(instance: object, contract: type) -> list[str]:
    """Methods and attributes of the contract that a built component lacks."""
    there = set(dir(instance))
    lacking = [name for name in sorted(members(contract)[1]) if name not in there]
    return missing_methods(type(instance), contract) + lacking


def type_name(annotation: Any) -> str:
    """A type as a reader of recipes would write it: ``int``, ``list[str]``, ``'sav' | 'sa1b'``, ``samplers component``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([type_name(arguments[0]), *map(str, arguments[1:])])
    if kind := kind_of(annotation):
        return f"{kind} component"
    if annotation is None or annotation is type(None):
        return "null"
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if arguments and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join('...' if a is ... else type_name(a) for a in arguments)}]"
    return getattr(annotation, "__name__", str(annotation))
