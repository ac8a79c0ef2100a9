"""What is not training leaves no trace in it: whatever draws random numbers inside does not move those of the training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from core.late import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """The global generators of Python, numpy and torch, this process's GPU included, are afterwards as they were, also after an error."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
