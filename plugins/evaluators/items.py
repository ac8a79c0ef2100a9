"""Which pictures of a data set an evaluator takes, and the regions that it finds in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.contracts import BadSample, Dataset, GroupsByPicture, Item, Region


def spread(total: int, wanted: int | None) -> list[int]:
    """``wanted`` of ``range(total)``, evenly spread from the first to the last; all of them where ``wanted`` is None or more."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return np.linspace(0, total - 1, wanted).round().astype(int).tolist()


def pictures(data: Dataset, max_samples: int | None) -> list[list[int]]:
    """The data set's indices by picture, of at most ``max_samples`` pictures; without ``images()`` each index is a picture."""
    groups = data.images() if isinstance(data, GroupsByPicture) else [[index] for index in range(len(data))]
    return [groups[number] for number in spread(len(groups), max_samples)]


def described(data: Dataset, indices: Sequence[int], needed: bool = True) -> tuple[dict[int, Region], list[Item]]:
    """The regions by index, with ``needed`` those with a text alone, and an item with ``bad`` for each that cannot be used."""
    regions, bad = {}, []
    for index in indices:
        try:
            region = data[index]
            if needed and not (region.caption or "").strip():
                raise BadSample("no text", region.id)
            regions[index] = region
        except BadSample as error:
            bad.append(bad_item(error))
    return regions, bad


def by_mask(regions: Mapping[int, Region]) -> list[list[int]]:
    """The indices of regions of one picture, those with equal masks together."""
    groups: dict[bytes, list[int]] = {}
    for index, region in regions.items():
        groups.setdefault(np.packbits(region.mask).tobytes(), []).append(index)
    return list(groups.values())


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def bad_item(error: BadSample) -> Item:
    """What is kept of a sample that cannot be used."""
    return {"id": error.sample, "bad": error.reason, "detail": error.detail}


def at_least_one(**given: int | None) -> None:
    """Raises ValueError for a parameter below 1."""
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
