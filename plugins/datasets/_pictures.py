"""Pictures and masks of a data set, through the one reader of all files (``core.pixels``), with its faults as bad samples."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from core.contracts import BadSample
from core.pixels import MAX_PIXELS, Label, MaskKind, Orientation, Source, Unreadable, mask_of, read_picture

Read = TypeVar("Read")


class Pictures:
    """How a source's pictures and masks are read, and what there was to tell about them.

    ``orientation``: what its masks were drawn on; ``shown``, unless a source's own page says that its masks are of the stored pixels.
    """

    def __init__(self, source: str, *, draft: int | None = None, orientation: Orientation = "shown", max_pixels: int | None = None) -> None:
        """``source``: the data set's name, for what is told. ``max_pixels``: None where the source has no such option. Raises
        ``ValueError`` for what no option may be."""
        if draft is not None and draft < 1:
            raise ValueError(f"draft must be at least 1 or left out, not {draft}.")
        if orientation not in ("shown", "stored"):
            raise ValueError(f"orientation must be shown or stored, not {orientation}.")
        if max_pixels is not None and max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, not {max_pixels}.")
        self.source, self.draft, self.orientation, self.limit = source, draft, orientation, max_pixels or MAX_PIXELS
        self._raise = "; where the file is to be trusted, raise max_pixels" if max_pixels is not None else ""
        self.told: Counter[str] = Counter()  # in this process

    def __getstate__(self) -> dict[str, Any]:  # what was told is no part of what a data set is
        return self.__dict__ | {"told": Counter()}

    def notes(self) -> tuple[str, ...]:
        """How files were read that are not as most are, and how often in this process: for ``Usage.notes``."""
        return tuple(f"{count} x {text}" for text, count in sorted(self.told.items()))

    def view(self, source: Source, sample: str, size: tuple[int, ...] | None = None, scaled: bool = False) -> tuple[np.ndarray, int]:
        """[H, W, 3] uint8 RGB, and the factor by which a mask of ``size`` (H, W) is to be reduced. Raises ``BadSample``.

        ``scaled``: the mask may be larger or smaller than the picture, but has its shape.
        """

        def read() -> tuple[np.ndarray, int]:
            how: dict[str, Any] = {"size": size, "scaled": scaled, "draft": self.draft, "orientation": self.orientation}
            return read_picture(source, **how, limit=self.limit, tell=self._tell)

        return self._asked(read, "picture", sample, scaled)

    def picture(self, source: Source, sample: str) -> np.ndarray:
        """[H, W, 3] uint8 RGB. Raises ``BadSample``."""
        return self.view(source, sample)[0]

    def mask(self, source: Source, sample: str, kind: MaskKind = "auto", label: Label | None = None) -> np.ndarray:
        """[H, W] bool of its own size. Raises ``BadSample``."""

        def read() -> np.ndarray:
            return mask_of(source, kind=kind, label=label, orientation=self.orientation, limit=self.limit, tell=self._tell)

        return self._asked(read, "mask", sample)

    def _tell(self, text: str) -> None:
        self.told[text] += 1
        if self.told[text] == 1:
            warnings.warn(f"{self.source}: {text}", stacklevel=1)

    def _asked(self, read: Callable[[], Read], what: str, sample: str, scaled: bool = False) -> Read:
        try:
            return read()
        except Unreadable as fault:
            if fault.reason == "size":
                raise BadSample(f"mask and picture differ in {'shape' if scaled else 'size'}", sample, fault.detail) from fault
            if fault.reason == "too large":
                raise BadSample(f"{what} too large", sample, fault.detail + self._raise) from fault
            reason = "damaged" if fault.reason == "unknown" else fault.reason
            raise BadSample(f"{reason} {what}", sample, fault.detail) from fault
