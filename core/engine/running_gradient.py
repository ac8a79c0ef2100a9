"""The running mean of one loop's gradient, which takes that loop's place in the surgery; see ``core.contracts.Schedule``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from core.contracts import UserError
from core.engine.parallel.gradients import Gradients, Groups


class RunningGradient:
    """``mean = decay * mean + (1 - decay) * gradient`` over the updates in which ``loop`` takes part, from zero."""

    def __init__(self, groups: Groups, loop: str, decay: float) -> None:
        self.loop, self.decay, self.mean = loop, decay, Gradients(groups)

    def follow(self, gradients: Mapping[str, Gradients]) -> dict[str, Gradients]:
        """Takes in the update's reduced, finite gradients; returns what the surgery is to see of them.

        That is the gradients themselves while ``loop`` is alone, otherwise with the mean in its place, also if it is absent.
        """
        if (own := gradients.get(self.loop)) is not None:
            self.mean.whole.lerp_(own.whole, 1 - self.decay)
            self.mean.touched |= own.touched
        others = {name: gradient for name, gradient in gradients.items() if name != self.loop}
        return {self.loop: self.mean, **others} if others else dict(gradients)

    def state_dict(self) -> dict[str, Tensor]:
        """The mean by ``group/name``, float32."""
        return {name: block.clone() for name, block in self.mean.blocks(per_parameter=True).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises ``UserError`` where the names or sizes are not those of the trained parameters."""
        blocks = self.mean.blocks(per_parameter=True)
        if {name: block.numel() for name, block in blocks.items()} != {name: tensor.numel() for name, tensor in state.items()}:
            raise UserError("the saved running gradient does not fit the trained parameters: resume with the model it was saved with")
        for name, block in blocks.items():
            block.copy_(state[name])
        self.mean.touched = {parameter for parameter, view in self.mean.views() if bool(torch.any(view))}
