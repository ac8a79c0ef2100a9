"""The first table of a comparison: evaluations by group, each with its difference to a baseline, and the same in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from core.comparison.grouping import Group, spread
from core.comparison.meaning import meaning
from core.comparison.paired import Baseline, Difference, difference, same_samples
from core.comparison.runs import RunData, Value, evaluated
from core.comparison.tables import Table, with_interval
from core.evaluation.difference import GoodWay

TITLE = "Which is better"
ARROW = {"highest": "↑", "lowest": "↓"}
BEST = "★"
SAID = {"better": "better", "worse": "worse", "differs": "differs", "open": "not told apart", "": ""}


def answer_table(runs: Sequence[RunData], groups: Sequence[Group], baseline: Baseline, good: Mapping[str, GoodWay]) -> Table | None:
    """A row for each metric, a column for each group; None where nothing was evaluated."""
    names = evaluated(runs)
    if not names:
        return None
    against: Group | Literal["before"] = groups[baseline] if isinstance(baseline, int) else "before"
    rows: list[list[str]] = []
    marks: dict[tuple[int, int], str] = {}
    found: dict[int, list[tuple[str, Difference]]] = {}
    for place, name in enumerate(names):
        values = [[runs[i].after[name] for i in group.members if name in runs[i].after] for group in groups]
        means = [spread([one.value for one in those]).value if those else None for those in values]
        best = _best(name, means, groups, runs, good.get(name))
        cells = [f"{name} {ARROW[good[name]]}" if name in good else name]
        for column, (group, those) in enumerate(zip(groups, values, strict=True)):
            told = None if column == baseline else difference(name, group, against, runs, good.get(name))
            apart = isinstance(against, Group) and any(those) and not same_samples(name, group, against, runs)
            if told:
                found.setdefault(column, []).append((name, told))
            shown = those[0] if len(those) == 1 else spread([one.value for one in those]) if those else None
            cells.append(_cell(shown, told, column in best, apart))
            classes = [told.verdict if told else "", "best" if column in best else "", "baseline" if column == baseline else ""]
            marks[place, column + 1] = " ".join(filter(None, classes))
        rows.append(cells)
    header = ["metric", *(_named(group, column == baseline) for column, group in enumerate(groups))]
    about, below = _sentences(groups, against, found), _legend(found, against, bool(good), len(names))
    tips = {row: text for row, name in enumerate(names) if (text := meaning(name))}
    return Table(TITLE, header, rows, "\n".join(about), "group columns", below="\n".join(below), marks=marks, tips=tips)


def _named(group: Group, baseline: bool) -> str:
    seeds = f" ({len(group.members)} seeds)" if len(group.members) > 1 else ""
    return group.label + seeds + (" – baseline" if baseline else "")


def _cell(value: Value | None, told: Difference | None, best: bool, apart: bool) -> str:
    shown = with_interval(value) + (f" {BEST}" if best else "")
    if told is None:
        return shown + ("\nmeasured on other samples" if apart else "")
    ends = f" [{told.value.low:+.3g}, {told.value.high:+.3g}]" if told.value.low is not None else ""
    return f"{shown}\nΔ {told.value.value:+.3g}{ends} {SAID[told.verdict]}".rstrip()


def _best(name: str, means: Sequence[float | None], groups: Sequence[Group], runs: Sequence[RunData], good: GoodWay | None) -> set[int]:
    """The columns with the best mean; none where the good way is not known, or fewer than two groups can be compared."""
    there = [value for value in means if value is not None]
    if good is None or len(there) < 2 or len(set(there)) < 2:
        return set()
    first = next(group for group, value in zip(groups, means, strict=True) if value is not None)
    comparable = (
        value is None or difference(name, group, first, runs, good) is not None for group, value in zip(groups, means, strict=True)
    )
    top = (max if good == "highest" else min)(there)
    return {column for column, value in enumerate(means) if value == top} if all(comparable) else set()


def _sentences(
    groups: Sequence[Group], against: Group | Literal["before"], found: Mapping[int, Sequence[tuple[str, Difference]]]
) -> list[str]:
    """What each group is, beside the baseline."""
    than = "before training" if against == "before" else against.label
    lines = []
    for column, told in found.items():
        over = dict.fromkeys(one.over for _, one in told if one.over)
        by = {verdict: [name for name, one in told if one.verdict == verdict] for verdict in ("better", "worse", "differs", "open", "")}
        parts = [f"{SAID[verdict]} in {_listed(by[verdict])}" for verdict in ("better", "worse", "differs") if by[verdict]]
        parts += [f"not told apart in {_listed(by['open'])}"] if by["open"] else []
        parts += [f"without an interval in {_listed(by[''])}"] if by[""] else []
        paired = f" (paired over {' and '.join(over)})" if over else ""
        lines.append(f"{groups[column].label} beside {than}{paired}: {'; '.join(parts)}.")
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _legend(found: Mapping[int, Sequence[tuple[str, Difference]]], against: object, known: bool, metrics: int) -> list[str]:
    every = [one for told in found.values() for _, one in told]
    lines = []
    if every:
        lines.append(
            "Δ: the difference to "
            + ("the value before training" if against == "before" else "the baseline (--baseline names another group)")
            + " with its 95 % interval; better or worse where the interval leaves out 0."
            + (f" Of {metrics} metrics one or two leave it out by chance alone." if metrics >= 20 else "")
        )
    if any(one.over.endswith("seeds") for one in every):
        lines.append("Over seeds: runs with the same seed are subtracted, then Student's t; two seeds give a very wide interval.")
    if any(one.over.endswith("pictures") for one in every):
        lines.append("Over pictures: both runs on the same drawn pictures; this says nothing about another seed.")
    if any(not one.verdict for one in every):
        lines.append(
            "Without an interval: one seed, no seed in common, or equal differences. Run more seeds, or core.evaluate on both runs."
        )
    lines.append(f"↑ high is good, ↓ low is good, {BEST} the best value." if known else "Which way is good is not known of these metrics.")
    return lines
