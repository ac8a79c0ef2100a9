"""Which masks of an answer count: ``model.mask_rule``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from native_backend import native_model

from plugins.models.sa2va import ask
from plugins.models.sa2va.generation import Generated
from plugins.models.sa2va.mask_rule import counted
from plugins.models.sa2va.model import Sa2va

REASONED = "[SEG] looks like a cup. <answer>[SEG] and\n[SEG]</answer> not [SEG] <answer>[SEG]</answer>"


@pytest.mark.parametrize(
    ("rule", "text", "masks", "numbers"),
    [
        ("first", "Sure, [SEG] and [SEG].", 2, [0]),
        ("first", "no mask", 0, []),
        ("union", "Sure, [SEG] and [SEG].", 2, [0, 1]),
        ("union", "Sure, [SEG] and [SEG]", 1, [0]),  # the last was not read
        ("answer", "Sure, [SEG].", 1, []),
        ("answer", REASONED, 5, [1, 2]),
        ("answer", "<answer>[SEG]</answer>", 1, [0]),
        ("answer", "<answer>[SEG]", 1, []),  # never closed
        ("answer", "[SEG]</answer> <answer>[SEG]</answer>", 2, [1]),
        ("answer", "<answer>none</answer> [SEG]", 1, []),
        ("answer", "[SEG] <answer>[SEG]", 1, []),
    ],
)
def test_the_masks_that_count(rule: Any, text: str, masks: int, numbers: list[int]) -> None:
    assert list(counted(rule, text, masks)) == numbers


@pytest.fixture(scope="module")
def model() -> Sa2va:
    return native_model()


def test_the_mask_of_a_phrase_is_made_of_those(model: Sa2va, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are given; a mask comes from the state of its [SEG] alone."""
    ids = [model.text.ids(text + model.text.turn.end) for text in (REASONED, "It is [SEG].", "nothing")]
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(len(row), 32, generator=generator) for row in ids]
    monkeypatch.setattr(ask, "greedy", lambda *_: Generated(ids, states))
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    vision, found = model.look(image), {}
    for rule in ("first", "union", "answer"):
        monkeypatch.setattr(model, "mask_rule", rule)
        found[rule] = [prediction.mask for prediction in model.predict(image, ["a", "b", "c"], 8)]

    def mask(row: int, number: int) -> np.ndarray:
        place = [at for at, token in enumerate(ids[row]) if token == model.seg_token][number]
        with torch.no_grad():
            logits = model.masks(vision, torch.zeros(1, dtype=torch.long), model.seg_embedding(states[row][place][None]))
            return model.network.final_mask(logits, 32, 48)[0].numpy()

    every = [mask(0, number) for number in range(5)]
    assert not np.array_equal(every[0], np.logical_or.reduce(every))
    assert np.array_equal(found["first"][0], every[0])
    assert np.array_equal(found["union"][0], np.logical_or.reduce(every))
    assert np.array_equal(found["answer"][0], every[1] | every[2])
    assert np.array_equal(found["first"][1], mask(1, 0))
    assert np.array_equal(found["union"][1], mask(1, 0))
    assert found["answer"][1] is None
    assert [masks[2] for masks in found.values()] == [None, None, None]
