"""Checks plain values against plain types. Nothing is converted, except an integer to a float where a float is asked for."""

from __future__ import annotations

import difflib
import re
import typing
from pathlib import Path
from typing import Any, Literal

from core.recipe.faults import shown
from core.registry.signature import type_name

_SPOKEN = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "null"}
_FLOAT = re.compile(r"([-+]?)(\d*)\.?(\d*)[eE]([-+]?)(\d+)")


class Unfit(Exception):
    """The value does not have the type; the message says what was expected and what was given."""


class NotGiveable(Exception):
    """No recipe can give a value of this type."""


def leaf(annotation: Any, value: Any, environment: bool) -> Any:
    """The value as the constructor gets it. ``environment``: it is a variable's text. Raises ``Unfit``, ``NotGiveable``."""
    if annotation is Any or annotation is object:
        return value
    if typing.get_origin(annotation) is Literal:
        return _literal(typing.get_args(annotation), value)
    if annotation is None:
        annotation = type(None)
    if annotation not in _SPOKEN:
        raise NotGiveable(type_name(annotation))
    if annotation is float and type(value) in (int, float):
        return float(value)
    if annotation is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if type(value) is annotation:
        return value
    raise Unfit(f"expected {_SPOKEN[annotation]}, got {shown(value)}{_hint(annotation, value, environment)}")


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    if any(type(choice) is type(value) and choice == value for choice in choices):
        return value
    near = difflib.get_close_matches(value, [c for c in choices if isinstance(c, str)], n=1) if isinstance(value, str) else []
    hint = f": did you mean {near[0]!r}?" if near else _hint(type(choices[0]), value, False)
    raise Unfit(f"expected {' or '.join(map(repr, choices))}, got {shown(value)}{hint}")


def _hint(annotation: type, value: Any, environment: bool) -> str:
    """What to write instead, if that is known."""
    if annotation is str and value is not None and not isinstance(value, str | dict | list):
        return ": put it in quotes" + (" (YAML 1.1 reads yes, no, on and off as booleans)" if isinstance(value, bool) else "")
    if annotation not in (int, float, bool) or not isinstance(value, str):
        return ""
    if environment:
        return ": an environment variable is text, ${oc.decode:${oc.env:NAME}} reads it as a value"
    if annotation is float and (parts := _FLOAT.fullmatch(value)):
        sign, whole, fraction, exponent_sign, exponent = parts.groups()
        plain = f"{sign}{whole or 0}.{fraction or 0}e{exponent_sign or '+'}{exponent}"
        if plain != value:
            return f": YAML 1.1 reads this as text, write {plain}"
    if re.fullmatch(r"[-+]?\d[\d.]*([eE][-+]\d+)?|true|false", value):
        return ": take the quotes off"
    return ""
