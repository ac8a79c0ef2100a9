"""Names -> components, from the entry points of the installed distributions (group ``dualloop.<kind>``).

Listing reads metadata and imports no plugin. ``get`` imports exactly one module, so a plugin that cannot be imported
hurts only those who name it. Nothing overrides silently: a name that two distributions give is an error when used.
"""

from __future__ import annotations

import builtins
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from core.contracts import KINDS, UserError
from core.registry.signature import Parameter, SignatureError, missing_members, missing_methods, parameters

GROUP = "dualloop."


class UnknownName(UserError):
    """No component of the kind has the name."""


class BrokenPlugin(UserError):
    """The component is declared, but cannot be imported."""


class AmbiguousName(UserError):
    """Several distributions declare the name."""


class ContractViolation(UserError):
    """The object does not do what its kind asks for."""


@dataclass(frozen=True)
class Entry:
    """One registered component; nothing of it has been imported."""

    kind: str
    name: str
    distribution: str
    version: str
    target: str  # "module:attribute"

    def __str__(self) -> str:
        if self.target == self.name:  # a local object
            return f"{self.name} in {self.kind}"
        return f"{self.kind}/{self.name} ({self.target} of {f'{self.distribution} {self.version}'.rstrip()})"


@dataclass(frozen=True)
class Component:
    """An imported component: its class or factory function."""

    entry: Entry
    object: Callable[..., Any]
    file: Path | None = None  # of a local ``./file.py:Object``

    @property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.object)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The keys of its recipe entry. Raises ``ContractViolation`` for a signature that no recipe can describe."""
        try:
            return parameters(self.object)
        except (SignatureError, ValueError) as error:  # ValueError: a builtin without a signature
            raise ContractViolation(f"{self.entry}: {error}") from error

    def create(self, **arguments: Any) -> Any:
        """Builds it and checks the result. Raises ``ContractViolation`` and whatever the constructor raises."""
        built = self.object(**arguments)
        if missing := missing_members(built, KINDS[self.entry.kind]):
            contract = KINDS[self.entry.kind].__name__
            raise ContractViolation(f"{self.entry} gave a {type(built).__name__}, which is no {contract}: it lacks {', '.join(missing)}")
        return built


class Registry:
    """The components that are installed when it is made."""

    def __init__(self) -> None:
        kinds = list(KINDS)
        self._entries = sorted(_installed(), key=lambda e: (kinds.index(e.kind) if e.kind in KINDS else -1, e.name, e.distribution))

    def list(self, kind: str | None = None) -> builtins.list[Entry]:
        """The entries of one kind, or of all, by kind and name."""
        if kind is not None:
            _check_kind(kind)
        return [entry for entry in self._entries if entry.kind in KINDS and kind in (None, entry.kind)]

    def unique(self, entry: Entry) -> bool:
        """Whether its short name means it alone."""
        return sum(other.name == entry.name for other in self.list(entry.kind)) == 1

    def strays(self) -> builtins.list[str]:
        """One sentence for each entry whose group is no kind, e.g. a misspelt one."""
        strays = [e for e in self._entries if e.kind not in KINDS]
        return [f"{e.distribution} declares {e.name!r} in the group {GROUP}{e.kind}, which is no kind" for e in strays]

    def get(self, kind: str, name: str, relative_to: Path | None = None) -> Component:
        """Imports a component: ``name``, ``distribution/name``, ``package.module:Object`` or ``./file.py:Object``.

        A file's path starts at the folder ``relative_to`` (default: the current one). Raises the errors of this module.
        """
        _check_kind(kind)
        if is_local(name):
            return _local(kind, name, relative_to or Path.cwd())
        entry = self._find(kind, name)
        module, _, attribute = entry.target.partition(":")
        return _component(entry, _guarded(entry, lambda: importlib.import_module(module)), attribute)

    def _find(self, kind: str, name: str) -> Entry:
        distribution, _, short = name.rpartition("/")
        found = [e for e in self.list(kind) if e.name == short and distribution in ("", e.distribution)]
        if not found and distribution:
            found = [e for e in self.list(kind) if e.name == short and _normal(e.distribution) == _normal(distribution)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(sorted({f"{e.distribution}/{e.name}" for e in found}))
            raise AmbiguousName(f"{name!r} in {kind} is declared by several distributions: write {choices}")
        raise UnknownName(f"no component {name!r} in {kind}{self._hint(kind, name, short)}")

    def _hint(self, kind: str, name: str, short: str) -> str:
        if short in _declared(kind):
            return ": it is declared in pyproject.toml but not installed, run: pip install -e . again"
        if elsewhere := [e.kind for e in self.list() if e.name == short]:
            return f": {short!r} belongs to {', '.join(elsewhere)}"
        names = [e.name for e in self.list(kind)]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            return f": did you mean {' or '.join(map(repr, near))}?"
        return f": there are {', '.join(names)}" if names else ": none is installed"


def is_local(name: str) -> bool:
    """Whether ``use`` names an object by its place instead of a registered name."""
    return ":" in name


def local_path(name: str, relative_to: Path) -> Path | None:
    """The file of ``./file.py:Object``; None for ``package.module:Object``."""
    place = name.rpartition(":")[0]
    return (relative_to / Path(place).expanduser()).resolve() if place.endswith(".py") or "/" in place else None


def _installed() -> set[Entry]:
    """Of a distribution found twice on the path the first counts, as it does for imports."""
    entries: dict[str, set[Entry]] = {}
    for distribution in distributions():
        points = [point for point in distribution.entry_points if point.group.startswith(GROUP)]
        if points:
            name, version = distribution.name, distribution.version
            found = {Entry(point.group.removeprefix(GROUP), point.name, name, version, point.value) for point in points}
            entries.setdefault(_normal(name), found)
    return set().union(*entries.values())


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise UnknownName(f"{kind!r} is no kind: " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}"))


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _declared(kind: str) -> dict[str, str]:
    """Names that the nearest pyproject.toml above the current folder declares for a kind."""
    folder = Path.cwd()
    file = next((f / "pyproject.toml" for f in (folder, *folder.parents) if (f / "pyproject.toml").is_file()), None)
    if file is None:
        return {}
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return {}  # only a hint is lost
    return project.get("entry-points", {}).get(GROUP + kind, {})


def _guarded(entry: Entry, load: Callable[[], ModuleType]) -> ModuleType:
    """Runs an import; whatever it raises becomes a ``BrokenPlugin`` that names the root cause and its place."""
    try:
        return load()
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        frames = [f for f in traceback.extract_tb(root.__traceback__) if "importlib" not in f.filename and f.filename != __file__]
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        raise BrokenPlugin(f"{entry} cannot be imported: {type(root).__name__}: {root}{place}") from error


def _component(entry: Entry, module: ModuleType, attribute: str, file: Path | None = None) -> Component:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in vars(found) if not n.startswith("_")], n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise BrokenPlugin(f"{entry} cannot be imported: its module has no {part!r}{hint}")
        found = getattr(found, part)
    contract = KINDS[entry.kind]
    if not callable(found):
        wanted = f"a component is a class or a function that builds a {contract.__name__}"
        raise ContractViolation(f"{entry} is of type {type(found).__name__}: {wanted}")
    if inspect.isclass(found) and (missing := missing_methods(found, contract)):
        raise ContractViolation(f"{entry} is no {contract.__name__}: it lacks {', '.join(missing)}")
    return Component(entry, found, file)


def _local(kind: str, name: str, relative_to: Path) -> Component:
    place, _, attribute = name.rpartition(":")
    file = local_path(name, relative_to)
    if file is None:
        entry = Entry(kind, name, "local module", "", name)
        if not re.fullmatch(r"\w+(\.\w+)*", place):
            raise UnknownName(f"{name!r} in {kind}: write package.module:Object or ./file.py:Object")
        return _component(entry, _guarded(entry, lambda: importlib.import_module(place)), attribute)
    if not file.is_file():
        raise UnknownName(f"{name!r} in {kind}: there is no file {file}")
    entry = Entry(kind, name, "local file", "", name)
    return _component(entry, _guarded(entry, lambda: _load_file(file)), attribute, file)


def _load_file(file: Path) -> ModuleType:
    """Imports a file once, under a name made from its place: two files of one name do not meet."""
    name = f"dualloop_local_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
