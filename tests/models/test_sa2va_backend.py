"""Whatever Sa2VA does, on a backend whose pictures have grids of their own, positions that are not 0 to L - 1, and deep features."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from native_backend import native_model
from torch import Tensor

from core.contracts import Region, RegionBatch, UserError
from core.engine.noise import RunNoise
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.backend import Prompt
from plugins.models.sa2va.generation import WORTHWHILE, common_beginning, greedy
from plugins.models.sa2va.model import Sa2va

SIDES = [(32, 48), (40, 24), (32, 48)]
TEXTS = ["a red square", "a red square on the left", "the left"]


@pytest.fixture(scope="module")
def model() -> Sa2va:
    return native_model()


def regions() -> list[Region]:
    made = []
    for number, sides in enumerate(SIDES):
        mask = np.zeros(sides, bool)
        mask[8:24, 2 + number : 16] = True
        image = np.random.default_rng(number % 2).integers(0, 256, (*sides, 3), dtype=np.uint8)  # the third is the first again
        made.append(Region(str(number), image, mask, TEXTS[number]))
    return made


def collated(model: Sa2va, chosen: slice = slice(None)) -> RegionBatch:
    return model.preparation.collate([model.preparation(region) for region in regions()[chosen]])


def test_each_picture_has_its_own_grid(model: Sa2va) -> None:
    batch = collated(model)
    assert batch.grids == [(4, 6), (5, 3)]
    assert batch.tile_counts == [24, 15]
    assert batch.view1.tolist() == [0, 1, 0]
    assert [tuple(cells.shape) for cells in batch.cells] == [(4, 6), (5, 3), (4, 6)]
    again = pickle.loads(pickle.dumps(batch))
    assert all(torch.equal(one, other) for one, other in zip(batch.cells, again.cells, strict=True))
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in (moved.tiles, moved.view1, moved.mask2, *moved.cells)} == {"meta"}


@torch.no_grad()
def test_a_description_depends_on_its_own_picture_alone(model: Sa2va) -> None:
    batch = collated(model)
    together = model.caption_states(model.encode(batch), batch.view1, batch.cells, model.tokenize(TEXTS, 8))  # [B, T, D]
    gate = [torch.ones(cells.shape) for cells in batch.cells]
    gated = model.caption_states(model.encode(batch), batch.view1, batch.cells, model.tokenize(TEXTS, 8), gate)
    assert torch.equal(together, gated)
    for row in range(3):
        one = collated(model, slice(row, row + 1))
        captions = model.tokenize(TEXTS[row : row + 1], 8)
        alone = model.caption_states(model.encode(one), one.view1, one.cells, captions)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2]])  # the second two have their picture in common, which is read once
def test_generation_is_that_of_one_token_at_a_time(model: Sa2va, rows: list[int]) -> None:
    """Over whole sequences without a cache: positions and deep features are those that reading a sequence at once has."""
    batch = collated(model)
    prompts = model.sequences.describe(model.encode(batch), batch.view1, batch.cells)
    prompts = [prompts[row] for row in rows]
    assert all(int(prompt.positions.max()) + 1 < len(prompt) for prompt in prompts)  # pictures take fewer positions
    assert (common_beginning(prompts) > WORTHWHILE) == (rows == [0, 2])

    def never(ids: list[int]) -> bool:
        return False

    def read(prompt: Prompt, ids: list[int]) -> Tensor:
        """States [1 + n, D] of a prompt's last token and of ``ids``."""
        states = model.sequences.read([prompt.followed_by(model.embed(torch.tensor(ids, dtype=torch.long)))])
        return states.last[0, len(prompt) - 1 :]

    written = []
    for prompt in prompts:
        ids: list[int] = []
        for _ in range(6):
            ids.append(int(model.network.backend.head(read(prompt, ids)[-1]).argmax()))
        written.append(ids)
    for expected in ([], [[*written[0][:3], 0, 0, 0]]):
        found = greedy(model.network.backend, prompts, 6, never, expected)
        assert found.ids == written
        for row, prompt in enumerate(prompts):
            torch.testing.assert_close(found.states[row], read(prompt, written[row])[1 : 1 + len(found.states[row])], rtol=1e-4, atol=1e-5)


def test_the_second_loop_segments_and_describes_in_each_grid(model: Sa2va) -> None:
    batch = collated(model)
    seen = []
    states = model.caption_states

    def spy(vision, view, cells, captions, gate=None):
        seen.append([(tuple(a.shape), tuple(b.shape)) for a, b in zip(cells, gate, strict=True)])
        return states(vision, view, cells, captions, gate)

    model.caption_states = spy
    try:
        loop = CaptionMaskCaption(
            losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=6, mask_gradient="straight_through"
        )
        terms = loop(model, None, batch, RunNoise(0, 0))
    finally:
        del model.caption_states
    assert seen == [[((4, 6), (4, 6)), ((5, 3), (5, 3)), ((4, 6), (4, 6))]]
    sum(term.total / term.count for term in terms.terms.values()).backward()
    assert all(float(p.grad.norm()) > 0 for _, p in model.trainable()["projector"])
    model.zero_grad()


def test_questions_about_pictures_regions_and_videos(model: Sa2va) -> None:
    one, other, _ = regions()
    [answer] = model.predict(one.image, ["a red square"], 4)
    assert answer.mask is None or answer.mask.shape == one.mask.shape
    assert isinstance(model.predict(other.image, "What is region1?", other.mask[None], max_new_tokens=4).text, str)
    assert isinstance(model.predict([one.image] * 2, "What is it?", max_new_tokens=4).text, str)
    with pytest.raises(UserError, match="was not loaded from a folder"):
        model.memory()
