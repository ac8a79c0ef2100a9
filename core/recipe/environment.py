"""Environment variables that a recipe reads with ``${oc.env:NAME}``, and exported names that are nearly theirs."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection

_VARIABLE = re.compile(r"oc\.env:\s*([A-Za-z_]\w*)")


def variables(text: str) -> set[str]:
    """The names that a value reads."""
    return set(_VARIABLE.findall(text))


def near_variable(name: str, asked: Collection[str]) -> str | None:
    """A variable that is set, is not ``asked`` for itself, and has this name but for a slip of the keyboard.

    Only long names that begin alike count; those that differ in digits alone, as names in a row do, do not.
    """
    exported = [one for one in os.environ if one not in asked and one[:3] == name[:3] and _letters(one) != _letters(name)]
    near = difflib.get_close_matches(name, exported, n=1, cutoff=0.85) if len(name) >= 8 else []
    return near[0] if near else None


def _letters(name: str) -> str:
    return re.sub(r"\d", "", name)
