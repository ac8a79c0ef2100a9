"""A teacher that is the student itself: it labels with the newest weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


class TemplateName:
    """Keeps no weights of its own; a teacher that does saves them in ``state_dict``.

    One that is no version of the student, such as another model or a file of captions, has a method ``captions`` besides: see
    ``core.contracts.WritesCaptions``.
    """

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
