"""Ranges of numbers for signatures, such as ``temperature: Positive = 0.7``: a recipe's number outside is a fault with its line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Within:
    """The range of a number, ``low`` and ``high`` included, ``above`` and ``below`` not; of a mapping, the range of its length."""

    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        low = self.low if self.above is None else self.above
        high = self.high if self.below is None else self.below
        if high == math.inf:
            return f"{'>=' if self.above is None else '>'} {low:g}"
        left_out = [f"{end:g}" for end in (self.above, self.below) if end is not None]
        return f"in {low:g}..{high:g}" + (f" ({' and '.join(left_out)} excluded)" if left_out else "")

    def holds(self, value: Any) -> bool:
        """Whether a number, or a mapping's length, lies in the range; NaN never does."""
        number = len(value) if isinstance(value, dict) else value
        above, below = self.above is None or number > self.above, self.below is None or number < self.below
        return bool(self.low <= number <= self.high and above and below)


Count = Annotated[int, Within(1)]
Share = Annotated[float, Within(0, 1)]
ShareBelow1 = Annotated[float, Within(0, below=1)]
Positive = Annotated[float, Within(above=0)]
NotNegative = Annotated[float, Within(0)]
