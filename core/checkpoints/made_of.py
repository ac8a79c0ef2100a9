"""What a run was made of: ``made_of.json`` in its folder. The recipe's words may mean something else later; this says what they meant.

Of each component where it comes from, of keys that were not given the defaults, of each path where it lay; a hash of every file of the
base (``contents``) and a stamp of each source (``stamps``). Training goes on, and weights are evaluated and exported, with the same
base and data wherever they lie, and not with others.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.checkpoints import contents, stamps
from core.contracts import Dataset, UserError
from core.engine.evaluation import write_whole
from core.engine.which_run import MADE_OF, read
from core.installed.versions import commit, versions
from core.recipe import KeyPath, Recipe, components_used, default_values, path_text, paths_in
from core.registry import Component, Registry, is_local

#: Sections whose components and files are no part of what is trained.
ASIDE = ("evaluate", "track", "output", "start_from", "launch", "checkpoint", "data")


def describe(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """All that can be said without reading the base or the data."""
    defaults = {path: value for path, value in default_values(recipe, registry).items() if not recipe.given(path)}
    return {
        "format": 1,
        "begun": time.time(),
        "started_in": str(Path.cwd()),
        "versions": versions(),
        "commit": commit(),
        "components": {path_text(path): _origin(component) for path, component in components_used(recipe, registry)},
        "defaults": {path_text(path): value for path, value in defaults.items()},
        "paths": {dotted(path): [_written(recipe, path), str(found.absolute())] for path, found in paths_in(recipe, registry).items()},
        "contents": {},
        "sources": {},
    }


def dotted(path: KeyPath) -> str:
    """A key path as the command line gives it."""
    return ".".join(map(str, path))


def _written(recipe: Recipe, path: KeyPath) -> Any:
    value: Any = recipe.values
    for key in path:
        value = value[key]
    return str(value)


def _origin(component: Component) -> dict[str, Any]:
    entry = component.entry
    where = inspect.getsourcefile(inspect.unwrap(component.object))
    code = hashlib.sha256(Path(where).read_bytes()).hexdigest() if where and Path(where).is_file() else None
    if is_local(entry.name):
        place, _, name = entry.name.rpartition(":")
        return {"target": f"{Path(place).name if component.file else place}:{name}", "package": None, "version": "", "code": code}
    return {"target": entry.target, "package": entry.distribution, "version": entry.version, "code": code}


def base_paths(recipe: Recipe, registry: Registry) -> dict[KeyPath, Path]:
    """The paths that the model and other components are built from; not those of data sets."""
    data = {path for path, component in components_used(recipe, registry) if component.entry.kind == "datasets"}
    inside = paths_in(recipe, registry)
    return {
        path: found for path, found in inside.items() if path[0] not in ASIDE and not any(path[: len(place)] == place for place in data)
    }


def base_setting(run: Path, recipe: Recipe, base: Path, registry: Registry) -> str:
    """``--base FOLDER`` as a setting of a run's recipe. Raises ``UserError`` where its model has not one path but none or several."""
    keys = [dotted(path) for path in base_paths(recipe, registry) if path[0] == "model"]
    if len(keys) != 1:
        known = f"its model is built from {', '.join(keys)}: give these keys" if keys else "its model is built from no files"
        raise UserError(f"--base {base}: {run} has no one base; {known}")
    return f"{keys[0]}={base}"


def base_contents(recipe: Recipe, registry: Registry, known: Mapping[str, Any], only: str | None = None) -> dict[str, contents.Contents]:
    """The contents of each of ``base_paths`` that exists, by its key; ``only``: of one section. ``known``: those of before, if any."""
    found = {dotted(path): place for path, place in base_paths(recipe, registry).items() if only in (None, path[0]) and place.exists()}
    return {key: contents.contents(contents.counted(place), known.get(key)) for key, place in found.items()}


