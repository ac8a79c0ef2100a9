"""The data that evaluators and trackers take and return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: What was measured of one expression or region, as JSON holds it. ``id``: the sample's. ``score``: 0..1, orders the picture
#: sheet. ``bad``: why there is no result. ``unit``: added by the engine. All else is the evaluator's own.
Item = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One row of a picture sheet: what was asked, the truth and the prediction."""

    title: str
    image: np.ndarray  # [H, W, 3] uint8
    truth: np.ndarray | None = None  # [H, W] bool
    predicted: np.ndarray | None = None  # [H, W] bool
    text: str = ""  # generated text
    score: float | None = None  # IoU or share of right tokens, 0..1


@dataclass(frozen=True)
class Sample(Picture):
    """What a loop made of one region in training. Texts by name: ``teacher``, ``replaced``, ``student``; the rest as in a sheet."""

    id: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """An evaluator's result: metrics in 0..1 (counts are named ``n_...``) and some pictures."""

    metrics: dict[str, float]
    pictures: list[Picture] = field(default_factory=list)
    # of the engine: each metric drawn again from the same pictures, [R], None where a draw has no value; and a digest of the items
    draws: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    asked: str = ""


@dataclass(frozen=True)
class RunInfo:
    """What a tracker receives at the start."""

    folder: Path
    name: str
    recipe: dict[str, Any]  # resolved, with every default
    resumed_at: int  # 0 for a new run
    label: str = ""  # of a sweep's run, what sets it apart from the others: seed=1, gradient=sum
    sweep: str = ""  # the name of its sweep
