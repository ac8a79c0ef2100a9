"""The files of a model: the folder that it came from, and what is written of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.initialization import no_init_weights
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from core.contracts import UserError
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published import export, verify
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.memory import native_name
from plugins.models.sa2va.published.sam2_file import DECODER, read_sam2, require_memory_of
from plugins.models.sa2va.published.weights import spread
from plugins.models.sa2va.tracking import PROMPTED, Memory


class Published:
    """Obeys ``model.Publisher``, for the published layout."""

    def __init__(self, base: Path, load: Callable[..., Sa2va]) -> None:
        """``load``: makes a model of a folder, to verify what was written."""
        self.base, self._load = base, load

    def memory(self, network: Network) -> Memory:
        """Reads the memory of the base. Raises ``UserError`` for a checkpoint without one."""
        if network.config.memory is None:
            raise UserError(f"{self.base}: this checkpoint has no video memory; give at most {PROMPTED} frames, which need none")
        with no_init_weights():
            memory = Memory(network.config)
        stored = stored_tensors(self.base, lambda key: bool(native_name(key)))
        memory.load_state_dict({str(native_name(key)): tensor for key, tensor in stored})
        like = network.sam2.no_memory_embedding
        for parameter in memory.parameters():  # not .to(): rotary frequencies stay float32
            parameter.data = parameter.data.to(like.dtype)
        return memory.to(like.device).eval().requires_grad_(False)

    def original(self, network: Network, sam2: Path | None) -> Sam2MaskDecoder:
        """The mask decoder of SAM2's own file ``sam2``, or of the base as it is stored. Raises ``UserError`` for a file of another SAM2."""
        if sam2 is None:
            warnings.warn(
                f"propagate: original without sam2: masks are carried through a video by the mask decoder as {self.base} stores it, which "
                "Sa2VA's own training tuned; for the untouched one give SAM2's own file (sam2: sam2_hiera_large.pt)",
                stacklevel=2,
            )
            stored = dict(stored_tensors(self.base, lambda key: key.startswith(DECODER)))
        else:
            given = read_sam2(sam2)
            require_memory_of(sam2, given, self.base)
            stored = {key: tensor for key, tensor in given.items() if key.startswith(DECODER)}
        layout = network.config.layout
        native = {
            name.removeprefix("sam2.mask_decoder."): part for key, tensor in stored.items() for name, _, part in spread(layout, key, tensor)
        }
        sizes: Any = network.sam2.config.mask_decoder_config
        with no_init_weights():
            decoder = Sam2MaskDecoder(sizes)
        try:
            decoder.load_state_dict(native)
        except RuntimeError as error:
            raise UserError(f"{sam2 or self.base}: its mask decoder does not fit: {' '.join(str(error).split())[:300]}") from None
        like = network.sam2.no_memory_embedding
        return decoder.to(like.device, like.dtype).eval().requires_grad_(False)

    def save(self, model: Sa2va, folder: Path) -> None:
        export.save(model, self.base, folder)

    def changes(self, model: Sa2va, folder: Path) -> list[dict[str, Any]]:
        return verify.changes(model, self.base, folder)

    def verify(self, model: Sa2va, folder: Path) -> dict[str, float]:
        return verify.verify(model, self.base, folder, self._load)

    def save_adapter(self, model: Sa2va, folder: Path) -> None:
        export.save_adapter(model, folder)

    def save_legacy(self, model: Sa2va, file: Path) -> None:
        export.save_legacy(model, self.base, file)
