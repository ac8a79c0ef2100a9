"""What varies between runs, which runs differ in their seed only, and the mean and interval over these."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.comparison.runs import RunData, Value

#: What does not make a run another experiment. ``data`` holds names for paths; the paths themselves are compared where they are used.
ASIDE = ("output", "base", "data", "track", "checkpoint", "recipe")
MISSING = "–"
LONGEST = 60  # letters of a run's name that tells what was changed; beyond that its folder's is the shorter one
MOST_SAID = 8  # keys of one component in a cell

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom
_T95: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed. ``members`` are places in the list of runs."""

    label: str
    members: list[int]


def leaves(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """``{"train.updates": 120, ...}``; an empty mapping is a leaf."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        found |= leaves(value, here) if isinstance(value, Mapping) and value else {here: value}
    return found


def differences(runs: Sequence[RunData]) -> dict[str, list[str]]:
    """Key -> each run's value as text, for the keys of the resolved recipes that are not equal in all runs.

    What lies at a path counts, where all runs have recorded it, and not where it lies: ``KEY (contents)``.
    """
    recorded = [key for key in (runs[0].contents if runs else ()) if all(key in run.contents for run in runs)]
    all_leaves = [
        {key: value for key, value in leaves(run.recipe).items() if key.split(".")[0] not in ASIDE and not _is_place(key, run, recorded)}
        | {f"{key} (contents)": run.contents[key] for key in recorded}
        for run in runs
    ]
    table = {key: [_text(one[key]) if key in one else MISSING for one in all_leaves] for one in all_leaves for key in one}
    return {key: row for key, row in table.items() if len(set(row)) > 1}


def _is_place(key: str, run: RunData, recorded: Sequence[str]) -> bool:
    """Whether the key says where something lies of which the contents are compared."""
    return key in run.paths and any(key == one or key.startswith(one + ".") for one in recorded)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def deciding(varying: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The rows that say what was changed. If a component was exchanged, only its keys that vary between runs with the same one count."""
    exchanged = [key for key in varying if key.endswith(".use")]

    def follows(key: str, use: str) -> bool:
        """Whether ``key`` belongs to the component and its value follows from the component's name."""
        pairs = set(zip(varying[use], varying[key], strict=True))
        return key != use and key.startswith(use.removesuffix("use")) and len(pairs) == len(set(varying[use]))

    return {key: list(row) for key, row in varying.items() if not any(follows(key, use) for use in exchanged)}


def together(varying: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """``varying`` with the keys that not every run has put into one row for each component, or for each part that some runs lack.

    ``gradient`` -> ``sum`` beside ``pcgrad, scope=group, anchor=loop1``.
    """
    owners = {key.removesuffix(".use") for key in varying if key.endswith(".use")}
    homes = {key: _home(key, varying, owners) for key in varying}
    shared = {home for home in homes.values() if sum(one == home for one in homes.values()) > 1}
    rows: dict[str, list[str]] = {}
    for key, home in homes.items():
        if home not in shared:
            rows[key] = list(varying[key])
            continue
        parts = {name.removeprefix(home + "."): varying[name] for name, at in homes.items() if at == home}
        rows[home] = [_described(parts, run) for run in range(len(varying[key]))]
    return rows


def _home(key: str, varying: Mapping[str, Sequence[str]], owners: set[str]) -> str:
    """Where a row of ``together`` puts the key: the component that was exchanged, or the largest part that the same runs lack."""
    if key.endswith(".use") and key.removesuffix(".use") in owners and not _nested(key, varying):
        return key.removesuffix(".use")
    if MISSING not in varying[key]:
        return key
    parts = key.split(".")
    places = [".".join(parts[:count]) for count in range(1, len(parts))]
    if exchanged := [place for place in places if place in owners]:
        return exchanged[0]
    lacking = [value == MISSING for value in varying[key]]
    for place in places:
        inside = [row for name, row in varying.items() if name.startswith(place + ".")]
        if len(inside) > 1 and all([value == MISSING for value in row] == lacking for row in inside):
            return place
    return key


def _nested(key: str, varying: Mapping[str, Sequence[str]]) -> bool:
    """Whether a component's ``use`` belongs to a part that some runs lack, or to a component that was itself exchanged."""
    parts = key.split(".")[:-1]
    return MISSING in varying[key] or any(".".join([*parts[:count], "use"]) in varying for count in range(1, len(parts)))


def _described(parts: Mapping[str, Sequence[str]], run: int) -> str:
    said = [row[run] if name == "use" else f"{name}={row[run]}" for name, row in parts.items() if row[run] != MISSING]
    return ", ".join(said[:MOST_SAID]) + (f", and {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else "") or MISSING


def run_labels(runs: Sequence[RunData], varying: Mapping[str, Sequence[str]]) -> list[str]:
    """Short, distinct names: what was changed if this differs between all runs, otherwise the folders' names."""
    said = _labels(varying, range(len(runs)))
    if len(set(said)) == len(runs) and all(0 < len(label) <= LONGEST for label in said):
        return said
    names = [run.folder.resolve().name for run in runs]
    twice = Counter(names)
    return [name if twice[name] == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def groups_of(runs: Sequence[RunData], varying: Mapping[str, Sequence[str]]) -> list[Group]:
    """Runs with equal recipes but for the seed, in the order in which they first appear. A group of one run has the run's name."""
    rest = {key: row for key, row in varying.items() if key != "seed"}
    members: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(runs)):
        members.setdefault(tuple(row[i] for row in rest.values()), []).append(i)
    labels = [label or "all runs" for label in _labels(rest, [inside[0] for inside in members.values()])]
    if len(set(labels)) < len(labels):
        labels = [f"group {number}" for number in range(1, len(labels) + 1)]
    elif any(len(label) > LONGEST or f"={MISSING}" in label for label in labels):  # then the runs go by their folders too
        of_runs = run_labels(runs, varying)
        names = [of_runs[inside[0]] for inside in members.values()]
        labels = [name + (f" and {len(own) - 1} more" if len(own) > 1 else "") for name, own in zip(names, members.values(), strict=True)]
    return [Group(label, inside) for label, inside in zip(labels, members.values(), strict=True)]


def _labels(varying: Mapping[str, Sequence[str]], runs: Iterable[int]) -> list[str]:
    """What was changed in each run; how it was evaluated is said only where nothing else tells the runs apart."""
    trained = {key: row for key, row in varying.items() if key != "train.evaluate" and not key.startswith("evaluate.")}
    places = list(runs)
    for rows, lacking in ((trained, False), (trained, True), (varying, False)):
        found = [_label(rows, run, lacking) for run in places]
        if len(set(found)) == len(found) and all(found):
            return found
    return [_label(varying, run, True) for run in places]


def _label(varying: Mapping[str, Sequence[str]], run: int, lacking: bool) -> str:
    """``lacking``: also say of which keys the run has none."""
    rows = deciding(varying)
    names = {key: key.removesuffix(".use") for key in rows}
    short = {key: _shortest(name, list(names.values())) for key, name in names.items()}
    uses = tuple(key.removesuffix("use") for key in rows if key.endswith(".use"))
    foreign = [key for key, row in rows.items() if row[run] == MISSING and key.startswith(uses)]  # of another component than this run's
    return ", ".join(f"{short[key]}={row[run]}" for key, row in rows.items() if key not in foreign and (lacking or row[run] != MISSING))


def _shortest(name: str, names: Sequence[str]) -> str:
    """The fewest last parts of a dotted name that no other of ``names`` ends with."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if not any(other != name and (other == end or other.endswith("." + end)) for other in names):
            return end
    return name


def t95(count: int) -> float:
    """The factor of a 95 % interval of a mean of ``count`` (at least 2) values."""
    return _T95[count - 2] if count - 2 < len(_T95) else 1.96


def spread(values: Sequence[float]) -> Value:
    """The mean with what it is shown with: of two values both ends, of more the 95 % interval of their mean."""
    return Value(statistics.fmean(values), min(values), max(values)) if len(values) == 2 else mean_interval(values)


def mean_interval(values: Sequence[float]) -> Value:
    """The mean with its 95 % interval by Student's t; no interval for fewer than two values."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Value(mean)
    half = t95(len(values)) * statistics.stdev(values) / len(values) ** 0.5
    return Value(mean, mean - half, mean + half)
