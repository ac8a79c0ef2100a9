"""Loading, checking and building: the recipe as the engine and the commands use it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.contracts import UserError
from core.installed.shipped import find_recipe
from core.recipe.cross_checks import cross_check
from core.recipe.faults import COMMAND_LINE, DEFAULT, Fault, KeyPath, Origin, path_text
from core.recipe.interpolate import resolve
from core.recipe.moving import Moving, require_plain
from core.recipe.names import check_names
from core.recipe.paths import expand
from core.recipe.plan import Node, Planner, nodes
from core.recipe.reader import Typed
from core.recipe.schema import RecipeSchema, drop_removed, fill_defaults
from core.recipe.source import read
from core.registry import Component, Registry, is_local, local_path


@dataclass
class Plan:
    """The matched tree and what does not fit."""

    root: Node
    faults: list[Fault]


@dataclass
class Recipe:
    """A loaded recipe. Nothing is known yet of its components: see ``check``."""

    file: Path
    values: dict[str, Any]  # resolved, with the top-level defaults
    origins: dict[KeyPath, Origin]
    faults: list[Fault]  # of writing and of interpolation
    broken: set[KeyPath] = field(default_factory=set)  # without a value; each has its fault
    from_environment: dict[KeyPath, str] = field(default_factory=dict)  # written with ${oc.env:...}: as written
    shipped: dict[KeyPath, str] = field(default_factory=dict)  # written as ${shipped:...}: as written
    variables: dict[KeyPath, str] = field(default_factory=dict)  # written with ${data.NAME} and no other reference: as written
    readable: bool = True
    exchanged: set[KeyPath] = field(default_factory=set)  # components of the file that the command line names anew
    notes: list[str] = field(default_factory=list)  # for the user to read, after ``check``
    typed: Typed = field(default_factory=Typed)  # texts of the command line of which YAML makes something else
    plans: dict[Registry, Plan] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def locate(self, path: KeyPath) -> Origin:
        """Of the key, or of the nearest key around it."""
        return next(self.origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.origins)

    def origin(self, path: KeyPath) -> str:
        """``file:line``, ``command line`` or ``default``."""
        return str(self.locate(path))

    def foreign(self, path: KeyPath) -> bool:
        """Whether a key was written for a component that ``....use=other`` has exchanged. What the command line gives is not."""
        inside = (origin for place, origin in self.origins.items() if place[: len(path)] == path)
        return path[:-1] in self.exchanged and COMMAND_LINE not in inside

    def take_texts(self, taken: Mapping[KeyPath, str]) -> None:
        """Puts texts as they were typed where a key asks for text and YAML read something else."""
        for path, text in taken.items():
            around: Any = self.values
            for key in path[:-1]:
                around = around[key]
            around[path[-1]] = text

    def give(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Sets a key as if ``origin`` had given it; it is checked anew."""
        around: Any = self.values
        for key in path[:-1]:
            around = around[key]
        around[path[-1]] = value
        self.origins[path] = origin
        self.plans.clear()

    def given(self, path: KeyPath) -> bool:
        """Whether a key was written, rather than a default."""
        return self.origins.get(path, DEFAULT) != DEFAULT

    def leave_out(self, paths: Iterable[KeyPath]) -> None:
        """Takes keys out of the recipe, with a note for each."""
        for path in paths:
            around: Any = self.values
            for key in path[:-1]:
                around = around[key]
            del around[path[-1]]
            self.faults = [fault for fault in self.faults if fault.path[: len(path)] != path]
            self.notes.append(f"{self.origin(path)}: {path_text(path)} is left out: {around['use']} does not take it")


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, lays it over its base, applies overrides, fills top-level defaults and resolves ``${...}``.

    ``path``: a file, or the name of a shipped recipe. Faults are collected in ``faults``; only a file that cannot be read at all,
    or a name that is none, raises ``UserError``.
    """
    path = find_recipe(path)
    source = read(path, overrides)
    drop_removed(source.values)
    if source.readable:
        fill_defaults(source.values, source.origins)
    written = {place: str(_value_at(source.values, place)) for place in source.origins}
    environment = {place: text for place, text in written.items() if "oc.env" in text}
    shipped = {place: text for place, text in written.items() if text.startswith("${shipped:")}
    variables = {place: text for place, text in written.items() if _only_of_data(text)}
    values, broken = resolve(source)
    expand(values, lambda place, message: source.faults.append(Fault(source.origins[place], place, message)))
    return Recipe(
        path,
        values,
        source.origins,
        source.faults,
        broken,
        environment,
        shipped,
        variables,
        source.readable,
        source.exchanged,
        source.notes,
        source.typed,
    )


def _only_of_data(text: str) -> bool:
    """Whether a text refers to the recipe's own variables, ``data``, and to nothing else."""
    return "${data." in text and all(part.startswith("data.") for part in text.replace("\\${", "").split("${")[1:])


def _value_at(values: Any, path: KeyPath) -> Any:
    """The plain value at a path, None for mappings, lists and what is not there."""
    for key in path:
        inside = (isinstance(values, dict) and key in values) or (isinstance(values, list) and isinstance(key, int) and key < len(values))
        values = values[key] if inside else None
    return None if isinstance(values, dict | list) else values


