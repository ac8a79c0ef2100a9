"""The minimal working bodies of scaffolded components, and their tests: kind -> (code, test, recipe lines, dependencies)."""

from __future__ import annotations

from core.scaffold.bodies_model import (
    DATASET,
    DATASET_TEST,
    EVALUATOR,
    EVALUATOR_TEST,
    LOOP,
    LOOP_TEST,
    MODEL,
    MODEL_TEST,
)

GRADIENT_OP = '''
"""Gradients of the other loops are damped where they conflict with the anchor's."""

from __future__ import annotations

import torch
from core.contracts import Gram
from torch import Tensor


class $object:
    """``g = s_a g_a + sum_i d_i s_i g_i``; ``d_i`` is ``damping`` where ``<g_i, g_a> < 0`` over all parameters, otherwise 1.

    ``anchor``: the loop a; by default the first one of each update.
    """

    def __init__(self, *, anchor: str | None = None, damping: float = 0.5) -> None:
        if not 0 <= damping <= 1:
            raise ValueError(f"damping must lie in 0..1, not {damping}.")
        self.anchor, self.damping = anchor, damping

    def weights(self, gram: Gram) -> Tensor:
        """[P, n] float64, the same for every parameter group."""
        w = gram.scales.clone()  # [n]
        anchor = gram.loops[0] if self.anchor is None else self.anchor
        if anchor in gram.loops:
            inner = gram.values.sum(0)[gram.loops.index(anchor)]  # [n], <g_a, g_i>
            w = torch.where(inner < 0, self.damping * w, w)
        return w.repeat(len(gram.groups), 1)
'''

GRADIENT_OP_TEST = """
from __future__ import annotations

from core.testing import GradientOpKit

from $module import $object


class Test$object(GradientOpKit):
    sum_without_conflict = True  # what the op declares of itself is checked
    scope = "global"

    def make(self) -> $object:
        return $object(anchor="loop1")
"""

LOSS = '''
"""A mask loss: the squared error of the mask's probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class $object:
    """Mean over the pixels of ``(sigmoid(logit) - mask)^2``. ``weight`` is the term's weight in its loop."""

    def __init__(self, *, weight: float = 1.0) -> None:
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but is {weight}.")
        self.weight = weight

    def __call__(self, logits: Tensor, target: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, h, w] logits, [B, h, w] bool, B generators (unused) -> [B] float32."""
        return (logits.float().sigmoid() - target.float()).square().mean((1, 2))  # [B]
'''

LOSS_TEST = """
from __future__ import annotations

from core.testing import MaskLossKit

from $module import $object


class Test$object(MaskLossKit):  # a token loss takes TokenLossKit
    def make(self) -> $object:
        return $object()
"""

SAMPLER = '''
"""Soft text without noise: the expected token embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class $object:
    """``softmax(logits / temperature) @ embedding``; gradient flows to the states through all tokens."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.temperature = temperature

    def __call__(
        self, states: Tensor, head: tuple[Tensor, Tensor | None], embedding: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """[B, T, D] states -> [B, T, D] text, and diagnostics [B, T]. Nothing is drawn from the generators."""
        logits = F.linear(states.to(head[0].dtype), *head)  # [B, T, V]
        soft = (logits / self.temperature).softmax(-1)  # [B, T, V]
        mass = torch.ones_like(soft[..., 0], dtype=torch.float32)  # [B, T]: all tokens are kept
        return soft.to(embedding.dtype) @ embedding, {"topk_mass": mass, "ids": logits.argmax(-1)}
'''

SAMPLER_TEST = """
from __future__ import annotations

from core.testing import SamplerKit

from $module import $object


class Test$object(SamplerKit):
    def make(self) -> $object:
        return $object()
"""

TEACHER = '''
"""A teacher that is the student itself: it labels with the newest weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


class $object:
    """Keeps no weights of its own; a teacher that does saves them in ``state_dict``."""

    def start(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]]) -> None:
        """Called once with the trained parameters, on their device."""

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside it the model computes with the teacher's weights, without gradient."""
        with torch.no_grad():
            yield

    def update(self) -> None:
        """Called after each optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what ``state_dict`` gave."""
'''

