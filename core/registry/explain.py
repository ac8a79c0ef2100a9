"""The page of one component: what it is, its recipe keys, its description, where it lives."""

from __future__ import annotations

import difflib
import inspect
import json
import typing

from core.contracts import KINDS, UserError
from core.registry.described import said_of
from core.registry.kinds import PLACES, PLURAL
from core.registry.offers import offers_of, wanted
from core.registry.registry import AmbiguousName, Component, Registry, UnknownName, is_local
from core.registry.signature import OMITTED, Parameter, record_fields, type_name


def find(registry: Registry, text: str) -> Component:
    """The component that ``NAME``, ``DISTRIBUTION/NAME`` or ``KIND/NAME`` means; raises ``UserError``."""
    kind, _, name = text.partition("/")
    kind = PLURAL.get(kind, kind)
    if kind in KINDS and name:
        return registry.get(kind, name)
    if is_local(text):
        raise UserError(f"write KIND/{text}: the kind of a local object is not known")
    kinds = sorted({e.kind for e in registry.list() if e.name == text.rpartition("/")[2]})
    if len(kinds) > 1:
        raise AmbiguousName(f"{text!r} is a name in several kinds: write " + " or ".join(f"{k}/{text}" for k in kinds))
    if kinds:
        return registry.get(kinds[0], text)
    near = difflib.get_close_matches(text, sorted({e.name for e in registry.list()}), n=3, cutoff=0.5)
    raise UnknownName(f"no component {text!r}" + (f": did you mean {' or '.join(near)}?" if near else ": 'list' shows all"))


def explain(component: Component) -> str:
    """The component's page: what it is, its recipe keys, its description, where it lives."""
    entry = component.entry
    lines = [
        f"{entry.kind}/{entry.name}",
        f"  distribution  {entry.distribution} {entry.version}".rstrip(),
        f"  object        {entry.target}",
        f"  file          {_place(component)}",
    ]
    lines.append("  parameters" if component.parameters else "  parameters    none")
    lines += _parameters(component.parameters, "    ", _texts(component.object))
    lines += _offers(component)
    lines += ["  in a recipe", *(f"    {line}" for line in snippet(component))]
    if text := inspect.getdoc(component.object):
        lines += ["", *(f"  {line}".rstrip() for line in text.splitlines())]
    return "\n".join(lines)


def snippet(component: Component) -> list[str]:
    """Lines to paste into a recipe: all that is required, and what may be left out as comments."""
    places = PLACES[component.entry.kind].split(".")
    lines = ["  " * depth + f"{place}:" for depth, place in enumerate(places)]
    indent = "  " * len(places)
    lines.append(f"{indent}use: {component.entry.name}")
    if component.entry.kind == "loops":
        lines.append(f"{indent}data: {{NAME: {{use: ...}}}}")
    return lines + _filled_in(component.parameters, indent)


def _filled_in(keys: tuple[Parameter, ...], indent: str) -> list[str]:
    lines = []
    for key in sorted(keys, key=lambda key: not key.required):
        inner = record_fields(key.type)
        if not key.required:
            default = "..." if key.default is OMITTED else _as_yaml(key.default)
            lines.append(f"{indent}# {key.name}: {default}")
        elif inner:
            lines += [f"{indent}{key.name}:", *_filled_in(inner, indent + "  ")]
        else:
            kind = type_name(key.type)
            lines.append(f"{indent}{key.name}: " + (f"{{use: ...}}  # {kind}" if kind.endswith("component") else f"...  # {kind}"))
    return lines


def _as_yaml(value: object) -> str:
    """A default as recipes write it; what JSON cannot write, such as a nested record, is left open."""
    try:
        return json.dumps(value)
    except TypeError:
        return "..."


def _texts(component: object) -> str:
    """What the component and its constructor say."""
    constructor = vars(component).get("__init__") if inspect.isclass(component) else None
    return "\n\n".join(text for one in (component, constructor) if one is not None and (text := inspect.getdoc(one)))


def _parameters(keys: tuple[Parameter, ...], indent: str, text: str) -> list[str]:
    """A line for each key, with what ``text`` says about it; the keys of nested records stand below theirs."""
    width = max((len(key.name) for key in keys), default=0)
    lines = []
    for key in keys:
        default = "required" if key.required else "optional" if key.default is OMITTED else f"default {key.default!r}"
        said = said_of(key.name, text)
        lines.append(f"{indent}{key.name.ljust(width)}  {type_name(key.type)}, {default}" + (f": {said}" if said else ""))
        if inner := record_fields(key.type):
            record = next(one for one in (key.type, *typing.get_args(key.type)) if record_fields(one) == inner and inspect.isclass(one))
            lines += _parameters(inner, indent + "  ", inspect.getdoc(record) or "")
    return lines


def _offers(component: Component) -> list[str]:
    """What it has of that which components of its kind may offer beyond their contract."""
    offered = offers_of(component.object, component.entry.kind)
    lines = []
    for word, state in (("offers", True), ("may offer", None), ("offers not", False)):
        if names := [f"{', '.join(wanted(protocol))} ({protocol.__name__})" for protocol, has in offered.items() if has is state]:
            lines += [f"  {word}" + (", known once it is built" if state is None else ""), *(f"    {name}" for name in names)]
    return lines


def _place(component: Component) -> str:
    try:
        return f"{inspect.getsourcefile(component.object)}:{inspect.getsourcelines(component.object)[1]}"
    except (TypeError, OSError):  # not written in Python
        return "unknown"
