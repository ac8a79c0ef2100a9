"""Which way a metric is good: its evaluator says so (``LowestIsBest``), or the recipe whose best checkpoint it chooses."""

from __future__ import annotations

from collections.abc import Sequence

from core.comparison.runs import RunData, evaluated
from core.contracts import LowestIsBest, UserError
from core.evaluation.difference import GoodWay
from core.registry import Registry, is_local


def good_ways(runs: Sequence[RunData], registry: Registry) -> dict[str, GoodWay]:
    """``evaluator/metric`` -> the good way; metrics of which nobody says it are left out.

    Only installed evaluators are asked: to look at somebody's run folder must not import code that lies in it.
    """
    found: dict[str, GoodWay] = {}
    for run in runs:
        best = run.recipe.get("checkpoint")
        if isinstance(best, dict) and isinstance(best.get("best"), str) and best.get("best_is") in ("highest", "lowest"):
            found[best["best"]] = best["best_is"]
    for name in evaluated(runs):
        evaluator, _, metric = name.partition("/")
        uses = dict.fromkeys(use for run in runs if (use := run.evaluators.get(evaluator.partition("@")[0])))
        lowest = [kept for use in uses if (kept := _lowest(use, registry)) is not None]
        if lowest and len(lowest) == len(uses) and name not in found and len({metric in one for one in lowest}) == 1:
            found[name] = "lowest" if metric in lowest[0] else "highest"
    return found


def _lowest(use: str, registry: Registry) -> frozenset[str] | None:
    """The metrics of an evaluator that should be low; None where it is not installed or does not say."""
    if is_local(use):
        return None
    try:
        component = registry.get("evaluators", use).object
    except UserError:
        return None
    return component.lowest_is_best if isinstance(component, LowestIsBest) else None
