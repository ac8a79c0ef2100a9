"""What unquoted words of YAML mean: numbers as everybody writes them, in files, on the command line, and written back.

The core schema of YAML 1.2, and of YAML 1.1 what recipes have always had: ``1_000`` is a number, ``yes``, ``no``, ``on`` and ``off``
are booleans. ``0123`` and ``12:30``, which YAML 1.1 would turn into 83 and 750, stay text, and so do dates: a number written so is refused.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

PLAIN = "plain"  # the tag of an unquoted scalar without a tag of its own
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,400}|[1-9][0-9]{0,2}(_[0-9]{3})+|0x[0-9a-fA-F]{1,400}|0o[0-7]{1,400})")
_FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]{3})*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(?![0-9_]*[.eE])")
_INFINITE = {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
_INFINITE |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None}
_WORDS |= dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)


def plain_value(written: str) -> Any:
    """None, a boolean, an integer, a float, or else the text itself."""
    word = written.lower() if written in (written.lower(), written.upper(), written.capitalize()) else written
    if word in _WORDS:
        return _WORDS[word]
    if written in _INFINITE:
        return _INFINITE[written]
    if _INTEGER.fullmatch(written):
        return int(written.replace("_", ""), 10 if written.lstrip("+-")[:2] not in ("0x", "0o") else 0)
    if _FLOAT.fullmatch(written) and not _LEADING_ZERO.match(written):
        value = float(written.replace("_", ""))
        return value if _holds(value, written) else written
    return written


def why_no_number(written: str) -> str:
    """What to write instead of a text that looks like a number and is not read as one; empty where it does not look so."""
    if _LEADING_ZERO.fullmatch(written):
        sign = "-" if written[0] == "-" else ""
        return f": a number has no zeros in front, write {sign}{written.lstrip('+-').lstrip('0_') or '0'}"
    if _FLOAT.fullmatch(written) and not _holds(float(written.replace("_", "")), written):
        return ": this is beyond what a float can hold"
    if re.fullmatch(r"[-+]?[0-9]+(:[0-9]+)+", written):
        return ": a time or a ratio is no number, write out its value"
    if re.fullmatch(r"[-+]?[0-9]*,[0-9]+", written):
        return f": write {written.replace(',', '.')}, with a point"
    return ": write digits without signs between them" if re.fullmatch(r"[-+]?[0-9]+[_' ][0-9_' ]*", written) else ""


def _holds(value: float, written: str) -> bool:
    """Whether a float keeps what was written: neither too large nor too near to 0."""
    return math.isfinite(value) and (value != 0 or not re.search(r"[1-9]", re.split("[eE]", written)[0]))


class Loader(yaml.SafeLoader):
    """Composes nodes; unquoted scalars get the tag ``PLAIN`` and are left to ``plain_value``."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0] and value != "<<":
            return PLAIN
        return str(super().resolve(kind, value, implicit))


class Dumper(yaml.SafeDumper):
    """Puts in quotes what ``plain_value``, or an editor that reads YAML 1.1, would not read as the same text."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))


def one_line(value: Any) -> str:
    """One line of YAML; lists and mappings in flow style."""
    style = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.dump(
        value, None, Dumper, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
