"""The loops on a small model: where gradient goes, what is counted, what an empty mask does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from core.contracts import BadSample, LossTerms, RegionBatch, Segmentation, UserError
from core.engine.noise import RunNoise
from plugins.loops._segmentation import empty_metric
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.loops.referring_segmentation import ReferringSegmentation
from plugins.loops.region_description import RegionDescription
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.components import Lora, load
from plugins.models.sa2va.model import Sa2va
from plugins.samplers.st_gumbel_topk import StGumbelTopk
from plugins.teachers.ema import Ema

NOISE = RunNoise(1, 0)


@pytest.fixture
def model(small_checkpoint: Path) -> Sa2va:
    torch.manual_seed(0)
    model = load(checkpoint=small_checkpoint, lora=Lora(r=4, alpha=8, dropout=0.0), max_tiles=1).train()
    with torch.no_grad():  # adapters start at zero: move them, so that both factors have a gradient
        for _, parameter in model.trainable()["lora"]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def batch(model: Sa2va, world: Path) -> RegionBatch:
    from plugins.datasets.sav_pairs import SavPairs

    pairs = SavPairs(root=world / "sav")
    samples = [model.preparation(dataclasses.replace(pairs[i], caption="large red circle")) for i in range(3)]
    return model.preparation.collate(samples)


def gradients(model: Sa2va) -> dict[str, float]:
    return {group: sum(float(p.grad.norm()) for _, p in members if p.grad is not None) for group, members in model.trainable().items()}


def total(terms: LossTerms) -> torch.Tensor:
    return sum(term.weight * term.total / term.count for term in terms.terms.values())


class Cut:
    """Passes the sampler's text on without its past, and keeps both: what lies before it can then be looked at alone."""

    def __init__(self) -> None:
        self.sampler = StGumbelTopk(k=16)

    def __call__(self, *given):
        self.text, seen = self.sampler(*given)
        self.leaf = self.text.detach().requires_grad_()
        return self.leaf, seen


def loop1(sampler, **options) -> MaskCaptionMask:
    return MaskCaptionMask(sampler=sampler, losses={"mask": BceDice(points=64), "answer": CaptionCe()}, caption_length=5, **options)


def test_gradient_runs_through_the_sampler_and_the_first_forward(model: Sa2va, batch: RegionBatch) -> None:
    teacher, sampler = Ema(decay=0.9), Cut()
    teacher.start(model.trainable())
    total(loop1(sampler)(model, teacher, batch, NOISE)).backward()
    assert sampler.leaf.grad.norm() > 0  # the mask loss reaches the soft text
    model.zero_grad()
    sampler.text.backward(sampler.leaf.grad)  # and from there only the sampler and the first forward remain
    reached = gradients(model)
    assert reached["projector"] > 0
    assert reached["lora"] > 0
    assert reached["text_hidden_fcs"] == reached["sam2_decoder"] == 0