TEACHER_TEST = """
from __future__ import annotations

from core.testing import TeacherKit

from $module import $object


class Test$object(TeacherKit):
    def make(self) -> $object:
        return $object()
"""

SCHEDULE = '''
"""The loops take turns, one in each update."""

from __future__ import annotations

from collections.abc import Sequence


class $object:
    """Update u runs the loop ``order[u mod n]`` alone."""

    def __init__(self, *, order: list[str]) -> None:
        if not order:
            raise ValueError("order must name at least one loop.")
        self.order = order

    def loops(self, update: int) -> Sequence[str]:
        return [self.order[update % len(self.order)]]
'''

SCHEDULE_TEST = """
from __future__ import annotations

from core.testing import ScheduleKit

from $module import $object


class Test$object(ScheduleKit):
    names = frozenset({"loop1", "loop2"})

    def make(self) -> $object:
        return $object(order=["loop1", "loop2"])
"""

OPTIMIZER = '''
"""Stochastic gradient descent with momentum, at a constant rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR


class $object:
    """One optimizer group, with its ``name``, for each parameter group."""

    def __init__(self, *, lr: float, momentum: float = 0.9) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, not {lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 (1 excluded), not {momentum}.")
        self.lr, self.momentum = lr, momentum

    def build(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]], updates: int) -> tuple[torch.optim.SGD, LambdaLR]:
        named = [{"name": group, "params": [parameter for _, parameter in members]} for group, members in groups.items() if members]
        optimizer = torch.optim.SGD(named, lr=self.lr, momentum=self.momentum)
        return optimizer, LambdaLR(optimizer, lambda update: 1.0)
'''

OPTIMIZER_TEST = """
from __future__ import annotations

from core.testing import OptimizerKit

from $module import $object


class Test$object(OptimizerKit):
    def make(self) -> $object:
        return $object(lr=0.01)
"""

TRACKER = '''
"""A table of numbers as CSV in the run folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from core.contracts import RunInfo


class $object:
    """One row ``update,name,value`` for each number; a resumed run goes on in the same file."""

    def __init__(self, *, file: str = "$name.csv") -> None:
        self.file = file
        self._path: Path | None = None

    def start(self, run: RunInfo) -> None:
        self._path = run.folder / self.file

    def log(self, update: int, values: Mapping[str, float]) -> None:
        if self._path is None:
            raise RuntimeError("start() comes before log().")
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows((update, name, value) for name, value in values.items())

    def picture(self, update: int, name: str, path: Path) -> None:
        """Nothing to do: the picture is in the run folder."""

    def finish(self, summary: Mapping[str, float]) -> None:
        self.log(-1, summary)
'''

TRACKER_TEST = """
from __future__ import annotations

from core.testing import TrackerKit

from $module import $object


class Test$object(TrackerKit):
    def make(self) -> $object:
        return $object()
"""

BODIES: dict[str, tuple[str, ...]] = {
    "datasets": (DATASET, DATASET_TEST, "data: {mine: {use: $name, root: /path/to/pictures}}", ', "numpy", "Pillow"'),
    "models": (MODEL, MODEL_TEST, "model: {use: $name}", ', "safetensors"'),
    "teachers": (TEACHER, TEACHER_TEST, "teacher: {use: $name}"),
    "loops": (LOOP, LOOP_TEST, "tasks: {mine: {use: $name, losses: {caption: {use: caption_ce}}, data: {...}}}"),
    "samplers": (SAMPLER, SAMPLER_TEST, "sampler: {use: $name}"),
    "losses": (LOSS, LOSS_TEST, "losses: {mask: {use: $name}}"),
    "gradient_ops": (GRADIENT_OP, GRADIENT_OP_TEST, "gradient: {use: $name}"),
    "schedules": (SCHEDULE, SCHEDULE_TEST, "schedule: {use: $name, order: [loop1, loop2]}"),
    "optimizers": (OPTIMIZER, OPTIMIZER_TEST, "optimizer: {use: $name, lr: 1.0e-3}"),
    "evaluators": (EVALUATOR, EVALUATOR_TEST, "evaluate: {mine: {use: $name, data: {...}}}"),
    "trackers": (TRACKER, TRACKER_TEST, "track: {mine: {use: $name}}"),
}
