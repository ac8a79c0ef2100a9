"""What a built component keeps."""

from __future__ import annotations

from typing import Any

_UNSET = object()  # of a slot that has no value


def attributes(built: Any) -> dict[str, Any]:
    """What an object keeps, by name."""
    slots = [name for cls in type(built).__mro__ for name in vars(cls).get("__slots__", ())]
    found = {name: getattr(built, name, _UNSET) for name in slots} | dict(getattr(built, "__dict__", {}))
    return {name: value for name, value in found.items() if value is not _UNSET}
