"""Autocast, mode and gradient have one owner."""

from __future__ import annotations

import pytest
import torch
from checkpoints import CHECKPOINT

from core.contracts import UserError
from plugins.models.sa2va.components import load
from plugins.models.sa2va.model import Sa2va


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest) -> Sa2va:
    return load(checkpoint=CHECKPOINT, dtype=request.param)


def state(model: Sa2va) -> tuple[object, ...]:
    """Modes of a part and its parent, gradient, and the type of a product under autocast (None: without)."""
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return model.training, model.network.sam2.training, torch.is_grad_enabled(), autocast


def test_each_module_gets_back_the_mode_that_it_had(model: Sa2va) -> None:
    model.train()
    model.network.sam2.eval()
    before = [module.training for module in model.modules()]

    def fail() -> None:
        assert not any(module.training for module in model.modules())
        raise KeyError

    with pytest.raises(KeyError), model.computing(training=False):
        fail()
    assert [module.training for module in model.modules()] == before


def test_measuring_inside_a_training_step(model: Sa2va) -> None:
    model.train()
    own = None if model.frozen_dtype == torch.float32 else torch.bfloat16
    with model.computing(training=True):
        assert state(model) == (True, True, True, own)
        with model.computing(training=False):
            assert state(model) == (False, False, False, own)
            with model.computing(training=True):  # gradient and dropout again
                assert state(model) == (True, True, True, own)
        assert state(model) == (True, True, True, own)
    assert state(model) == (True, True, True, None)


def test_an_outer_autocast_stays_where_the_weights_ask_for_none(model: Sa2va) -> None:
    model.train()
    with model.computing(training=True, precision="bf16"), model.computing(training=False):
        assert state(model) == (False, False, False, torch.bfloat16)


def test_fp32_is_float32_or_refused(model: Sa2va) -> None:
    if model.frozen_dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16), model.computing(training=True, precision="fp32"):
            assert state(model)[-1] is None
        return
    with pytest.raises(UserError, match=r"train\.precision.*model\.dtype"), model.computing(training=True, precision="fp32"):
        pass
    assert state(model)[2:] == (True, None)
