"""From an update's gradients to its step: the Gram matrix, the gradient op's weights or its element-wise sum, and the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.contracts import ElementWise, GradientOp, Gram, PerParameter, UserError
from core.engine.noise import derived_seed
from core.engine.parallel.gradients import Gradients
from core.engine.parallel.strategy import Strategy
from core.engine.running_gradient import RunningGradient
from core.engine.surgery_log import diagnostics

Values = dict[str, float]  # what is logged, by name


@dataclass
class Surgery:
    """A gradient op with all that decides what it sees."""

    op: GradientOp
    seed: int = 0
    apart: frozenset[str] = frozenset()  # parameter groups whose gradients it does not see: they are summed with the loops' weights
    running: RunningGradient | None = None
    unreached: dict[str, nn.Parameter] = field(default_factory=dict)  # weights of loops' own that no loss has reached yet, by name

    def step(
        self, strategy: Strategy, gradients: Mapping[str, Gradients], scales: Mapping[str, float], number: int, values: Values
    ) -> bool:
        """Surgery on the gradients of update ``number`` and the optimizer's step; adds to ``values``, and takes the losses from there.

        False, with nothing changed, where a gradient is not finite.
        """
        order = list(gradients.values())
        strategy.reduce(order)
        touched = set().union(*(gradient.touched for gradient in order)) if self.unreached else set()
        self.unreached = {name: parameter for name, parameter in self.unreached.items() if parameter not in touched}
        matrix = strategy.gram(order, self._per_parameter)  # [blocks, n, n]
        if not bool(matrix.isfinite().all()):  # before the op, whose state would keep it
            return False
        seen = self.running.follow(gradients) if self.running else gradients
        if self.running and (mean := self.running.mean) in seen.values():
            main = self.running.loop
            matrix = strategy.gram(list(seen.values()), self._per_parameter)
            gram, op_weights, weights = self._weighed(strategy, seen, {**scales, main: 0.0}, matrix, values)  # of the mean and the others
            own = dict(zip(seen, weights.unbind(1), strict=True))
            columns = [torch.full_like(own[main], scales[name]) if name == main else own[name] for name in gradients]
            norm = strategy.step(order, torch.stack([*columns, own[main]], 1), kept=[mean])
        else:
            gram, op_weights, weights = self._weighed(strategy, gradients, scales, matrix, values)
            if isinstance(self.op, ElementWise):
                return self._element_wise(self.op, strategy, order, gram, weights, number, values)
            norm = strategy.step(order, weights)
        values |= diagnostics(gram, op_weights)
        values["optimizer/grad_norm"] = norm
        return math.isfinite(norm)

    @property
    def _per_parameter(self) -> bool:
        return isinstance(self.op, PerParameter) and self.op.per_parameter

    def _weighed(
        self,
        strategy: Strategy,
        gradients: Mapping[str, Gradients],
        scales: Mapping[str, float],
        matrix: Tensor,
        values: Mapping[str, float],
    ) -> tuple[Gram, Tensor, Tensor]:
        """(what the op sees, its weights [P, n], the weights [blocks, n] of all blocks, also of those that it does not see)."""
        names = list(next(iter(gradients.values())).blocks(self._per_parameter))
        inside = torch.tensor([name.split("/")[0] not in self.apart for name in names])  # [blocks]
        factors = torch.tensor([scales[name] for name in gradients], dtype=torch.float64)  # [n]
        gram = Gram(
            loops=tuple(gradients),
            groups=tuple(name for name, within in zip(names, inside.tolist(), strict=True) if within),
            values=matrix[inside],
            scales=factors,
            losses=torch.tensor([values.get(loss_key(name), 0.0) for name in gradients], dtype=torch.float64),
        )
        op_weights = strategy.from_main(self.op.weights(gram))  # [P, n]; every rank asks its op, whose state must go on everywhere
        weights = factors.repeat(len(names), 1)
        weights[inside] = op_weights.double()
        return gram, op_weights, weights

    def _element_wise(
        self,
        op: ElementWise,
        strategy: Strategy,
        order: list[Gradients],
        gram: Gram,
        weights: Tensor,
        number: int,
        values: dict[str, float],
    ) -> bool:
        generator = torch.Generator(order[0].whole.device).manual_seed(derived_seed(self.seed, number, "combine"))
        combined = Combined(op, gram.scales, generator)
        norm = strategy.step(order, weights, mixed=dict.fromkeys(gram.groups, combined))
        values |= diagnostics(gram, None) | combined.kept()
        values["optimizer/grad_norm"] = norm
        return math.isfinite(norm)


class Combined:
    """``ElementWise.combine`` of one part of the gradients after another, and how much of the weighted sum it keeps."""

    def __init__(self, op: ElementWise, scales: Tensor, generator: torch.Generator) -> None:
        self.op, self.scales, self.generator = op, scales, generator
        self.products: list[Tensor] = []  # of each part: [2], <update, sum> and <sum, sum>, float64

    def __call__(self, parts: Tensor) -> Tensor:
        """[n, m] float32 -> [m]. Raises ``UserError`` for another shape."""
        update = self.op.combine(parts, self.scales, self.generator)
        if update.shape != parts.shape[1:]:
            name, got = type(self.op).__name__, list(update.shape)
            raise UserError(f"{name}.combine gave {got} for gradients {list(parts.shape)}: it must give [{parts.shape[1]}]")
        plain = self.scales.to(parts.device) @ parts.double()  # [m]
        self.products.append(torch.stack([update.double() @ plain, plain @ plain]))
        return update

    def kept(self) -> dict[str, float]:
        """``surgery/kept`` as in ``diagnostics``, over all parameters."""
        update, plain = torch.stack(self.products).sum(0).tolist()
        return {"surgery/kept": update / plain} if plain > 0 else {}


def loss_key(gradient: str) -> str:
    """Where the log has the loss whose gradient it is: of a loop, or of a task, ``LOOP/TASK``."""
    return f"task_loss/{gradient}" if "/" in gradient else f"{gradient}/loss"
