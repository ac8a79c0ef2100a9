"""Autocast, mode and gradient of a model, decided in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from core.contracts import Precision, UserError


@contextmanager
def computing(module: nn.Module, device: str, frozen: torch.dtype, training: bool, precision: Precision) -> Iterator[None]:
    """See ``core.contracts.Model.computing``; ``frozen`` is the type of the weights that are not trained.

    ``auto`` on float32 weights leaves an autocast around it as it is: a
    teacher that labels data inside a training step computes in the step's precision. Raises ``UserError``.
    """
    autocast = _autocast(device, frozen, precision)
    modes = {each: each.training for each in module.modules()}
    module.train(training)  # without dropout otherwise: a teacher that labels data inside a training step must not be noisy
    try:
        with torch.set_grad_enabled(training), autocast:
            yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def _autocast(device: str, frozen: torch.dtype, precision: Precision) -> torch.autocast | nullcontext[None]:
    """A frozen base in 16 bit and trained groups in float32 work together only under autocast."""
    if precision == "fp32" and frozen != torch.float32:
        kind = str(frozen).removeprefix("torch.")
        raise UserError(f"train.precision fp32 does not go with model.dtype {kind}: set train.precision to bf16, or model.dtype to float32")
    if precision == "bf16":
        return torch.autocast(device, torch.bfloat16)
    if precision == "fp32":
        return torch.autocast(device, enabled=False)
    return torch.autocast(device, frozen) if frozen != torch.float32 else nullcontext()
