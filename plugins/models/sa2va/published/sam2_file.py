"""SAM2's own checkpoint, as facebookresearch/sam2 publishes it: ``sam2_hiera_large.pt``, ``sam2.1_hiera_large.pt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from core.contracts import UserError
from plugins.models.sa2va.published.folder import alike, stored_tensors
from plugins.models.sa2va.published.keys import is_memory
from plugins.models.sa2va.published.tables import GROUND
from plugins.models.sa2va.published.training_file import published_name, read_pth

DECODER = GROUND + "sam_mask_decoder."


def read_sam2(file: Path) -> Mapping[str, Tensor]:
    """Published key -> tensor, mapped into memory. Raises ``UserError`` for another file."""
    tensors = {published_name(GROUND + name, adapted=""): tensor for name, tensor in read_pth(file, "model")[0].items()}
    if not any(key.startswith(DECODER) for key in tensors):
        found = ", ".join(key.removeprefix(GROUND) for key in list(tensors)[:3])
        raise UserError(f"{file}: not SAM2's own file, which has sam_mask_decoder.*; it has {found}; give sam2_hiera_large.pt or its like")
    return tensors


def require_memory_of(file: Path, tensors: Mapping[str, Tensor], base: Path) -> None:
    """Raises ``UserError`` where the file's memory is not the one of ``base``: decoders of other sizes and versions have its shapes."""
    for key, stored in stored_tensors(base, is_memory):
        given = tensors.get(key)
        if given is None or given.shape != stored.shape or not alike(given, stored):
            other = "lacks" if given is None else "has another"
            what = f"{other} {key.removeprefix(GROUND)}: it is another SAM 2 than the one in {base} (of another size, or 2.1 for 2.0)"
            raise UserError(f"{file}: {what}; give the file that this checkpoint was made with")
