"""``every_n``: one loop in every update, another in every n-th, projected against the running gradient of the first."""

from __future__ import annotations

from collections.abc import Sequence

from core.contracts import Count, ShareBelow1


class EveryN:
    """``main`` takes part in every update and ``other`` joins it in updates n - 1, 2n - 1, ... (counted from 0).

    When ``other`` takes part, the gradient op sees under the name of ``main`` the running mean of its gradients,
    ``decay * mean + (1 - decay) * gradient``, this update's included: one update's gradient is a noisy direction to project
    against. ``main``'s own gradient of the update enters the sum with its weight in the recipe, unprojected.
    ``together: false`` leaves ``main`` out of the updates of ``other``, which then cost one loop instead of two.
    """

    def __init__(self, *, main: str, other: str, n: Count, decay: ShareBelow1 = 0.9, together: bool = True) -> None:
        if main == other:
            raise ValueError(f"main and other must be two loops, but both are {main!r}.")
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in 0..1 (1 excluded), not {decay}.")
        if n == 1 and not together:
            raise ValueError("with n: 1 and together: false main would never take part.")
        self.main, self.other, self.n, self.together = main, other, n, together
        self.running = (main, decay)

    def loops(self, update: int) -> Sequence[str]:
        if (update + 1) % self.n:
            return (self.main,)
        return (self.main, self.other) if self.together else (self.other,)
