"""The teacher as an exponential moving average of the student's trained weights.

Source: mean teacher, Tarvainen and Valpola, arXiv:1703.01780. Only the trained parameters have a shadow, in float32: in
bfloat16 a decay of 0.999 rounds most steps away. The frozen weights are the student's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core.contracts import ShareBelow1, UserError
from core.late import no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Ema:
    """``shadow = decay * shadow + (1 - decay) * weight`` after each optimizer step."""

    def __init__(self, *, decay: ShareBelow1 = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in 0..1 (1 excluded), not {decay}.")
        self.decay = decay
        self._started = False
        self._live: dict[str, Parameter] = {}
        self._shadow: dict[str, Tensor] = {}

    def start(self, groups: Mapping[str, Sequence[tuple[str, Parameter]]]) -> None:
        """Copies the trained parameters, once they are on their device. Raises ValueError for one that is not float32."""
        self._live = {f"{group}/{name}": parameter for group, named in groups.items() for name, parameter in named}
        for name, parameter in self._live.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"ema needs float32 parameters, but {name} is {parameter.dtype}.")
        self._shadow = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._started = True

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside it the parameters point at the shadow, without gradient; nothing is copied, and it is undone on errors too.

        Autocast caches the casts of trained weights by parameter: its cache, of the other model, is cleared on entry and on exit.
        """
        self._require_start()
        torch.clear_autocast_cache()
        student = [parameter.data for parameter in self._live.values()]
        try:
            for name, parameter in self._live.items():
                parameter.data = self._shadow[name]
            with torch.no_grad():
                yield
        finally:
            for parameter, data in zip(self._live.values(), student, strict=True):
                parameter.data = data
            torch.clear_autocast_cache()

    @no_grad
    def update(self) -> None:
        """One step of the average."""
        self._require_start()
        if self._live:
            torch._foreach_lerp_(list(self._shadow.values()), [p.data for p in self._live.values()], 1 - self.decay)

    @no_grad
    def statistics(self) -> dict[str, float]:
        """``distance``: the student's from the teacher, ``|w - shadow| / |shadow|`` over all trained parameters."""
        self._require_start()
        if not self._live:
            return {}
        apart = torch.stack([torch.dist(parameter.data, self._shadow[name]) for name, parameter in self._live.items()]).norm()
        size = torch.stack([shadow.norm() for shadow in self._shadow.values()]).norm()
        return {"distance": float(apart / size) if size else 0.0}

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow, float32, by ``group/name``."""
        self._require_start()
        return dict(self._shadow)

    @no_grad
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a saved shadow. Raises UserError unless its names and shapes are exactly those of the trained parameters."""
        self._require_start()
        faults = [f"missing {name}" for name in self._shadow.keys() - state.keys()]
        faults += [f"unknown {name}" for name in state.keys() - self._shadow.keys()]
        faults += [
            f"{name} is {list(state[name].shape)} instead of {list(shadow.shape)}"
            for name, shadow in self._shadow.items()
            if name in state and state[name].shape != shadow.shape
        ]
        if faults:
            listed = "; ".join(sorted(faults))
            raise UserError(f"The saved teacher does not fit the trained parameters ({listed}): resume with the model it was saved with.")
        for name, shadow in self._shadow.items():
            shadow.copy_(state[name])

    def _require_start(self) -> None:
        if not self._started:
            raise RuntimeError("ema was used before start(groups) gave it the trained parameters.")
