"""New small models on each vision-language model: written in the published layout, and able to learn regions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from core.contracts import Region, UserError
from core.engine.noise import RunNoise
from plugins.loops.region_description import RegionDescription
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.components import Sizes, scratch
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.verify import _wrong_tensors
from plugins.models.sa2va.sizes import NewFamily

FAMILIES: tuple[NewFamily, ...] = get_args(NewFamily)
ON_QWEN_VL: list[NewFamily] = ["qwen2_5_vl", "qwen3_vl"]
SMALL = Sizes(tile=64, vision_width=32, vision_layers=2, llm_width=32, llm_layers=2, sam_size=64, sam_width=32, hiera_width=8)
TRAIN = ["projector", "vision_model", "language_model", "embeddings"]
Make = Callable[[NewFamily], Sa2va]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "corpus.txt").write_text("large red circle on the left\nsmall blue star at the top\n" * 20)

    def made(family: NewFamily) -> Sa2va:
        return scratch(folder=tmp_path / "new", corpus=tmp_path / "corpus.txt", train=TRAIN, sizes=SMALL, family=family)

    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [Sizes(), Sizes(vision_layers=1), Sizes(llm_width=64, patch=16), Sizes(tile=96, vision_layers=5)])
def test_a_model_of_any_sizes_can_be_built_and_is_small(family: NewFamily, sizes: Sizes) -> None:
    with torch.device("meta"):
        network = Network(parse_config(published_config(sizes, 484, 2, "qwen_chat", family)))
    numbers = sum(parameter.numel() for parameter in network.parameters())
    assert numbers <= (2e6 if sizes == Sizes() else 3e6)


@pytest.mark.parametrize("sizes", [Sizes(vision_width=24), Sizes(llm_width=36)])
def test_widths_that_heads_cannot_turn_are_told(sizes: Sizes) -> None:
    with pytest.raises(UserError, match=r"model\.sizes: .* vision_width must be a multiple of 16 and llm_width one of 8"):
        published_config(sizes, 484, 2, "qwen_chat", "qwen3_vl")


@pytest.mark.parametrize("family", ON_QWEN_VL)
def test_what_is_written_is_a_checkpoint_of_its_family(make: Make, family: NewFamily, tmp_path: Path) -> None:
    model = make(family)
    folder = tmp_path / "new"
    assert json.loads((folder / "config.json").read_text())["text_config"]["model_type"] == f"{family}_text"
    assert any(key.startswith("model.model.visual.merger.") for key, _ in stored_tensors(folder))
    assert _wrong_tensors(model, folder, folder) == 0
    before = model.state_dict()
    again = make(family).state_dict()  # the folder that is there
    assert before.keys() == again.keys()
    assert all(torch.equal(before[name], again[name]) for name in before)
    for other in FAMILIES:
        if other != family:
            with pytest.raises(UserError, match="was not written with these settings; remove it or"):
                make(other)


@pytest.mark.parametrize("family", ON_QWEN_VL)
@torch.no_grad()
def test_an_edge_counts_more_than_an_even_patch_and_places_are_told_from_the_start(make: Make, family: NewFamily) -> None:
    vision = make(family).network.vision
    even, edge = torch.ones(3, 8, 8), torch.ones(3, 8, 8).cumsum(2) - 4.5
    pictures = torch.stack([even / even.norm(), edge / edge.norm()])
    moments = pictures[:, :, None].expand(-1, -1, 2, -1, -1)  # [2, 3, T, P, P]: of a picture both are equal
    strength = vision.patch_embed(moments.flatten(1)).norm(dim=1)
    assert strength[1] > 3 * strength[0] > 0
    if family == "qwen3_vl":
        line = (torch.arange(8) + 0.5) / 8 - 0.5
        down = line.repeat_interleave(8)[:, None]  # [64, 1]
        code = vision.pos_embed.weight
        assert (code @ torch.linalg.lstsq(code, down).solution - down).abs().max() < 0.05


@pytest.mark.parametrize("family", ON_QWEN_VL)
def test_a_few_updates_teach_regions_to_a_model_that_has_seen_none(make: Make, family: NewFamily) -> None:
    """Two regions of one picture: what tells their captions apart is the region alone."""
    model = make(family).train()
    picture = np.full((64, 64, 3), 120, np.uint8)
    texts, masks = ["large red circle on the left", "small blue star at the top"], np.zeros((2, 64, 64), bool)
    for mask, colour, (top, left, side) in zip(masks, ((205, 35, 35), (40, 70, 215)), ((20, 2, 26), (2, 40, 14)), strict=True):
        mask[top : top + side, left : left + side] = True
        picture[mask] = colour
    samples = [model.preparation(Region(text, picture, mask, text)) for text, mask in zip(texts, masks, strict=True)]
    batch, loop = model.preparation.collate(samples), RegionDescription(losses={"caption": CaptionCe()}, caption_length=12)
    optimizer = torch.optim.Adam([p for members in model.trainable().values() for _, p in members], lr=6e-3)
    losses = []
    for _ in range(36):
        with model.computing(training=True):
            term = loop(model, None, batch, RunNoise(0, 0)).terms["caption"]
            (term.total / term.count).backward()
        losses.append(float(term.total.detach()) / term.count)
        optimizer.step()
        norms = {group: sum(float(p.grad.norm()) for _, p in each if p.grad is not None) for group, each in model.trainable().items()}
        assert all(0 < norm < float("inf") for norm in norms.values()), norms
        optimizer.zero_grad()
    assert losses[-1] < 0.05 * losses[0]
    model.eval()
    with torch.no_grad():
        tokens = model.generate(model.encode(batch), batch.view1, batch.cells, 12)
    assert model.decode(tokens) == texts
