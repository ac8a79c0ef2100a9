"""The files of a model: the folder that it came from, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.initialization import no_init_weights

from core.contracts import UserError
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published import export, verify
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.memory import native_name
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
