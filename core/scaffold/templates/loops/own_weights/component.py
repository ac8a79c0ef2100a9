"""A training task with weights of its own: each region and its caption are drawn together, and away from the others of the batch."""

from __future__ import annotations

import torch
from core.contracts import LossTerm, LossTerms, Model, Noise, RegionBatch, Teacher
from torch import nn
from torch.nn import functional as F


class TemplateName:
    """InfoNCE in a space of ``width`` numbers between a region's state before the first word and the mean of its caption's words.

    ``hidden``: the model's hidden size. The two heads and the temperature are kept as attributes: the engine finds them there, trains
    them with the model's weights, and keeps them in checkpoints.
    """

    needs = frozenset({"caption"})
    within_batch = True  # the loss of a region depends on its neighbours: core.check then says that the micro-batch's size matters

    def __init__(self, *, hidden: int, width: int = 64, temperature: float = 0.1, weight: float = 1.0, caption_length: int = 64) -> None:
        for name, value in {"hidden": hidden, "width": width, "temperature": temperature, "caption_length": caption_length}.items():
            if not value > 0:
                raise ValueError(f"{name} must be greater than 0, not {value}.")
        self.weight, self.caption_length = weight, caption_length
        self.region, self.text = nn.Linear(hidden, width), nn.Linear(hidden, width)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())  # learned

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"contrast": len(batch)}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        captions = model.tokenize([text or "" for text in batch.captions], self.caption_length)  # [B, T]
        states = model.caption_states(model.encode(batch), batch.view1, batch.cells, captions)[:, 0]  # [B, D]: no word seen yet
        real = captions.mask[..., None]  # [B, T, 1]
        words = (model.embed(captions.ids) * real).sum(1) / real.sum(1).clamp_min(1)  # [B, D]
        with torch.autocast(states.device.type, enabled=False):  # exact, whatever the model computes in
            regions = F.normalize(self.region(states.float()), dim=1)  # [B, width]
            texts = F.normalize(self.text(words.float()), dim=1)
            alike = regions @ texts.mT / self.log_temperature.exp()  # [B, B]
            own = torch.arange(len(batch), device=alike.device)
            total = (F.cross_entropy(alike, own, reduction="sum") + F.cross_entropy(alike.mT, own, reduction="sum")) / 2
        right = (alike.argmax(1) == own).sum()
        return LossTerms({"contrast": LossTerm(total, len(batch), self.weight)}, {"right": (float(right), float(len(batch)))})
