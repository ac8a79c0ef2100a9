"""The page of one component: what it is, its recipe keys, its description, where it lives."""

from __future__ import annotations

import difflib
import inspect

from core.contracts import KINDS, UserError
from core.registry.kinds import PLURAL
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
    lines += _parameters(component.parameters, "    ")
    lines += _offers(component)
    if text := inspect.getdoc(component.object):
        lines += ["", *(f"  {line}".rstrip() for line in text.splitlines())]
    return "\n".join(lines)


def _parameters(keys: tuple[Parameter, ...], indent: str) -> list[str]:
    """A line for each key; the keys of nested records stand below theirs."""
    width = max((len(key.name) for key in keys), default=0)
    lines = []
    for key in keys:
        default = "required" if key.required else "optional" if key.default is OMITTED else f"default {key.default!r}"
        lines.append(f"{indent}{key.name.ljust(width)}  {type_name(key.type)}, {default}")
        lines += _parameters(record_fields(key.type), indent + "  ")
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
