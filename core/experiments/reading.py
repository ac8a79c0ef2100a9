"""An experiment's file, read with all its faults at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from core.contracts import UserError
from core.experiments.definition import GROUPS, Cell, Choice, Experiment, Setting, Variant, placed_use, written
from core.recipe import Fault
from core.recipe.faults import KeyPath, Origin
from core.recipe.names import wrong_name
from core.recipe.reader import Reader, Source, problem

KEYS = (
    "experiment",
    "name",
    "about",
    "base",
    "baseline",
    "seeds",
    "output",
    "set",
    "cases",
    "variants",
    "evaluate",
    "choose",
    "report",
    "prepare",
)
OWN_KEYS = ("seed", "name", "output")  # of a recipe, which the experiment sets in each run
MOST_RUNS = 1000  # more are taken for a mistake
_MISSING: Any = object()


def read_experiment(file: Path) -> Experiment:
    """Raises ``UserError`` with everything that is wrong with the file itself; recipes are looked at by ``run_recipes``."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"the experiment {file} cannot be read: {reason}") from error
    source = Source()
    try:
        values = Reader(source, lambda node: Origin(str(file), node.start_mark.line + 1)).read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{file}:{mark.line + 1 if mark else 1}: this is not YAML: {problem(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: an experiment is a mapping of keys to values, and this file holds none")
    reading = _Reading(file, source, values)
    experiment = reading.experiment()
    if reading.source.faults:
        lines = [str(fault) for fault in sorted(reading.source.faults, key=lambda fault: fault.origin.line)]
        raise UserError("\n".join([*dict.fromkeys(lines), f"{len(set(lines))} fault{'s' * (len(set(lines)) > 1)} in {file}"]))
    return experiment


class _Reading:
    def __init__(self, file: Path, source: Source, values: dict[str, Any]) -> None:
        self.file, self.source, self.values = file, source, values

    def fault(self, path: KeyPath, message: str) -> None:
        origin = next((self.source.origins[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.source.origins), None)
        self.source.faults.append(Fault(origin or Origin(str(self.file), 1), path, message))

    def get(self, path: KeyPath, kind: type, default: Any = _MISSING, spoken: str = "") -> Any:
        """The value at a path, or the default; a fault where it is missing or of another kind."""
        value: Any = self.values
        for key in path:
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
        empty: Any = {} if default is _MISSING and kind is dict else "" if default is _MISSING else default
        if value is _MISSING or (value is None and default is not _MISSING):
            if default is _MISSING:
                self.fault(path[:-1], f"the key {path[-1]!r} is missing: {spoken}")
            return empty
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(path, f"expected {spoken}")
            return empty
        return value

    def only(self, path: KeyPath, known: Sequence[str]) -> None:
        """A fault for each key that is none."""
        inside: Any = self.values
        for key in path:
            inside = inside.get(key) if isinstance(inside, dict) else None
        for key in inside if isinstance(inside, dict) else ():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                self.fault(
                    (*path, key), f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}")
                )

    def experiment(self) -> Experiment:
        self.only((), KEYS)
        if self.get(("experiment",), int, spoken="1, the version of this format") not in (1, ""):
            self.fault(("experiment",), "this format has version 1 only")
        name = self.get(("name",), str, self.file.stem, "text, the name of the experiment's folder")
        if wrong := wrong_name(name):
            self.fault(("name",), wrong)
        shared, cases, variants = self.settings(("set",)), self.cases(), self.variants()
        evaluate, choices = self.evaluate(), self.choices(list(variants))
        baseline = self.get(("baseline",), str, spoken="the name of the variant that the others are compared with")
        if baseline and baseline not in [*variants, *choices]:
            self.fault(("baseline",), f"there is no variant {baseline!r}: there are {', '.join([*variants, *choices])}")
        if any(baseline in choice.among for choice in choices.values()):
            self.fault(("baseline",), f"{baseline} is one of several among which val chooses: name the choice")
        found = Experiment(
            self.file,
            name,
            self.get(("about",), str, spoken="the question that the experiment answers").strip(),
            baseline,
            Path(self.get(("output",), str, "runs/experiments", "the folder in which the experiment's folder is made")),
            shared,
            cases,
            variants,
            evaluate,
            choices,
            tuple(self.texts(("report",), "a list of metrics, EVALUATOR/METRIC")),
            tuple(self.texts(("prepare",), "a list of commands")),
        )
        for place, metric in enumerate(found.metrics):
            if metric.partition("/")[0] not in evaluate["test"]:
                self.fault(
                    ("report", place),
                    f"no evaluator of test is called {metric.partition('/')[0]!r}: there are {', '.join(evaluate['test'])}",
                )
        if (count := len(found.cells())) > MOST_RUNS:
            self.fault(("variants",), f"these are {count} runs, more than {MOST_RUNS}: give fewer variants, cases or seeds")
        places: dict[str, Cell] = {}
        for cell in found.cells():
            if (other := places.setdefault(cell.name, cell)) != cell:
                self.fault(("variants", cell.variant), f"{cell} and {other} would have the same folder, {cell.name}: rename one")
                break
        return found

    def texts(self, path: KeyPath, spoken: str) -> list[str]:
        found = self.get(path, list, [], spoken)
        if not all(isinstance(item, str) and item for item in found):
            self.fault(path, f"expected {spoken}")
            return []
        return list(found)

    def seeds(self, path: KeyPath, default: Any = _MISSING) -> tuple[int, ...]:
        found = self.get(path, list, default, "a list of seeds, such as [1, 2, 3]") or []
        if not found and default is _MISSING and path in self.source.origins:
            self.fault(path, "expected a list of seeds, such as [1, 2, 3]")
        whole = [seed for seed in found if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0]
        if len(whole) < len(found) or len(set(whole)) < len(whole):
            self.fault(path, "seeds are whole numbers from 0 on, each given once")
        return tuple(dict.fromkeys(whole))

    def settings(self, path: KeyPath) -> tuple[Setting, ...]:
        """``{train.updates: 60, gradient: {use: sum}}``: keys with dots, as on the command line."""
        found = []
        for key, value in self.get(path, dict, {}, "a mapping of a recipe's keys to values").items():
            here = (*path, key)
            if key.partition(".")[0] in OWN_KEYS:
                self.fault(here, f"the experiment sets {key} itself, in each run")
            elif key.partition(".")[0] == "base":
                self.fault(here, "base stands beside set, not in it")
            elif key == "use" or key.endswith(".use"):
                value = placed_use(value, self.file.parent) if isinstance(value, str) else value
            found.append(Setting(key, written(value, self.file.parent), self.source.origins[here]))
        return tuple(found)

    def cases(self) -> dict[str, tuple[Setting, ...]]:
        named = self.get(("cases",), dict, {}, "a mapping of names to settings")
        self.names(("cases",), named)
        return {name: self.settings(("cases", name)) for name in named} or {"": ()}

    def names(self, path: KeyPath, named: dict[str, Any]) -> None:
        for name in named:
            if wrong := wrong_name(name) or ("a name has no spaces and no commas" if " " in name or "," in name else None):
                self.fault((*path, name), wrong)

    def variants(self) -> dict[str, Variant]:
        named = self.get(("variants",), dict, spoken="a mapping of names to variants")
        self.names(("variants",), named)
        seeds, found = self.seeds(("seeds",)), {}
        for name, given in named.items():
            here = ("variants", name)
            if given is None:
                self.values["variants"][name] = {}
            elif not isinstance(given, dict):
                self.fault(here, "expected a mapping with base, set, seeds, untrained, about; all may be left out")
                continue
            self.only(here, ("base", "set", "seeds", "untrained", "about"))
            untrained = self.get((*here, "untrained"), bool, False, "true or false")
            if untrained and (*here, "seeds") in self.source.origins:
                self.fault((*here, "seeds"), "an untrained model has no seeds")
            found[name] = Variant(
                name,
                self.base(here),
                self.settings((*here, "set")),
                () if untrained else self.seeds((*here, "seeds"), list(seeds)),
                untrained,
                self.get((*here, "about"), str, "", "text").strip(),
            )
        if named and not found.keys() - {name for name, variant in found.items() if variant.untrained}:
            self.fault(("variants",), "at least one variant is trained")
        return found

    def base(self, path: KeyPath) -> Path:
        """The recipe of a variant, or that of all; from the folder of this file."""
        own = self.get((*path, "base"), str, "", "the path of a recipe, relative to this file")
        place = (*path, "base") if own else ("base",)
        name = own or self.get(("base",), str, spoken="the path of the variants' recipe, relative to this file")
        file = self.file.parent / name
        if name and not file.is_file():
            near = difflib.get_close_matches(file.name, [one.name for one in file.parent.glob("*.y*ml")], n=1)
            self.fault(place, f"there is no file {file}" + (f", did you mean {near[0]!r}?" if near else ""))
        return file

    def evaluate(self) -> dict[str, dict[str, Setting]]:
        self.get(("evaluate",), dict, spoken="val and test, each with evaluators by name")
        self.only(("evaluate",), GROUPS)
        found: dict[str, dict[str, Setting]] = {}
        for group in GROUPS:
            named = self.get(("evaluate", group), dict, spoken=f"evaluators by name: {_MEANT[group]}")
            self.names(("evaluate", group), named)
            found[group] = {}
            for name, entry in named.items():
                here = ("evaluate", group, name)
                if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
                    self.fault(here, "expected an evaluator: a mapping with use")
                found[group][name] = Setting(f"evaluate.{group}-{name}", written(entry, self.file.parent), self.source.origins[here])
            if named == {}:
                self.fault(("evaluate", group), f"expected evaluators by name: {_MEANT[group]}")
        return found

    def choices(self, variants: Sequence[str]) -> dict[str, Choice]:
        found: dict[str, Choice] = {}
        named = self.get(("choose",), dict, {}, "a mapping of names to choices")
        self.names(("choose",), named)
        for name in named:
            here = ("choose", name)
            self.only(here, ("among", "by", "best"))
            among = self.texts((*here, "among"), "a list of variants")
            by = self.get((*here, "by"), str, spoken="a metric of val, EVALUATOR/METRIC")
            best = self.get((*here, "best"), str, "highest", "highest or lowest")
            if name in variants:
                self.fault(here, f"{name!r} is a variant already: give the choice another name")
            if len(among) < 2 or len(set(among)) < len(among):
                self.fault((*here, "among"), "a choice is among two variants or more, each named once")
            for place, one in enumerate(among):
                if one not in variants or any(one in other.among for other in found.values()):
                    why = f"there is no variant {one!r}" if one not in variants else f"{one} is part of another choice"
                    self.fault((*here, "among", place), why)
            if "/" not in by or by.partition("/")[0] not in self.values.get("evaluate", {}).get("val", {}):
                self.fault((*here, "by"), "expected a metric of val, EVALUATOR/METRIC")
            if best not in ("highest", "lowest"):
                self.fault((*here, "best"), "expected highest or lowest")
            found[name] = Choice(name, tuple(among), by, best)
        return found


_MEANT = {"val": "what choices are made on", "test": "what the report is on"}
