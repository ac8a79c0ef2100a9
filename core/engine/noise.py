"""All randomness of a run, derived from names: nothing depends on worker, rank or what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*names: object) -> int:
    """A 63-bit seed from any names, equal on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RunNoise:
    """Obeys ``core.contracts.Noise`` for one update."""

    def __init__(self, seed: int, update: int) -> None:
        self.seed, self.update = seed, update

    def generator(self, sample: str, purpose: str) -> torch.Generator:
        """A fresh CPU generator for (seed, update, sample, purpose)."""
        return torch.Generator().manual_seed(derived_seed(self.seed, self.update, sample, purpose))