def check(recipe: Recipe, registry: Registry) -> list[Fault]:
    """All faults of the recipe, by file and line; the command line comes last. Imports the components it names.

    Keys that an exchanged component does not take are left out of the recipe; ``notes`` says which.
    """
    planned = plan_of(recipe, registry).faults  # first: leaving out a key also removes the key's faults
    return in_order([*recipe.faults, *planned])


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Each fault once, by file and line; the command line comes last."""
    return sorted(dict.fromkeys(faults), key=lambda fault: (fault.origin == COMMAND_LINE, fault.origin.place, fault.origin.line))


def plan_of(recipe: Recipe, registry: Registry) -> Plan:
    """The recipe matched with the components' signatures; done once for each registry."""
    if registry not in recipe.plans:
        planner = Planner(registry, recipe.locate, recipe.broken, recipe.from_environment, recipe.foreign, recipe.typed)
        root = Node(())
        if recipe.readable:
            root = planner.plan(RecipeSchema, recipe.values, ())
            recipe.take_texts(planner.taken)
            cross_check(recipe.values, root, planner.fault)
            check_names(recipe.values, planner.fault)
            planner.close()
            recipe.leave_out(planner.left_out)
        recipe.plans[registry] = Plan(root, planner.faults)
    return recipe.plans[registry]


def moving_numbers(recipe: Recipe, registry: Registry) -> dict[KeyPath, Moving]:
    """The numbers of the recipe that move with the updates."""
    return {node.path: node.moving for node in nodes(plan_of(recipe, registry).root) if node.moving is not None}


def build(recipe: Recipe, path: KeyPath, registry: Registry, parts: dict[KeyPath, Any] | None = None) -> Any:
    """Builds what stands at a key path, nested components first; the engine's keys (a task's ``data``) are left out.

    ``parts``, if it is given, gets each component that is built, by its key path.

    Raises ``UserError`` with the place in the recipe, also for a constructor's ``ValueError``.
    """
    if faults := check(recipe, registry):
        raise UserError(str(faults[0]) + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    node = plan_of(recipe, registry).root
    for key in path:
        if key not in node.children:
            raise KeyError(f"{path_text(path)} is not in the recipe {recipe.file}")
        node = node.children[key]
    return _build(recipe, node, {} if parts is None else parts)


def built_keys(recipe: Recipe, path: KeyPath, registry: Registry) -> dict[str, Any]:
    """The keys that are given to the component at a key path, built as for its constructor, without the component itself."""
    given: Any = recipe.values
    for key in path:
        given = given[key]
    return {key: build(recipe, (*path, key), registry) for key in given if key != "use"}


def _build(recipe: Recipe, node: Node, parts: dict[KeyPath, Any]) -> Any:
    if node.make is None:
        return node.value
    given = {key: _build(recipe, child, parts) for key, child in node.children.items() if key not in node.engine_keys}
    if node.component is None:
        return node.make(given)
    try:
        parts[node.path] = construct(node, given)
        return parts[node.path]
    except (ValueError, UserError, FileNotFoundError) as error:
        raise UserError(str(Fault(recipe.locate(node.path), node.path, str(error)))) from error


def construct(node: Node, given: dict[Any, Any]) -> Any:
    """The component of a node, of its built children. Raises what the constructor raises, or that a number cannot move."""
    assert node.make is not None
    assert node.component is not None
    for key, child in node.children.items():
        if child.moving is not None:
            require_plain(node.make, given, str(key), child.moving.last, node.component.entry.name)
    return node.make(given)


def components_used(recipe: Recipe, registry: Registry) -> list[tuple[KeyPath, Component]]:
    """Each component of the recipe with its key path."""
    return [(node.path, node.component) for node in nodes(plan_of(recipe, registry).root) if node.component is not None]


def paths_in(recipe: Recipe, registry: Registry) -> dict[KeyPath, Path]:
    """Every path that the recipe gives, by its place."""
    return {node.path: node.value for node in nodes(plan_of(recipe, registry).root) if isinstance(node.value, Path)}


def path_report(recipe: Recipe, registry: Registry) -> list[tuple[str, Path, bool, str]]:
    """(key path, path, whether it exists, origin) of every parameter of type ``Path`` that the recipe gives.

    Relative paths are meant from the current folder.
    """
    leaves = [node for node in nodes(plan_of(recipe, registry).root) if isinstance(node.value, Path)]
    return [(path_text(node.path), node.value, node.value.exists(), recipe.origin(node.path)) for node in leaves]


def local_files(recipe: Recipe) -> list[Path]:
    """The files of ``use: ./file.py:Object``. Raises ``UserError`` where two have one name: a run folder keeps both."""
    found: dict[str, Path] = {}
    for place, use in _uses({k: v for k, v in recipe.values.items() if k != "data"}, ()):
        file = local_path(use, recipe.locate(place).folder) if is_local(use) else None
        if file is not None and found.setdefault(file.name, file) != file:
            raise UserError(f"{file} and {found[file.name]} have the same name: rename one, the run folder keeps a copy of both")
    return list(found.values())


def _uses(value: Any, path: KeyPath) -> list[tuple[KeyPath, str]]:
    if isinstance(value, list):
        return [use for index, item in enumerate(value) for use in _uses(item, (*path, index))]
    if not isinstance(value, dict):
        return []
    here = [((*path, "use"), value["use"])] if isinstance(value.get("use"), str) else []
    return here + [use for key, item in value.items() for use in _uses(item, (*path, key))]
