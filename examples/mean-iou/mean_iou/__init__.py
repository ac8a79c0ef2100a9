"""Mean IoU of the masks that the model predicts for the descriptions of a data set."""

from __future__ import annotations

from collections.abc import Callable

from core.contracts import BadSample, Dataset, Evaluation, Model, UserError


class MeanIou:
    """Metrics: mean_iou in 0..1 over the described regions, n_regions, n_bad."""

    def __init__(self, *, data: Dataset, max_new_tokens: int = 32) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self.data, self.max_new_tokens = data, max_new_tokens

    def evaluate(self, model: Model, progress: Callable[[int, int], None]) -> Evaluation:
        """Raises ``UserError`` where the data set has no described region."""
        scores: list[float] = []
        for index in range(len(self.data)):
            try:
                region = self.data[index]
            except BadSample:
                region = None
            if region is not None and region.caption:
                [answer] = model.predict(region.image, [region.caption], self.max_new_tokens)
                union = region.mask.sum() if answer.mask is None else (answer.mask | region.mask).sum()
                scores.append(0.0 if answer.mask is None else float((answer.mask & region.mask).sum() / union))
            progress(index + 1, len(self.data))
        if not scores:
            raise UserError("mean_iou: the evaluation data set gave no described region: check its paths.")
        bad = len(self.data) - len(scores)
        return Evaluation({"mean_iou": sum(scores) / len(scores), "n_regions": float(len(scores)), "n_bad": float(bad)})
