"""Which group of runs is better than a baseline, by how much, and whether the difference is more than chance.

Runs are paired: of two groups the runs with the same seed, which met the same data in the same order; of two single runs the same
pictures. What all pairs have in common then cancels, and the interval of the difference is narrower than those of the two values.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.comparison.grouping import Group, mean_interval
from core.comparison.runs import RunData, Value, drawn
from core.contracts import UserError
from core.evaluation.difference import GoodWay, Verdict, paired_interval, verdict

#: The baseline of a comparison: a group's place, or what each group was before training.
Baseline = int | Literal["before"]


@dataclass(frozen=True)
class Difference:
    """A group's mean less the baseline's. ``over``: what was paired, such as ``3 seeds``; empty where nothing was."""

    value: Value
    over: str = ""
    verdict: Verdict = ""


def find_baseline(asked: str | None, runs: Sequence[RunData], groups: Sequence[Group]) -> Baseline:
    """The group that ``asked`` names: by its label, a part of it that no other has, or the folder of one of its runs.

    None: the first group; of a single group the values before training. Raises ``UserError`` for a name of none, or of several.
    """
    if asked is None:
        return 0 if len(groups) > 1 else "before"
    if asked == "before":
        return "before"
    exact = [place for place, group in enumerate(groups) if asked == group.label or asked.rstrip("/") in _names(group, runs)]
    found = exact or [place for place, group in enumerate(groups) if asked in group.label]
    if len(found) == 1:
        return found[0]
    there = "; ".join(group.label for group in groups)
    raise UserError(f"--baseline {asked}: {'several groups have' if found else 'no group has'} this name; there are before; {there}")


def _names(group: Group, runs: Sequence[RunData]) -> set[str]:
    return {name for i in group.members for name in (str(runs[i].folder), runs[i].folder.resolve().name)}


def difference(
    name: str, group: Group, baseline: Group | Literal["before"], runs: Sequence[RunData], good: GoodWay | None
) -> Difference | None:
    """Of the metric ``name``, EVALUATOR/METRIC; None where one side has no value, or they were measured on other samples."""
    if baseline == "before":
        changes = [
            runs[i].after[name].value - runs[i].before[name].value
            for i in group.members
            if {name} <= runs[i].after.keys() & runs[i].before.keys()
        ]
        return _judged(mean_interval(changes), f"{len(changes)} seeds" if len(changes) > 1 else "", good) if changes else None
    own, other = _by_seed(name, group, runs), _by_seed(name, baseline, runs)
    if not own or not other or not same_samples(name, group, baseline, runs):
        return None
    common = [seed for seed in own if seed in other]
    if len(common) > 1:
        found = mean_interval([_mean(name, own[seed], runs) - _mean(name, other[seed], runs) for seed in common])
        return _judged(found, f"{len(common)} seeds", good)
    pairs = common or (list(own)[:1] if len(own) == len(other) == 1 else [])
    if pairs:
        mine, theirs = own[pairs[0]], other[pairs[0] if common else next(iter(other))]
        plain = _mean(name, mine, runs) - _mean(name, theirs, runs)
        found, over = _over_pictures(name, runs[mine[0]], runs[theirs[0]], plain) if len(mine) == len(theirs) == 1 else (Value(plain), "")
        return _judged(found, over, good)
    both = [statistics.fmean(_mean(name, members, runs) for members in side.values()) for side in (own, other)]
    return Difference(Value(both[0] - both[1]))


def same_samples(name: str, group: Group, other: Group, runs: Sequence[RunData]) -> bool:
    """Whether both measured equally many; False also where runs of one group did not."""
    counts = {_samples(name, runs[i]) for i in (*group.members, *other.members) if name in runs[i].after}
    return len(counts) < 2


def _by_seed(name: str, group: Group, runs: Sequence[RunData]) -> dict[object, list[int]]:
    """Seed -> the runs of the group that have the metric."""
    found: dict[object, list[int]] = {}
    for i in group.members:
        if name in runs[i].after:
            found.setdefault(runs[i].recipe.get("seed"), []).append(i)
    return found


def _mean(name: str, members: Sequence[int], runs: Sequence[RunData]) -> float:
    return statistics.fmean(runs[i].after[name].value for i in members)


def _samples(name: str, run: RunData) -> tuple[tuple[str, float], ...]:
    """How much the metric's evaluator measured; without those that were left out."""
    counts = f"{name.partition('/')[0]}/n_"
    return tuple(sorted((key, one.value) for key, one in run.after.items() if key.startswith(counts) and not key.endswith("/n_bad")))


def _over_pictures(name: str, run: RunData, other: RunData, plain: float) -> tuple[Value, str]:
    """The difference with its interval from draws of the same pictures, where both have been drawn."""
    evaluator, _, metric = name.partition("/")
    mine, theirs = drawn(run, evaluator), drawn(other, evaluator)
    if mine is None or theirs is None or mine.items != theirs.items:
        return Value(plain), ""
    ends = paired_interval(mine.draws.get(metric, []), theirs.draws.get(metric, []))
    return (Value(plain, *ends), f"{mine.units} pictures") if ends else (Value(plain), "")


def _judged(value: Value, over: str, good: GoodWay | None) -> Difference:
    if value.low is None or value.high is None:
        return Difference(value, over)
    said = verdict(value.value, value.low, value.high, good)
    return Difference(value if said else Value(value.value), over, said)
