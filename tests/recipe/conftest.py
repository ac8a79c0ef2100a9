"""A small recipe of local components, so that these tests need no plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.recipe import Recipe, check, load
from core.registry import Registry

PARTS = '''
from __future__ import annotations
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict
from core.contracts import KINDS, Dataset, MaskLoss, Sampler, TokenLoss
from core.registry.signature import members
if TYPE_CHECKING:
    from nowhere import Unknown

class Any:
    """Has every method that these tests' kinds ask for; keeps its arguments."""
    needs = frozenset()
    weight = 1.0

for contract in KINDS.values():
    for name in members(contract)[0]:
        setattr(Any, name, lambda self, *given: 1)
    for name in members(contract)[1] - {"needs", "weight"}:
        setattr(Any, name, None)

@dataclass(frozen=True)
class Lora:
    r: int
    alpha: float = 1.0

class Model(Any):
    def __init__(self, *, checkpoint: Path, lora: Lora | None = None, train: list[Literal["projector", "lora"]] = ["projector"]) -> None:
        self.checkpoint, self.lora, self.train = checkpoint, lora, train

class MySampler(Any):
    def __init__(self, *, k: int, temperature: float = 0.7) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k, self.temperature = k, temperature

class MyLoss(Any):
    def __init__(self, *, weight: float = 1.0, points: int = 12) -> None:
        self.weight, self.points = weight, points

class Losses(TypedDict):
    mask: MaskLoss
    answer: NotRequired[TokenLoss]

class MyLoop(Any):
    def __init__(self, *, sampler: Sampler, losses: Losses, caption_length: int = 8, gate: bool = False, note: str = "") -> None:
        self.sampler, self.losses = sampler, losses

class Taught(Any):
    needs = frozenset({"teacher"})
    def __init__(
        self, *, betas: tuple[float, float] = (0.9, 0.99), extra: dict[str, int] | None = None, many: Sequence[Dataset] = ()
    ) -> None:
        self.betas, self.extra, self.many = betas, extra, many

def source(*, root: Path, split: Literal["train", "val"] = "train", images: Path | None = None) -> Unknown:
    made = Any()
    made.root, made.split, made.images = root, split, images
    return made

class Surgery(Any):
    def __init__(self, *, anchor: str) -> None:
        self.anchor = anchor

class Order(Any):
    def __init__(self, *, order: list[str] | None = None) -> None:
        self.order = order

    def loops(self, update):
        return self.order or ["one"]

class Optimizer(Any):
    def __init__(self, *, lr: float, name: str | int = 3, shape: bool | Lora | Sampler = True) -> None:
        self.lr, self.name = lr, name
'''

RECIPE = """\
recipe: 1
name: small
seed: 1
model: {use: "./parts.py:Model", checkpoint: "${data.root}/model"}
loops:
  one:
    weight: 1
    tasks:
      seg:
        use: ./parts.py:MyLoop
        sampler:
          use: ./parts.py:MySampler
          k: 4
        losses:
          mask: {use: "./parts.py:MyLoss", weight: 2}
        data:
          a: {use: "./parts.py:source", root: "${data.root}/a"}
gradient: {use: "./parts.py:Surgery", anchor: one}
schedule: {use: "./parts.py:Order"}
optimizer:
  use: ./parts.py:Optimizer
  lr: 1.0e-3
train: {updates: 2, batch_size: 3}
checkpoint: {every: 1}
data: {root: /nowhere}
"""


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry()


class Folder:
    """A folder with ``parts.py`` in which recipes are written and checked."""

    def __init__(self, path: Path, registry: Registry) -> None:
        self.path, self.registry = path, registry
        (path / "parts.py").write_text(PARTS)

    def write(self, text: str = RECIPE, name: str = "r.yaml") -> Path:
        (self.path / name).write_text(text)
        return self.path / name

    def load(self, *overrides: str, text: str = RECIPE, name: str = "r.yaml") -> Recipe:
        return load(self.write(text, name), overrides)

    def faults(self, *overrides: str, text: str = RECIPE) -> list[str]:
        """Each fault as one line, without the folder's name; faults of an edited recipe."""
        return [str(fault).replace(f"{self.path}/", "") for fault in check(self.load(*overrides, text=text), self.registry)]

    def edited(self, old: str, new: str) -> list[str]:
        """The faults of the small recipe after replacing one text."""
        assert RECIPE.count(old) == 1, old
        return self.faults(text=RECIPE.replace(old, new))


@pytest.fixture
def folder(tmp_path, registry, monkeypatch) -> Folder:
    monkeypatch.chdir(tmp_path)  # relative names on the command line are meant from here
    return Folder(tmp_path, registry)