def source_stamps(
    recipe: Recipe, registry: Registry, datasets: Mapping[KeyPath, Dataset], known: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The stamp of each source by its key. ``datasets``: all that were built, those inside others too, by key path."""
    given, found = paths_in(recipe, registry), {}
    tops = [path for path in datasets if not any(path != other and path[: len(other)] == other for other in datasets)]
    for top in tops:
        parts = {dotted(path[len(top) :]): one for path, one in datasets.items() if path[: len(top)] == top}
        keys = {dotted(path[len(top) :]): place for path, place in given.items() if path[: len(top)] == top}
        found[dotted(top)] = stamps.stamp(datasets[top], parts, keys, known.get(dotted(top), {}))
    return found


def require_same_base(run: Path, then: Mapping[str, Any], now: Mapping[str, contents.Contents]) -> None:
    """Raises ``UserError`` where files that the run was trained over have other contents now."""
    lines = [
        f"{key}: {', '.join(different[:4])}"
        for key, known in then.get("contents", {}).items()
        if key in now and (different := contents.differences(known, now[key]))
    ]
    if lines:
        raise UserError(
            f"{run} was trained over other files than these: {'; '.join(lines)}. Trained values fit the weights they were trained over: "
            f"put back what was there, or give its place ({lines[0].partition(':')[0]}=...)"
        )


def require_base_of(run: Path, recipe: Recipe, registry: Registry) -> None:
    """Raises ``UserError`` where the model of ``recipe`` is built from other files than those that the ``run`` was trained over."""
    if then := load_made_of(run):
        require_same_base(run, then, base_contents(recipe, registry, then["contents"], only="model"))


def require_same_data(run: Path, then: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ``UserError`` where a source gives other data than the run was made with."""
    lines = [
        f"{key}: {', '.join(different[:4])}"
        for key, known in then.get("sources", {}).items()
        if key in now and (different := stamps.differences(known, now[key]))
    ]
    if lines:
        raise UserError(
            f"{run} was made with other data than these: {'; '.join(lines)}. Put back what was there, or give its place (the key of the "
            f"path, or data.NAME=...); a new run on these data can begin with its weights: start_from={run}"
        )


def component_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(components that are other ones, to be refused; those of another version or code, to be said)."""
    other, newer = [], []
    for key, was in then["components"].items():
        is_ = now["components"].get(key)
        if is_ is None or key.partition(".")[0] in ASIDE:
            continue
        if (was["package"], was["target"]) != (is_["package"], is_["target"]) and not _moved_within(was, is_):
            other.append(f"{key} was {_spoken(was)}, is {_spoken(is_)}")
        elif was["package"] is None and was["code"] != is_["code"]:
            other.append(f"{key}: the code of {was['target']} has changed since")
        elif was["version"] == is_["version"] and was["code"] != is_["code"]:
            newer.append(key)
    return other, newer


def _moved_within(was: Mapping[str, Any], is_: Mapping[str, Any]) -> bool:
    """Whether a package keeps a component in another place since its version changed."""
    return was["package"] is not None and was["package"] == is_["package"] and was["version"] != is_["version"]


def _spoken(origin: Mapping[str, Any]) -> str:
    package = f"{origin['package']} {origin['version']}".strip() if origin["package"] else "a local file or module"
    return f"{origin['target']} of {package}"


def version_note(run: Path, then: Mapping[str, Any]) -> Iterator[str]:
    """A sentence where a run goes on with other versions than it began with."""
    now = versions()
    if other := [f"{name} {was} (now {now.get(name, 'absent')})" for name, was in then["versions"].items() if now.get(name) != was]:
        yield f"note: {run} was made with {', '.join(other)}; what follows equals an unbroken run only as far as these versions agree"


def load_made_of(run: Path) -> dict[str, Any]:
    """What the run recorded; empty for one of an older version. Raises ``UserError`` for a file that cannot be read."""
    if not (run / MADE_OF).is_file():
        return {}
    found = read(run / MADE_OF)
    if found.get("format") != 1:
        raise UserError(f"{run / MADE_OF}: is not what a run records of its base and data; restore the file, or remove it to go unchecked")
    return found


def keep_made_of(run: Path, made_of: Mapping[str, Any]) -> None:
    write_whole(run / MADE_OF, json.dumps(made_of, indent=1, default=str) + "\n")
