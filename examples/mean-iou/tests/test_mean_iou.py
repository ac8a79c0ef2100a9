from __future__ import annotations

from core.contracts import Dataset
from core.testing import EvaluatorKit

from mean_iou import MeanIou


class TestMeanIou(EvaluatorKit):
    def make(self, data: Dataset) -> MeanIou:
        return MeanIou(data=data)