def test_loop1_feeds_soft_text_and_never_ids_to_the_second_forward(
    model: Sa2va, batch: RegionBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Ema(decay=0.9)
    teacher.start(model.trainable())
    seen, embedded = {}, []
    segment, embed = model.segment, model.sequences.embed

    def spy(vision, view, text, mask, wording):
        seen["text"], seen["view"], seen["ids_before"] = text, view, len(embedded)
        result = segment(vision, view, text, mask, wording)
        seen["ids"] = embedded[seen["ids_before"] :]
        return result

    monkeypatch.setattr(model, "segment", spy)
    monkeypatch.setattr(model.sequences, "embed", lambda ids: (embedded.append(ids.shape), embed(ids))[1])
    loop1(StGumbelTopk(k=16))(model, teacher, batch, NOISE)
    assert seen["text"].grad_fn is not None
    assert torch.equal(seen["view"], batch.view2)
    # what the second forward embeds by id are prompts and answers: two prompt parts and one answer for each region
    assert len(seen["ids"]) == 3 * len(batch)


def test_each_picture_is_encoded_once_for_all_forwards(model: Sa2va, batch: RegionBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher, first and second forward share the frozen features; SAM2 sees only pictures in which something is segmented."""
    seen: dict[str, list[torch.Tensor]] = {"tile_features": [], "sam_features": []}
    for owner, (name, pictures) in zip((model.network.backend, model.network), seen.items(), strict=True):
        encode = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda given, encode=encode, pictures=pictures: (pictures.extend(given), encode(given))[1])
    teacher = Ema(decay=0.9)
    teacher.start(model.trainable())
    loop2 = CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=4)
    for loop, view in ((loop1(StGumbelTopk(k=16)), batch.view2), (loop2, batch.view1)):
        loop(model, teacher, batch, NOISE)
        assert torch.equal(torch.stack(seen["tile_features"]), batch.tiles)
        assert torch.equal(torch.stack(seen["sam_features"]), batch.sam_pictures[view.unique()])
        for pictures in seen.values():
            pictures.clear()


def test_the_teacher_labels_with_its_own_weights(model: Sa2va, batch: RegionBatch) -> None:
    """A student moved away from the teacher does not change the pseudo captions; an updated teacher does."""
    teacher = Ema(decay=0.0)
    teacher.start(model.trainable())
    vision = model.encode(batch)
    with teacher.weights():
        before = model.generate(vision, batch.view1, batch.cells, 6).ids
    with torch.no_grad():
        for members in model.trainable().values():
            for _, parameter in members:
                parameter.add_(torch.randn_like(parameter))
    with teacher.weights():
        assert torch.equal(model.generate(vision, batch.view1, batch.cells, 6).ids, before)
    teacher.update()
    with teacher.weights():
        after = model.generate(vision, batch.view1, batch.cells, 6).ids
    assert before.shape != after.shape or not torch.equal(before, after)


def test_masked_tokens_are_a_share_of_the_real_ones_and_ordinary(model: Sa2va) -> None:
    loop = loop1(StGumbelTopk(k=4), token_mask_ratio=0.25)
    pseudo = model.text.rows([[int(t) for t in model.ordinary_tokens[:8]], [int(t) for t in model.ordinary_tokens[:4]], []], model.device)
    masked, hidden = loop.mask_tokens(pseudo, ["a", "b", "c"], model.ordinary_tokens, NOISE)
    assert hidden.sum(1).tolist() == [2, 1, 0]
    assert torch.equal(masked.ids[~hidden], pseudo.ids[~hidden])
    assert set(masked.ids[hidden].tolist()) <= set(model.ordinary_tokens.tolist())
    special = {model.seg_token, model.image_token, model.pad_token, *model.tokenizer.all_special_ids}
    assert not special & set(model.ordinary_tokens.tolist())
    again, _ = loop.mask_tokens(pseudo, ["a", "b", "c"], model.ordinary_tokens, NOISE)
    assert torch.equal(again.ids, masked.ids)
    alone, _ = loop.mask_tokens(
        model.text.rows([[int(t) for t in model.ordinary_tokens[:4]]], model.device), ["b"], model.ordinary_tokens, NOISE
    )
    assert torch.equal(alone.ids[0], masked.ids[1, :4])  # a sample's noise does not depend on its neighbours


def test_what_the_teacher_wrote_is_counted(model: Sa2va, batch: RegionBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three captions of at most five tokens, as long as ``caption_length``: one is cut, one ended after two, one is empty."""
    words = [int(t) for t in model.ordinary_tokens[:5]]
    monkeypatch.setattr(model, "generate", lambda *given: model.text.rows([words, words[:2], []], model.device))
    teacher = Ema(decay=0.9)
    teacher.start(model.trainable())
    metrics = loop1(StGumbelTopk(k=16))(model, teacher, batch, NOISE).metrics
    wanted = {"caption_tokens": (7, 3), "empty_captions": (1, 3), "ended_captions": (2, 3), "end_position": (2, 2), "padding": (8, 15)}
    assert {name: metrics[name] for name in wanted} == wanted


def test_no_special_token_is_drawn_into_the_text(model: Sa2va, batch: RegionBatch) -> None:
    """Even by a student that predicts nothing else."""
    with torch.no_grad():
        model.network.llm.lm_head.weight[model.seg_token] *= 300
        model.network.llm.lm_head.weight[model.image_token] *= -300  # one of the two is far ahead at any state
    teacher, drawn = Ema(decay=0.9), []

    class Watched(StGumbelTopk):
        def __call__(self, *given):
            drawn.append(super().__call__(*given))
            return drawn[0]

    teacher.start(model.trainable())
    loop1(Watched(k=16))(model, teacher, batch, NOISE)
    assert set(drawn[0][1]["ids"].flatten().tolist()) <= set(model.ordinary_tokens.tolist())


def test_an_adapter_around_the_output_layer_is_refused(model: Sa2va, batch: RegionBatch) -> None:
    """The sampler and the losses read the layer's weights themselves and would pass the adapter over without a word."""
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"]), model.network.llm, adapter_name="other")
    teacher = Ema(decay=0.9)
    teacher.start(model.trainable())
    with pytest.raises(UserError, match="the output layer is wrapped in Linear"):
        loop1(StGumbelTopk(k=16))(model, teacher, batch, NOISE)


@pytest.mark.parametrize(("logit", "empty"), [(-9.0, 3), (9.0, 0)])
def test_an_empty_predicted_mask_still_gives_a_caption_loss(
    model: Sa2va, batch: RegionBatch, monkeypatch: pytest.MonkeyPatch, logit: float, empty: int
) -> None:
    segment = model.segment

    def fixed(*given) -> Segmentation:
        result = segment(*given)
        return Segmentation(torch.full_like(result.mask_logits, logit), result.answer_states, result.seg_embedding)

    monkeypatch.setattr(model, "segment", fixed)
    terms = CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=8)(model, None, batch, NOISE)
    assert terms.metrics["empty_masks"] == (empty, 3)
    loss = terms.terms["caption"]
    assert loss.count == int(model.tokenize(batch.captions, 8).mask.sum())
    assert float(loss.total) > 0
    loss.total.backward()
    assert gradients(model)["lora"] > 0


def test_straight_through_carries_the_caption_loss_to_the_mask_decoder(model: Sa2va, batch: RegionBatch, monkeypatch) -> None:
    segment = model.segment

    def certain(*given) -> Segmentation:  # a mask that is not empty, with gradient
        result = segment(*given)
        return Segmentation(result.mask_logits + 3.0, result.answer_states, result.seg_embedding)

    monkeypatch.setattr(model, "segment", certain)
    reached = {}
    for mode in ("none", "straight_through"):
        loop = CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=8, mask_gradient=mode)
        model.zero_grad()
        loop(model, None, batch, NOISE).terms["caption"].total.backward()
        reached[mode] = gradients(model)["sam2_decoder"]
    assert reached["none"] == 0
    assert reached["straight_through"] > 0


