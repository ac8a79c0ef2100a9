"""What a comparison is of: the sweep or recipe, the dates, and what the runs were made with."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.comparison.runs import RunData


def heading(runs: Sequence[RunData]) -> tuple[str, str]:
    """(title, a line below it)."""
    parents = {run.folder.resolve().parent for run in runs}
    names = list(dict.fromkeys(str(run.recipe.get("name", run.folder.name)) for run in runs))
    title = runs[0].folder.resolve().name if len(runs) == 1 else ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    if len(runs) > 1 and len(parents) == 1 and "-sweep-" in (parent := next(iter(parents)).name):
        title = parent
    days = sorted({time.strftime("%Y-%m-%d", time.localtime(run.begun)) for run in runs if run.begun})
    states = [run.state for run in runs]
    count = f"{len(runs)} run{'s' * (len(runs) > 1)} (" + ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states)) + ")"
    begun = [f"begun {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "")] if days else []
    made_with = list(dict.fromkeys(run.made_with for run in runs if run.made_with))
    return title, "; ".join([count, *begun, *(made_with if len(made_with) < 3 else [f"{len(made_with)} versions of the toolkit"])])
