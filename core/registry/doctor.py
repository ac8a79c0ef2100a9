"""What is wrong with the installed components: every one is loaded, and every fault has its remedy."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.contracts import KINDS, UserError
from core.registry import GROUP, BrokenPlugin, ContractViolation, Entry, Registry
from core.registry.offers import built_class, faults


@dataclass(frozen=True)
class Finding:
    """One fault. ``broken``: a recipe that names the component fails; a clash hurts only those who use the short name."""

    what: str
    where: str
    cause: str
    remedy: str
    broken: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.where}\n  cause   {self.cause}\n  remedy  {self.remedy}"


def examine(registry: Registry, folder: Path | None = None) -> list[Finding]:
    """All findings: broken plugins, strays, stale installs (also of the project around ``folder``), clashes."""
    findings = [finding for entry in registry.list() if (finding := _load(registry, entry))]
    for stray in registry.strays():
        remedy = f"rename the group in its pyproject.toml to one of {', '.join(GROUP + kind for kind in KINDS)} and install it again"
        findings.append(Finding("stray", stray.split(" declares ")[0], stray, remedy))
    return [*findings, *_stale(folder or Path.cwd()), *_clashes(registry.list())]


def _load(registry: Registry, entry: Entry) -> Finding | None:
    where = f"{entry.kind}/{entry.name} = {entry.target}, of {entry.distribution} {entry.version}"
    try:
        component = registry.get(entry.kind, f"{entry.distribution}/{entry.name}")
        _ = component.parameters
    except BrokenPlugin as fault:
        root: BaseException = fault
        while root.__cause__ is not None:
            root = root.__cause__
        cause = str(fault).split("cannot be imported: ")[-1]
        return Finding("broken", where, cause, _remedy(entry, root))
    except ContractViolation as fault:
        remedy = f"correct the object ({KINDS[entry.kind].__name__} in core.contracts says what it must do), or tell its author"
        return Finding("breaks its contract", where, str(fault), remedy)
    except UserError as fault:  # two entries of one name in one distribution
        return Finding("broken", where, str(fault), f"give each component of {entry.distribution} a name of its own")
    # of a function, both the function and the class that it declares to build
    if found := [text for holder in {component.object, built_class(component.object)} - {None} for text in faults(holder, entry.kind)]:
        remedy = "correct the object (core/contracts/optional.py lists what a component may offer), or tell its author"
        return Finding("an optional method that nothing calls", where, "; ".join(dict.fromkeys(found)), remedy)
    return None


def _remedy(entry: Entry, root: BaseException) -> str:
    own = entry.target.partition(":")[0].partition(".")[0]
    if isinstance(root, ModuleNotFoundError) and root.name:
        missing = root.name.partition(".")[0]
        if missing != own:
            return f"install what gives the module {missing}, perhaps: pip install {missing}; or: pip uninstall {entry.distribution}"
        return f"install it again: pip install --force-reinstall {entry.distribution} (in its own folder: pip install -e .)"
    if isinstance(root, ImportError | AttributeError | BrokenPlugin):
        return f"versions do not fit, or its entry point is misspelt: pip install -U {entry.distribution}, or correct its pyproject.toml"
    return f"correct the module, or: pip uninstall {entry.distribution}; recipes that do not name it are not affected"


def _clashes(entries: list[Entry]) -> Iterator[Finding]:
    by_name: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_name.setdefault((entry.kind, entry.name), []).append(entry)
    for (kind, name), same in by_name.items():
        qualified = [f"{entry.distribution}/{entry.name}" for entry in same]
        if len(set(qualified)) > 1:
            cause = f"declared by {' and '.join(f'{entry.distribution} {entry.version}' for entry in same)}"
            yield Finding("clash", f"{kind}/{name}", cause, f"write use: {' or use: '.join(qualified)}", broken=False)


def _stale(folder: Path) -> Iterator[Finding]:
    """Projects whose pyproject.toml declares other components than were installed: editable installs, and the one around us."""
    installed = {_normal(distribution.name): distribution for distribution in reversed(list(distributions())) if distribution.name}
    projects = {project for distribution in installed.values() if (project := _editable(distribution))}
    projects |= {f for f in (folder, *folder.parents) if (f / "pyproject.toml").is_file()}
    for project in sorted(projects):
        try:
            content = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
            continue
        groups = {group: points for group, points in content.get("entry-points", {}).items() if group.startswith(GROUP)}
        declared = {(group.removeprefix(GROUP), n, v) for group, points in groups.items() for n, v in points.items()}
        name = str(content.get("name", ""))
        known = installed.get(_normal(name))
        points = known.entry_points if known and (declared or _editable(known) == project) else []
        present = {(p.group.removeprefix(GROUP), p.name, p.value) for p in points if p.group.startswith(GROUP)}
        new, gone = declared - present, present - declared
        for place, differing in (("declared in pyproject.toml but not installed", new), ("installed but declared no more", gone)):
            if differing:
                names = ", ".join(f"{kind}/{name}" for kind, name, _ in sorted(differing))
                yield Finding("stale install", f"{name} at {project}", f"{place}: {names}", f"pip install -e {project}")


def _editable(distribution: Distribution) -> Path | None:
    """The folder of an editable install."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except json.JSONDecodeError:
        return None
    if not origin.get("dir_info", {}).get("editable"):
        return None
    folder = Path(unquote(urlsplit(origin.get("url", "")).path))
    return folder if (folder / "pyproject.toml").is_file() else None


def _normal(name: str) -> str:
    return name.replace("_", "-").replace(".", "-").lower()
