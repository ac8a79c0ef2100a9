"""Checks plain values against plain types. Nothing is converted, except an integer to a float where a float is asked for."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any, Literal

from core.contracts import UserError
from core.installed.home import home
from core.recipe.faults import shown
from core.recipe.scalars import plain_value, why_no_number
from core.registry.signature import type_name

_SPOKEN = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path", type(None): "null"}
_HALF, _WHOLE = ("bf16", "bfloat16"), ("fp32", "float32")
#: Words that are no choice, and the choices that are meant by them.
_MEANT: dict[str, tuple[str, ...]] = {"gpu": ("cuda",), "zero": ("deepspeed",), "fsdp": ("fsdp2",), "dp": ("ddp",)}
_MEANT |= dict.fromkeys(("fp16", "float16", "half", "mixed", "amp", "16", "bf16", "bfloat16"), _HALF)
_MEANT |= dict.fromkeys(("float32", "fp32", "float", "single", "32"), _WHOLE)
_MEANT |= dict.fromkeys(("max", "higher"), ("highest",)) | dict.fromkeys(("min", "lower"), ("lowest",))


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
        try:
            return home(value)
        except UserError as error:
            raise Unfit(str(error)) from None
    if type(value) is annotation:
        return value
    raise Unfit(f"expected {_SPOKEN[annotation]}, got {shown(value)}{_hint(annotation, value, environment)}")


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    if any(type(choice) is type(value) and choice == value for choice in choices):
        return value
    words = [choice for choice in choices if isinstance(choice, str)]
    near = [word for word in _MEANT.get(str(value).lower(), ()) if word in words]
    near = near or (difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else [])
    hint = f": did you mean {near[0]!r}?" if near else _hint(type(choices[0]), value, False)
    raise Unfit(f"expected {' or '.join(map(repr, choices))}, got {shown(value)}{hint}")


def takes_text(annotation: Any, text: str) -> bool:
    """Whether a value of this type is the text that was typed, whatever YAML reads in it."""
    return annotation in (str, Path) or (typing.get_origin(annotation) is Literal and text in typing.get_args(annotation))


def _hint(annotation: type, value: Any, environment: bool) -> str:
    """What to write instead, if that is known."""
    if annotation is str and value is not None and not isinstance(value, str | dict | list):
        return ": put it in quotes" + (" (without them yes, no, on and off are booleans)" if isinstance(value, bool) else "")
    if annotation is int and isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if annotation not in (int, float, bool) or not isinstance(value, str):
        return ""
    if environment:
        return ": an environment variable is text, ${oc.decode:${oc.env:NAME}} reads it as a value"
    if annotation is not bool and (why := why_no_number(value)):
        return why
    bare = plain_value(value)
    return ": take the quotes off" if isinstance(bare, int | float) and isinstance(bare, bool) == (annotation is bool) else ""
