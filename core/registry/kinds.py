"""The kinds of components in words: one of each kind, and where a recipe names it."""

from __future__ import annotations

from core.contracts import KINDS

SINGULAR = {kind: "loss" if kind == "losses" else kind.removesuffix("s") for kind in KINDS}
PLURAL = {singular: kind for kind, singular in SINGULAR.items()}

#: Where a recipe names a component of the kind: ``core.run RECIPE PLACE.use=name`` exchanges it.
PLACES = {
    "models": "model",
    "teachers": "teacher",
    "loops": "loops.LOOP.tasks.TASK",
    "samplers": "loops.LOOP.tasks.TASK.sampler",
    "losses": "loops.LOOP.tasks.TASK.losses.mask",
    "gradient_ops": "gradient",
    "schedules": "schedule",
    "optimizers": "optimizer",
    "datasets": "loops.LOOP.tasks.TASK.data.NAME",
    "evaluators": "evaluate.NAME",
    "trackers": "track.NAME",
}
