"""What the loops show of a batch during training agrees with what they train on."""

from __future__ import annotations

import pytest
import torch

from core.contracts import Loop, Sample, ShowsSamples, Tokens
from core.testing.loops import Student
from core.testing.tiny_model import KitNoise, TinyModel, regions
from plugins.loops._samples import marked, overlap
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.loops.referring_segmentation import ReferringSegmentation
from plugins.loops.region_description import RegionDescription
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.samplers.st_gumbel_topk import StGumbelTopk

MASK, TEXT = BceDice(points=16), CaptionCe()
LOOPS = {
    "mask_caption_mask": MaskCaptionMask(
        sampler=StGumbelTopk(k=4), losses={"mask": MASK, "answer": TEXT}, caption_length=6, token_mask_ratio=0.5
    ),
    "caption_mask_caption": CaptionMaskCaption(losses={"caption": TEXT, "answer": TEXT}, caption_length=30),
    "referring_segmentation": ReferringSegmentation(losses={"mask": MASK, "answer": TEXT}, caption_length=30),
    "region_description": RegionDescription(losses={"caption": TEXT}, caption_length=30),
}


@pytest.fixture
def model() -> TinyModel:
    return TinyModel()


def shown(loop: Loop, model: TinyModel) -> list[Sample]:
    batch = model.preparation.collate([model.preparation(region) for region in regions()])
    assert isinstance(loop, ShowsSamples)
    with model.computing(training=False):
        return loop.samples(model, Student(), batch, KitNoise())


@pytest.mark.parametrize("name", LOOPS)
def test_samples_are_those_of_the_batch(model: TinyModel, name: str) -> None:
    samples, loop = shown(LOOPS[name], model), LOOPS[name]
    batch = model.preparation.collate([model.preparation(region) for region in regions()])
    assert [one.id for one in samples] == batch.ids
    side = batch.sam_pictures.shape[-1]
    view, truth = (batch.view2, batch.mask2) if name == "mask_caption_mask" else (batch.view1, batch.mask1)
    for one, picture, mask in zip(samples, batch.sam_pictures[view], truth, strict=True):
        assert (one.image == picture.movedim(0, 2).numpy()).all()
        assert one.truth is not None
        assert one.truth.shape == (side, side)
        assert one.truth.mean() == pytest.approx(float(mask.float().mean()), abs=0.05)
        assert (one.predicted is None) == (name == "region_description")
    metrics = loop(model, Student(), batch, KitNoise()).metrics
    if "iou" in metrics:  # of the very masks that were trained on
        assert sum(one.score or 0.0 for one in samples) == pytest.approx(metrics["iou"][0], abs=1e-5)
    else:
        assert [one.score for one in samples] == [None] * 3


def test_texts(model: TinyModel) -> None:
    captions = [region.caption for region in regions()]
    assert [one.texts for one in shown(LOOPS["referring_segmentation"], model)] == [{"phrase": caption} for caption in captions]
    for name in ("region_description", "caption_mask_caption"):
        assert [one.texts["caption"] for one in shown(LOOPS[name], model)] == captions
    batch = model.preparation.collate([model.preparation(region) for region in regions()])
    described = model.decode(model.generate(model.encode(batch), batch.view1, batch.cells, 30))
    assert [one.texts["student"] for one in shown(LOOPS["region_description"], model)] == described


def test_the_way_of_a_pseudo_caption(model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher writes; half of its words are replaced, and only they; the student's text is the sampler's hard choice."""
    written = model.phrases(["abcdef", "ghijkl", "mn"], 6)
    monkeypatch.setattr(model, "generate", lambda *given: written)
    loop = LOOPS["mask_caption_mask"]
    assert isinstance(loop, MaskCaptionMask)
    samples = shown(loop, model)
    teacher = model.decode(written)
    assert [one.texts["teacher"] for one in samples] == [one.title for one in samples] == teacher
    masked, hidden = loop.mask_tokens(written, [one.id for one in samples], model.ordinary_tokens, KitNoise())
    for row, one in enumerate(samples):
        replaced = one.texts["replaced"]
        assert replaced.replace("[", "").replace("]", "") == model.decode(masked)[row]
        inside = sum(len(part.partition("]")[0]) for part in replaced.split("[")[1:])
        assert 1 <= inside <= int(hidden[row].sum()), replaced
    assert len({one.texts["student"] for one in samples}) > 1
    batch = model.preparation.collate([model.preparation(region) for region in regions()])
    with model.computing(training=False):
        way = loop.cycle(model, Student(), batch, KitNoise())
    assert [one.texts["student"] for one in samples] == model.decode(Tokens(way.seen["ids"], written.mask))


def test_replaced_words_stand_in_brackets(model: TinyModel) -> None:
    tokens = model.phrases(["big red box", "cat"], 12)  # with a space before
    where = torch.zeros_like(tokens.mask)
    where[0, 5:8], where[0, 1], where[1, 3] = True, True, True
    assert [text.strip() for text in marked(model, tokens, where)] == ["[b]ig [red] box", "ca[t]"]
    assert marked(model, Tokens(tokens.ids, torch.zeros_like(tokens.mask)), where) == ["", ""]


def test_overlap_of_masks() -> None:
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    half = full.clone()
    half[:2] = False
    assert (overlap(empty, empty), overlap(full, empty), overlap(full, half)) == (1.0, 0.0, 0.5)
