"""A JSON Schema (2020-12) of recipes with the installed components, for editors."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from core.contracts import KINDS, UserError, Within
from core.recipe.schema import EngineKeys, RecipeSchema
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
        definitions[kind] = _kind(registry, kind, {}, skipped)
    task = _kind(registry, "loops", {"data": {"type": "object", "additionalProperties": _ref("datasets"), "minProperties": 1}}, [])
    top = _object(record_fields(RecipeSchema), {})
    top["properties"]["base"] = {"type": "string", "description": "one recipe below this one; required keys may stand there"}
    top["properties"]["data"] = {"type": "object"}
    required = top.pop("required")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dualloop recipe", **top}
    schema["anyOf"] = [{"required": ["base"]}, {"required": required}]
    schema["$defs"] = {**definitions, "task": task}
    if skipped:
        schema["$comment"] = "left out: " + "; ".join(skipped)
    return schema


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _kind(registry: Registry, kind: str, engine: dict[str, Any], skipped: list[str]) -> dict[str, Any]:
    """Any component of a kind; ``engine``: schemas of keys beside the component's own."""
    choices = []
    for entry in registry.list(kind):
        try:
            choices.append(_component(registry.get(kind, entry.name), engine))
        except UserError as error:
            skipped.append(str(error))
    return {"oneOf": [*choices, _LOCAL]}


def _component(component: Component, engine: dict[str, Any]) -> dict[str, Any]:
    schema = _object(component.parameters, engine)
    schema["properties"] = {"use": {"const": component.entry.name}, **schema["properties"]}
    schema["required"] = ["use", *schema["required"], *engine]
    if text := (component.object.__doc__ or "").strip():
        schema["description"] = text.split("\n\n")[0]
    return schema


def _object(keys: tuple[Parameter, ...], engine: dict[str, Any]) -> dict[str, Any]:
    properties = {key.name: _type(key.type) for key in keys}
    required = [key.name for key in keys if key.required]
    return {"type": "object", "properties": {**properties, **engine}, "required": required, "additionalProperties": False}


def _type(annotation: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:])
    if kind := kind_of(annotation):
        return _ref(kind)
    if typing.is_typeddict(annotation) or dataclasses.is_dataclass(annotation):
        return _object(record_fields(annotation), {})
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
    if any(isinstance(note, EngineKeys) for note in notes):
        return _ref("task")
    schema = _type(annotation)
    for note in notes:
        if isinstance(note, Within):
            schema |= {"minProperties": int(note.low)} if schema.get("type") == "object" else {"minimum": note.low}
            schema |= {"maximum": note.high} if note.high != float("inf") else {}
    return schema
