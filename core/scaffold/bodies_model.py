"""The bodies of scaffolded components that see pictures or the model: data set, loop, evaluator, model."""

from __future__ import annotations

DATASET = '''
"""A folder of ``NAME.png`` with the mask ``NAME.mask.png`` and, where there is one, the description ``NAME.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from core.contracts import BadSample, Region, UserError
from PIL import Image


class $object:
    """One region for each mask; its id is NAME."""

    def __init__(self, *, root: Path, max_samples: int | None = None) -> None:
        """Raises ``UserError`` where there is no mask. No picture is opened here."""
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, not {max_samples}.")
        root = root.expanduser()
        if not root.is_dir():
            raise UserError(f"$name: there is no folder {root}; set root to the folder of NAME.png and NAME.mask.png.")
        self.root = root
        self._names = sorted(path.name.removesuffix(".mask.png") for path in root.glob("*.mask.png"))[:max_samples]
        if not self._names:
            raise UserError(f"$name: there is no *.mask.png in {root}; check root.")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Region:
        name = self._names[index]
        image = self._picture(f"{name}.png", "RGB", name)  # [H, W, 3]
        mask = self._picture(f"{name}.mask.png", "L", name) > 127  # [H, W]
        if mask.shape != image.shape[:2]:
            raise BadSample("mask and picture differ in size", name)
        if not mask.any():
            raise BadSample("empty mask", name)
        return Region(id=name, image=image, mask=mask, caption=self._caption(name))

    def _picture(self, file: str, mode: str, name: str) -> np.ndarray:
        try:
            with Image.open(self.root / file, formats=("PNG",)) as picture:
                return np.array(picture.convert(mode))
        except (OSError, ValueError, SyntaxError) as fault:
            raise BadSample("damaged or missing picture", name, str(fault)) from fault

    def _caption(self, name: str) -> str | None:
        file = self.root / f"{name}.txt"
        try:
            return (file.read_text(encoding="utf-8").strip() or None) if file.is_file() else None
        except (OSError, UnicodeDecodeError) as fault:
            raise BadSample("damaged description", name, str(fault)) from fault
'''

DATASET_TEST = """
from __future__ import annotations

from pathlib import Path

import numpy as np
from core.testing import DatasetKit
from PIL import Image

from $module import $object


class Test$object(DatasetKit):
    def write(self, root: Path) -> None:
        for i in range(3):
            mask = np.zeros((16, 16), np.uint8)
            mask[i : i + 6, 2:9] = 255
            Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(root / f"picture{i}.png")
            Image.fromarray(mask).save(root / f"picture{i}.mask.png")
            (root / f"picture{i}.txt").write_text(f"square {i}")

    def make(self, root: Path) -> $object:
        return $object(root=root)
"""

LOOP = '''
"""A training task: describe the region."""

from __future__ import annotations

from typing import TypedDict

from core.contracts import LossTerm, LossTerms, Model, Noise, RegionBatch, Teacher, TokenLoss


class Losses(TypedDict):
    """``caption``: the description against the data set's."""

    caption: TokenLoss


class $object:
    """Teacher-forced description of each region."""

    needs = frozenset({"caption"})

    def __init__(self, *, losses: Losses, caption_length: int = 64) -> None:
        if caption_length < 1:
            raise ValueError(f"caption_length must be at least 1, not {caption_length}.")
        self.losses, self.caption_length = losses, caption_length

    def counts(self, model: Model, batch: RegionBatch, noise: Noise) -> dict[str, int]:
        return {"caption": int(model.tokenize([text or "" for text in batch.captions], self.caption_length).mask.sum())}

    def __call__(self, model: Model, teacher: Teacher | None, batch: RegionBatch, noise: Noise) -> LossTerms:
        captions = model.tokenize([text or "" for text in batch.captions], self.caption_length)  # [B, T]
        states = model.caption_states(model.encode(batch), batch.view1, batch.cells, captions)  # [B, T, D]
        loss = self.losses["caption"]
        return LossTerms({"caption": LossTerm(loss(states, captions, model.head()), int(captions.mask.sum()), loss.weight)})
'''

LOOP_TEST = '''
from __future__ import annotations

import torch
from core.contracts import Tokens
from core.testing import LoopKit
from torch import Tensor
from torch.nn import functional as F

from $module import $object


class CrossEntropy:
    """A token loss to run the loop with."""

    weight = 1.0

    def __call__(self, states: Tensor, tokens: Tokens, head: tuple[Tensor, Tensor | None]) -> Tensor:
        logits = F.linear(states[tokens.mask], *head)
        return F.cross_entropy(logits, tokens.ids[tokens.mask], reduction="sum").to(torch.float32)


class Test$object(LoopKit):
    reaches = frozenset({"projector", "language"})

    def make(self) -> $object:
        return $object(losses={"caption": CrossEntropy()}, caption_length=6)
'''

EVALUATOR = '''
"""Mean IoU of the masks that the model predicts for the descriptions of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from core.contracts import BadSample, Dataset, Item, Model, Picture


class $object:
    """Metrics: mean_iou in 0..1 over the described regions, n_regions. A unit is one region."""

    def __init__(self, *, data: Dataset, max_new_tokens: int = 32) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self.data, self.max_new_tokens = data, max_new_tokens

    def __len__(self) -> int:
        return len(self.data)

    def measure(self, model: Model, unit: int) -> list[Item]:
        region = self.data[unit]
        if not region.caption:
            raise BadSample("no description", region.id)
        [answer] = model.predict(region.image, [region.caption], self.max_new_tokens)
        mask = np.zeros_like(region.mask) if answer.mask is None else answer.mask  # [H, W]
        union = (mask | region.mask).sum()
        iou = float((mask & region.mask).sum() / union) if union else 1.0
        return [{"id": region.id, "text": answer.text, "score": iou}]

    def tally(self, items: Sequence[Item]) -> Mapping[str, np.ndarray]:
        return {"ious": np.array([item["score"] for item in items]), "regions": np.ones(len(items))}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"mean_iou": sums["ious"] / sums["regions"], "n_regions": sums["regions"]}

    def picture(self, item: Item) -> Picture:
        region = self.data[item["unit"]]
        return Picture(region.caption or "", region.image, region.mask, text=item["text"], score=item["score"])
'''

EVALUATOR_TEST = """
from __future__ import annotations

from core.contracts import Dataset
from core.testing import EvaluatorKit

from $module import $object


class Test$object(EvaluatorKit):
    def make(self, data: Dataset) -> $object:
        return $object(data=data)
"""

MODEL = '''
"""A model of one's own, grown out of the tiny one: replace its methods one after the other; the tests watch the contract."""

from __future__ import annotations

from core.testing import TinyModel


class $object(TinyModel):
    """``seed``: of the first weights."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
'''

MODEL_TEST = """
from __future__ import annotations

from core.testing import ModelKit

from $module import $object


class Test$object(ModelKit):
    def make(self) -> $object:
        return $object()
"""
