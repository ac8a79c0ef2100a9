"""The recipe's keys as Markdown, read off the schema, the installed components' signatures and their docstrings.

``python -m core.components reference`` prints it; the documentation is built with it, so that it cannot be out of date.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from core.contracts import KINDS, OPTIONAL, UserError
from core.recipe.schema import RecipeSchema
from core.recipe.sections import SECTIONS, comments
from core.registry import Component, Registry
from core.registry.signature import OMITTED, Parameter, record_fields, type_name


def reference(registry: Registry) -> str:
    """All keys of a recipe. Imports every component; one that cannot be imported is named with what is wrong."""
    parts = ["# Recipe reference", _INTRODUCTION, "## Top level", _keys(record_fields(RecipeSchema), comments(RecipeSchema))]
    for name, record in SECTIONS.items():
        parts += [f"### `{name}`", _keys(record_fields(record), comments(record))]
    for kind in KINDS:
        parts += [f"## {kind}", *components(registry, kind)]
    return "\n\n".join(parts) + "\n"


def components(registry: Registry, kind: str, distribution: str | None = None) -> list[str]:
    """A section for each installed component of a kind; of one ``distribution`` alone where it is given."""
    sections = []
    for entry in registry.list(kind):
        if distribution not in (None, entry.distribution):
            continue
        try:
            sections.append(_component(registry.get(kind, entry.name)))
        except UserError as error:
            sections.append(f"### `{entry.name}`\n\nCannot be loaded: {error}")
    return sections


def contract(kind: str) -> str:
    """The protocol of a kind as it stands in ``core/contracts/``, with its parts, both call shapes of losses, and what is optional."""
    protocol: Any = KINDS[kind]
    parts = [one for one in protocol.__mro__[:0:-1] if one.__module__.startswith("core.contracts")]
    own = [one for one in protocol.__subclasses__() if one.__module__.startswith("core.contracts")]
    texts = [_source(one) for one in (*parts, protocol, *own)]
    if optional := OPTIONAL.get(kind):
        texts += ["# What it may offer beyond that:", *map(_source, optional)]
    return "\n\n\n".join(texts)


def _source(protocol: type) -> str:
    return inspect.getsource(protocol).replace("@runtime_checkable\n", "").strip()


def _component(component: Component) -> str:
    what = component.object
    texts = [f"### `{component.entry.name}`", inspect.getdoc(what) or "", _keys(component.parameters, {})]
    if inspect.isclass(what) and "__init__" in vars(what) and vars(what)["__init__"].__doc__:
        texts.insert(2, inspect.cleandoc(vars(what)["__init__"].__doc__))
    return "\n\n".join(text.replace("``", "`") for text in texts if text)


def _keys(keys: tuple[Parameter, ...], comments: dict[str, str], prefix: str = "") -> str:
    rows = list(_rows(keys, comments, prefix))
    if not rows:
        return "No keys."
    commented = any(row[3] for row in rows)
    head = ["| key | type | default |" + (" |" if commented else ""), "|---|---|---|" + ("---|" if commented else "")]
    return "\n".join(head + ["| " + " | ".join(row if commented else row[:3]) + " |" for row in rows])


def _rows(keys: tuple[Parameter, ...], comments: dict[str, str], prefix: str) -> typing.Iterator[list[str]]:
    for key in keys:
        record = dataclasses.is_dataclass(key.type) and not prefix and key.name in SECTIONS
        default = "**required**" if key.required else "" if key.default is OMITTED or record else f"`{_written(key.default)}`"
        what = f"see [`{key.name}`](#{key.name})" if record else f"`{_spoken(key.type)}`"
        yield [f"`{prefix}{key.name}`", what, default, comments.get(key.name, "")]
        if not record:
            yield from _rows(record_fields(key.type), {}, f"{prefix}{key.name}.")


def _spoken(annotation: Any) -> str:
    """A type without the sign that divides a table's columns."""
    optional = " or null" if type(None) in typing.get_args(annotation) else ""
    return f"mapping{optional}" if record_fields(annotation) else type_name(annotation).replace(" | ", " or ")


def _written(default: Any) -> str:
    """A default as YAML has it."""
    words = {None: "null", True: "true", False: "false"}
    return words[default] if default is None or isinstance(default, bool) else str(default)


_INTRODUCTION = """\
A recipe is a YAML file of these keys. `use: NAME` chooses a component; the keys beside it are the parameters of its constructor. `base:
OTHER.yaml` takes another recipe and changes it, `${data.name}` and `${oc.env:NAME,default}` insert values, `${shipped:assets/NAME}` is
what comes with dualloop, `key.path=value` on the command line overrides. Every fault is reported at once with file and line: `python -m
core.run RECIPE --check`; `--resolved` prints the whole recipe with defaults and where each value was given, `--schema` a JSON Schema for
editors. No value is converted, except an integer where a number is asked for. Numbers are written as everywhere (`1e-4`, `.5`, `1_000`,
`0x10`); `0123`, `12:30` and dates are text, `yes`, `no`, `on` and `off` are booleans. On the command line a key that asks for text gets
it as it was typed (`name=123`, `output='my runs #3'`): nothing there is a comment. `~` in a path is the home folder. In the tables
"samplers component" and the like are mappings with `use`."""
