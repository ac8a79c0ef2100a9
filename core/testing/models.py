"""The contract kit of models. On a network of full size it takes long: give it a small configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.contracts import Model, RegionBatch, UserError
from core.testing._offers import check_offers
from core.testing.tiny_model import KitNoise, regions


class ModelKit:
    """Give ``make``."""

    def make(self) -> Model:
        raise NotImplementedError

    def prepared(self) -> tuple[Any, RegionBatch]:
        model = self.make()
        return model, model.preparation.collate([model.preparation(region) for region in regions()])

    def test_offers_are_declared_whole(self) -> None:
        check_offers(self.make(), "models")

    def test_trainable_parameters_are_float32_with_unique_names(self) -> None:
        model = self.make()
        assert isinstance(model, Model)
        members = [entry for named in model.trainable().values() for entry in named]
        assert members
        assert len({name for name, _ in members}) == len(members)
        assert all(p.dtype == torch.float32 and p.requires_grad for _, p in members)

    def test_a_batch_holds_every_picture_once(self) -> None:
        _, batch = self.prepared()
        N = len(batch.tile_counts)
        assert len(batch) == 3
        assert batch.sam_pictures.shape[0] == N
        assert batch.tiles.shape[0] == sum(batch.tile_counts)
        assert batch.tiles.dtype == batch.sam_pictures.dtype == torch.uint8
        for view in (batch.view1, batch.view2):
            assert view.dtype == torch.int64
            assert ((view >= 0) & (view < N)).all()
        assert batch.mask1.dtype == batch.mask2.dtype == torch.bool
        assert all(cells.dtype == torch.bool for cells in batch.cells)
        assert len(batch.grids) == N
        assert [tuple(cells.shape) for cells in batch.cells] == [batch.grids[picture] for picture in batch.view1.tolist()]

    def test_tokens_are_right_padded_and_cut(self) -> None:
        model = self.make()
        for spell in (model.tokenize, model.phrases):
            tokens = spell(["a red square", "blue"], 5)
            assert tokens.ids.dtype == torch.int64
            assert tokens.mask.dtype == torch.bool
            assert tokens.ids.shape == tokens.mask.shape
            assert tokens.ids.shape[1] <= 5
            assert (tokens.mask.int().diff(dim=1) <= 0).all(), "real tokens come first"

    def test_describes_and_segments_with_gradient(self) -> None:
        model, batch = self.prepared()
        vision = model.encode(batch)
        captions = model.tokenize(["a red square"] * 3, 6)
        states = model.caption_states(vision, batch.view1, batch.cells, captions)
        assert states.shape == (*captions.ids.shape, model.head()[0].shape[1])
        phrase, wording = model.phrases(["a red square"] * 3, 6), model.wording(batch.ids, KitNoise())
        result = model.segment(vision, batch.view2, model.embed(phrase.ids), phrase.mask, wording)
        assert result.mask_logits.shape == batch.mask2.shape
        assert result.mask_logits.dtype == torch.float32
        assert result.answer_states.shape[:2] == wording.answers.ids.shape
        assert model.masks(vision, batch.view2, result.seg_embedding).shape == batch.mask2.shape
        (states.float().sum() + result.mask_logits.sum()).backward()
        assert any(p.grad is not None and p.grad.any() for named in model.trainable().values() for _, p in named)

    def results(self, model: Any, chosen: slice = slice(None)) -> list[torch.Tensor]:
        """States [B, T, D] of a description, mask logits [B, h, w] for it, and the ids of generated descriptions, in eval mode."""
        batch = model.preparation.collate([model.preparation(region) for region in regions()[chosen]])
        text = ["a red square"] * len(batch)
        with model.computing(training=False):
            vision, captions, phrase = model.encode(batch), model.tokenize(text, 6), model.phrases(text, 6)
            states = model.caption_states(vision, batch.view1, batch.cells, captions)
            wording = model.wording(batch.ids, KitNoise())
            masks = model.segment(vision, batch.view2, model.embed(phrase.ids), phrase.mask, wording).mask_logits
            return [states, masks, model.generate(vision, batch.view1, batch.cells, 3).ids]

    def test_gives_the_same_again(self) -> None:
        """Whatever the global random state; evaluations and resumed runs count on it."""
        model, seen = self.make(), []
        for seed in (1, 2):
            torch.manual_seed(seed)
            seen.append(self.results(model))
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))

    def test_a_row_depends_on_itself_alone(self) -> None:
        """One process with batch 8 equals two with batch 4: neighbours and padding change nothing."""
        model = self.make()
        together = self.results(model)[:2]
        for row in range(3):
            alone = self.results(model, slice(row, row + 1))[:2]
            for one, all_ in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], all_[row], rtol=1e-3, atol=1e-4)

    def test_computing_sets_gradient_and_mode_and_puts_them_back(self) -> None:
        model: Any = self.make()
        parts = list(model.modules()) if isinstance(model, torch.nn.Module) else []
        modes = [part.training for part in parts]
        with model.computing(training=True):
            assert torch.is_grad_enabled()
            with model.computing(training=False):
                assert not torch.is_grad_enabled()
                assert not any(part.training for part in parts)
            assert torch.is_grad_enabled()
            assert [part.training for part in parts] == modes
        assert [part.training for part in parts] == modes

    def test_generates_no_more_than_asked_and_decodes_it(self) -> None:
        model, batch = self.prepared()
        with torch.no_grad():
            tokens = model.generate(model.encode(batch), batch.view1, batch.cells, 4)
        assert tokens.ids.shape[0] == 3
        assert tokens.ids.shape[1] <= 4
        assert len(model.decode(tokens)) == 3

    def test_predicts_masks_of_the_pictures_own_size(self) -> None:
        image = regions()[0].image
        for prediction in self.make().predict(image, ["a red square", "blue"], 4):
            assert prediction.mask is None or prediction.mask.shape == image.shape[:2]

    def test_saves_a_folder_once(self, tmp_path: Path) -> None:
        model = self.make()
        model.save(tmp_path / "saved")
        assert any((tmp_path / "saved").iterdir())
        with pytest.raises(UserError):
            model.save(tmp_path / "saved")
