"""What the engine's own keys of a recipe ask of each other. Quick: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.contracts import UserError
from core.engine.parallel.table import STRATEGIES
from core.recipe import KeyPath, path_text


def unmet(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """(the key, what it lacks) of everything that cannot work together in a recipe's resolved ``values``."""
    train, checkpoint, evaluators = values["train"], values["checkpoint"], values["evaluate"]
    best, there = checkpoint["best"], ", ".join(evaluators)
    if train["evaluate"] != "none" and not evaluators:
        yield ("train", "evaluate"), "the recipe has no evaluators: name some under evaluate, or write train.evaluate=none"
    if train["evaluate_every"] and not evaluators:
        yield ("train", "evaluate_every"), "the recipe has no evaluators: name some under evaluate"
    if best is not None and (not best.partition("/")[2] or best.partition("/")[0] not in evaluators):
        known = f"the evaluators are {there}" if evaluators else "the recipe has no evaluators"
        yield ("checkpoint", "best"), f"write EVALUATOR/METRIC, such as referring/cIoU, not {best!r}; {known}"
    if best is not None and not train["evaluate_every"]:
        yield ("checkpoint", "best"), "nothing is evaluated during training: give train.evaluate_every=N"
    if train["patience"] and best is None:
        yield ("train", "patience"), "it counts evaluations without a better checkpoint.best: give checkpoint.best=EVALUATOR/METRIC"
    strategy = values["launch"]["strategy"]
    asked = ["train.evaluate=none"] if train["evaluate"] != "none" else []
    asked += [f"train.{key}=null" for key in ("evaluate_every", "samples_every") if train[key]]
    asked += ["checkpoint.export=false"] if checkpoint["export"] else []
    if STRATEGIES[strategy].shards_model and asked:
        what = f"with launch.strategy={strategy} no process holds the whole model: set {' and '.join(asked)}"
        yield ("launch", "strategy"), f"{what}, then evaluate or export the run afterwards, with core.evaluate or core.convert"


def require(values: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for the first of them."""
    for path, message in unmet(values):
        raise UserError(f"{path_text(path)}: {message}")
