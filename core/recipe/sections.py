"""The page of a recipe's section or key, for those who ask for it as if it were a component."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from core.recipe.schema import Checkpoint, Launch, LoopEntry, RecipeSchema, Train
from core.registry.kinds import PLACES
from core.registry.signature import OMITTED, Parameter, record_fields, type_name

SECTIONS: dict[str, Any] = {"train": Train, "checkpoint": Checkpoint, "launch": Launch, "loops.NAME": LoopEntry}
_COMMENT = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)


def comments(record: Any) -> dict[str, str]:
    """What the schema says of each key of a record."""
    return dict(_COMMENT.findall(inspect.getsource(record)))


def section(asked: str, components: str) -> str | None:
    """The page of a key such as ``train`` or ``train.updates``, None for what is no key; ``components`` is how that command is started."""
    name, _, inner = asked.partition(".")
    top = {key.name: key for key in record_fields(RecipeSchema)}
    if name not in top:
        return None
    record = LoopEntry if name == "loops" else SECTIONS.get(name)
    keys = record_fields(record) if record else ()
    if inner and inner not in {key.name for key in keys}:
        return None
    if inner:
        return _line(next(key for key in keys if key.name == inner), comments(record), f"{asked}  ")
    head = f"{name} is a key of recipes, not a component: {comments(RecipeSchema)[name]}" if name in comments(RecipeSchema) else ""
    lines = [head or f"{name} is a section of recipes, not a component; its keys:"]
    kinds = [kind for kind, place in PLACES.items() if place.split(".")[0] == name]
    lines += [_line(key, comments(record), f"  {key.name.ljust(max(len(one.name) for one in keys))}  ") for key in keys]
    lines += [f"  {kind}: use: NAME chooses one; {components} list {kind} shows them" for kind in kinds]
    return "\n".join(lines if len(lines) > 1 else [f"{lines[0]} ({type_name(top[name].type)})"])


def _line(key: Parameter, said: dict[str, str], before: str) -> str:
    default = "required" if key.required else "optional" if key.default is OMITTED else f"default {key.default!r}"
    spoken = "mapping" if dataclasses.is_dataclass(key.type) else type_name(key.type)
    return f"{before}{spoken}, {default}" + (f"; {said[key.name]}" if key.name in said else "")
