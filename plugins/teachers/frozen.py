"""A teacher that is another model: a checkpoint of its own, larger or of another family, which never changes.

It reads each region as its own preparation makes it, writes a caption in its own words and tokens, and the student learns from the
text, in the student's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from core.contracts import Model, RegionBatch, Tokens, UserError, generated_tokens
from core.late import no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Frozen:
    """``model``: the teacher's own entry, as a recipe's ``model``; its parameters are frozen whatever its ``train`` says.

    It lies on the student's device, whole on each process, and is no part of checkpoints: the recipe names it.
    """

    def __init__(self, *, model: Model) -> None:
        for parameter in model.parameters() if isinstance(model, torch.nn.Module) else _trained(model):
            parameter.requires_grad_(False)
        self.model, self.preparation = model, model.preparation

    def start(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]]) -> None:
        """Moves the teacher to the device of the student's parameters."""
        student = next((parameter for members in groups.values() for _, parameter in members), None)
        if student is not None and isinstance(self.model, torch.nn.Module):
            self.model.to(student.device)

    @no_grad
    def captions(self, model: Model, vision: Any, batch: RegionBatch, length: int) -> Tokens:
        """[B, T] in the student's tokens. Without ``batch.for_teacher`` both models must prepare regions alike."""
        seen = batch if batch.for_teacher is None else batch.for_teacher
        if batch.for_teacher is None and model.preparation != self.preparation:
            raise RuntimeError("the teacher's preparation is not the student's: the batch must bring what the teacher sees (for_teacher)")
        with self.model.computing(training=False):
            written = self.model.generate(self.model.encode(seen), seen.view1, seen.cells, length)
        return generated_tokens(model, self.model.decode(written), length)

    def weights(self) -> AbstractContextManager[None]:
        """Raises ``UserError``: these weights are another model's."""
        raise UserError("this teacher is a model of its own: it has no weights for the student, but writes captions (teacher_captions)")

    def update(self) -> None:
        """Nothing: it stays as it is."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises ``UserError`` for a state that another teacher saved."""
        if state:
            raise UserError(f"The saved teacher has weights ({min(state)}), this one has none: resume with the teacher it was saved with.")


def _trained(model: Model) -> list[Parameter]:
    return [parameter for members in model.trainable().values() for _, parameter in members]