LOOPS: list[Callable[[], object]] = [
    lambda: loop1(StGumbelTopk(k=16)),
    lambda: CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=8),
    lambda: ReferringSegmentation(losses={"mask": BceDice(points=64), "answer": CaptionCe()}, caption_length=8),
    lambda: RegionDescription(losses={"caption": CaptionCe()}, caption_length=8),
]


@pytest.mark.parametrize("make", LOOPS)
def test_counts_announce_what_the_terms_sum_over(make, model: Sa2va, batch: RegionBatch) -> None:
    teacher, loop = Ema(decay=0.9), make()
    teacher.start(model.trainable())
    terms = loop(model, teacher, batch, NOISE).terms
    assert loop.counts(model, batch, NOISE) == {name: term.count for name, term in terms.items()}


@pytest.mark.parametrize("make", LOOPS)
def test_a_batch_is_the_sum_of_its_samples(make, model: Sa2va, world: Path) -> None:
    """Padding, neighbours and batch size change nothing: what makes 1 x 8 equal to 2 x 4."""
    from plugins.datasets.dam import Dam

    regions = Dam(root=world / "dam", split="COCOStuff")
    samples = [model.preparation(regions[i]) for i in range(3)]
    teacher, loop = Ema(decay=0.9), make()
    teacher.start(model.trainable())
    together = loop(model, teacher, model.preparation.collate(samples), NOISE).terms
    alone = [loop(model, teacher, model.preparation.collate([sample]), NOISE).terms for sample in samples]
    for name, term in together.items():
        separate = sum(float(one[name].total) for one in alone)
        assert float(term.total) == pytest.approx(separate, rel=2e-4), name


def test_phrases_without_a_target(model: Sa2va, world: Path) -> None:
    """An empty mask is a target like any other: finite loss and gradient, and the share found empty is logged."""
    from plugins.datasets.dam import Dam

    regions = [Dam(root=world / "dam", split="COCOStuff")[i] for i in range(3)]
    regions[1] = dataclasses.replace(regions[1], mask=np.zeros_like(regions[1].mask))
    with pytest.raises(BadSample, match="mask is empty"):
        model.preparation(regions[1])
    needs = frozenset({"empty_mask"})
    small = dataclasses.replace(regions[1], mask=np.zeros((2000, 2000), bool), image=np.zeros((2000, 2000, 3), np.uint8))
    small.mask[7, 7] = True
    with pytest.raises(BadSample, match="mask is empty at the model's size"):  # lost is not empty
        model.preparation(small, needs)
    batch = model.preparation.collate([model.preparation(region, needs) for region in regions])
    assert [bool(mask.any()) for mask in batch.mask1] == [bool(cells.any()) for cells in batch.cells] == [True, False, True]
    loop = ReferringSegmentation(losses={"mask": BceDice(points=64), "answer": CaptionCe()}, caption_length=8, empty_masks=True)
    terms = loop(model, None, batch, NOISE)
    total(terms).backward()
    assert all(math.isfinite(norm) for norm in gradients(model).values())
    assert gradients(model)["sam2_decoder"] > 0
    assert terms.metrics["empty_found"][1] == 1
    logits = torch.tensor([[[-1.0]], [[1.0]], [[-1.0]], [[1.0]]])  # [4, 1, 1]
    target = torch.tensor([[[False]], [[False]], [[True]], [[True]]])
    assert empty_metric(logits, target) == (1.0, 2.0)
    plain = ReferringSegmentation(losses=loop.losses, caption_length=8)
    assert set(plain(model, None, batch, NOISE).metrics) == {"iou"}
