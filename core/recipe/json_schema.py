"""A JSON Schema (2020-12) of recipes with the installed components, for editors."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from core.contracts import KINDS, UserError, Within
from core.recipe.moving import MOVABLE, moving_keys
from core.recipe.schema import EngineKeys, LoopEntry, RecipeSchema, Source, Surgery, Task
from core.registry import Component, Registry
from core.registry.signature import Parameter, kind_of, record_fields

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
_LOCAL = {"type": "object", "properties": {"use": {"type": "string", "pattern": ":"}}, "required": ["use"]}
_INTERPOLATION = {"type": "string", "pattern": r"\$\{"}


def json_schema(registry: Registry) -> dict[str, Any]:
    """Imports every component; those that cannot be imported are left out and named in ``$comment``."""
    skipped: list[str] = []
    definitions: dict[str, Any] = {}
    for kind in KINDS:
        definitions[kind] = _kind(registry, kind, EngineKeys(), skipped)
    for annotation in (Task, Source, Surgery):  # components with keys of the engine's beside their own
        component, note = typing.get_args(annotation)
        definitions[_with_engine_keys(component, note)] = _kind(registry, str(kind_of(component)), note, [])
    top = _object(record_fields(RecipeSchema))
    top["properties"]["base"] = {"type": "string", "description": "one recipe below this one; required keys may stand there"}
    top["properties"]["data"] = {"type": "object"}
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dualloop recipe"}
    schema |= {"if": {"required": ["base"]}, "then": _partial(top), "else": top}
    schema["$defs"] = definitions | {f"part-of-{name}": _partial(definition) for name, definition in definitions.items()}
    if skipped:
        schema["$comment"] = "left out: " + "; ".join(skipped)
    return schema


def _partial(schema: Any) -> Any:
    """What may stand in a recipe that builds on another one: any of the keys, and parts of a component without its name."""
    if isinstance(schema, list):
        return [_partial(one) for one in schema]
    if not isinstance(schema, dict) or schema is _LOCAL:
        return schema
    if name := schema.get("$ref"):
        return _ref(f"part-of-{name.rpartition('/')[2]}")
    parts = {key: _partial(value) for key, value in schema.items() if key != "required" or not isinstance(value, list)}
    if "oneOf" in parts:  # the same keys may belong to several components
        parts["anyOf"] = parts.pop("oneOf")
    return parts


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _with_engine_keys(component: Any, note: EngineKeys) -> str:
    """The name of a definition."""
    return "-".join([str(kind_of(component)), "with", *note.types, *note.optional])


def _kind(registry: Registry, kind: str, engine: EngineKeys, skipped: list[str]) -> dict[str, Any]:
    """Any component of a kind; ``engine``: keys beside the component's own."""
    choices = []
    for entry in registry.list(kind):
        try:
            choices.append(_component(registry.get(kind, entry.name), engine))
        except UserError as error:
            skipped.append(str(error))
    return {"oneOf": [*choices, _LOCAL]}


def _component(component: Component, engine: EngineKeys) -> dict[str, Any]:
    schema = _object(component.parameters, component.entry.kind in MOVABLE)
    beside = {name: _type(annotation) for name, annotation in (*engine.types.items(), *engine.optional.items())}
    schema["properties"] = {"use": {"const": component.entry.name}, **schema["properties"], **beside}
    schema["required"] = ["use", *schema["required"], *engine.types]
    if text := (component.object.__doc__ or "").strip():
        schema["description"] = text.split("\n\n")[0]
    return schema


def _object(keys: tuple[Parameter, ...], moving: bool = False) -> dict[str, Any]:
    """``moving``: whether numbers among the keys may move with the updates."""
    properties = {key.name: _number_or_moving(key.type) if moving and _is_number(key.type) else _type(key.type) for key in keys}
    required = [key.name for key in keys if key.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _is_number(annotation: Any) -> bool:
    plain = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    return plain in (int, float)


def _number_or_moving(annotation: Any) -> dict[str, Any]:
    """A number, or how it moves: the ranges hold at both ends."""
    number = _type(annotation)
    moving = _object(moving_keys(annotation))
    return {"anyOf": [number, moving]}


def _type(annotation: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:])
    if kind := kind_of(annotation):
        return _ref(kind)
    if typing.is_typeddict(annotation) or dataclasses.is_dataclass(annotation):
        return _object(record_fields(annotation), moving=annotation is LoopEntry)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(branch) for branch in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    container = origin or annotation
    if container in (list, tuple, Sequence):
        one = arguments and (container is not tuple or arguments[-1] is ...)
        return {"type": "array", "items": _type(arguments[0]) if one else {}}
    if container in (dict, Mapping):
        return {"type": "object", "additionalProperties": _type(arguments[1]) if arguments else {}}
    if annotation in _PLAIN:
        plain = {"type": _PLAIN[annotation]}
        return plain if annotation in (str, Path) else {"anyOf": [plain, _INTERPOLATION]}
    return {}


def _annotated(annotation: Any, notes: tuple[Any, ...]) -> dict[str, Any]:
    if engine := next((note for note in notes if isinstance(note, EngineKeys)), None):
        return _ref(_with_engine_keys(annotation, engine))
    schema = _type(annotation)
    for note in notes:
        if isinstance(note, Within):
            if schema.get("type") == "object":
                schema |= {"minProperties": int(note.low)}
                continue
            ends = {"minimum": note.low, "maximum": note.high, "exclusiveMinimum": note.above, "exclusiveMaximum": note.below}
            schema |= {name: end for name, end in ends.items() if end is not None and math.isfinite(end)}
    return schema
