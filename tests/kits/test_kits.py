"""The built-in components against the contract kits that third-party authors use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.testing import (
    EvaluatorKit,
    GradientOpKit,
    LoopKit,
    MaskLossKit,
    ModelKit,
    OptimizerKit,
    SamplerKit,
    ScheduleKit,
    TeacherKit,
    TinyModel,
    TokenLossKit,
    TrackerKit,
)
from plugins.evaluators.closure import Closure
from plugins.evaluators.refcoco import RefcocoEvaluator
from plugins.evaluators.region_caption import RegionCaption
from plugins.gradient_ops.pcgrad import Pcgrad
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal
from plugins.gradient_ops.weighted_sum import WeightedSum
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.loops.phrase_to_mask import PhraseToMask
from plugins.loops.referring_from_scratch import ReferringFromScratch
from plugins.loops.referring_segmentation import ReferringSegmentation
from plugins.loops.region_description import RegionDescription
from plugins.loops.region_to_words import RegionToWords
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.optimizers.adamw import AdamW
from plugins.samplers.greedy_st import GreedySt
from plugins.samplers.gumbel_rao import GumbelRao
from plugins.samplers.reinmax import ReinMax
from plugins.samplers.soft import Soft
from plugins.samplers.st_gumbel import StGumbel
from plugins.samplers.st_gumbel_topk import StGumbelTopk
from plugins.schedules.alternate import Alternate
from plugins.schedules.every_n import EveryN
from plugins.schedules.stages import Stage, Stages
from plugins.teachers.ema import Ema
from plugins.trackers.jsonl import Jsonl
from plugins.trackers.tensorboard import Tensorboard
from plugins.trackers.wandb import Wandb


class TestWeightedSum(GradientOpKit):
    sum_without_conflict, scope = True, "group"

    def make(self):
        return WeightedSum()


class TestPcgradOrthogonal(GradientOpKit):
    orthogonal_to, scope = "loop1", "global"

    def make(self):
        return PcgradOrthogonal(anchor="loop1")


class TestPcgradOrthogonalByGroup(GradientOpKit):
    orthogonal_to, scope = "loop1", "group"

    def make(self):
        return PcgradOrthogonal(anchor="loop1", scope="group")


class TestPcgradOrthogonalInConflict(GradientOpKit):
    sum_without_conflict, scope = True, "global"

    def make(self):
        return PcgradOrthogonal(anchor="loop1", when="conflict")


class TestPcgrad(GradientOpKit):
    conflict_free, sum_without_conflict, scope = True, True, "global"

    def make(self):
        return Pcgrad()


class TestPcgradByGroup(GradientOpKit):
    conflict_free, sum_without_conflict, scope = True, True, "group"

    def make(self):
        return Pcgrad(scope="group")


class TestBceDice(MaskLossKit):
    def make(self):
        return BceDice(points=64)


class TestCaptionCe(TokenLossKit):
    def make(self):
        return CaptionCe()


class TestSmoothedCaptionCe(TokenLossKit):
    def make(self):
        return CaptionCe(label_smoothing=0.1)


class TestStGumbelTopk(SamplerKit):
    hard = True

    def make(self):
        return StGumbelTopk(k=7)


class TestStGumbel(SamplerKit):
    hard = True

    def make(self):
        return StGumbel()


class TestSoft(SamplerKit):
    def make(self):
        return Soft()


class TestGreedySt(SamplerKit):
    hard = True

    def make(self):
        return GreedySt()


class TestGumbelRao(SamplerKit):
    hard = True

    def make(self):
        return GumbelRao(k=7, samples=3)


class TestReinMax(SamplerKit):
    hard = True

    def make(self):
        return ReinMax(k=7)


class TestEma(TeacherKit):
    def make(self):
        return Ema(decay=0.9)


class TestAlternate(ScheduleKit):
    names = frozenset({"loop1", "loop2"})

    def make(self):
        return Alternate(order=["loop1", "loop2"])


class TestEveryN(ScheduleKit):
    names = frozenset({"loop1", "loop2"})

    def make(self):
        return EveryN(main="loop1", other="loop2", n=4)


class TestStages(ScheduleKit):
    def make(self):
        return Stages(stages=[Stage(["loop1"], until=5), Stage(["loop1", "loop2"])])


class TestAdamW(OptimizerKit):
    def make(self):
        return AdamW(lr=0.01)


class TestOneCycle(OptimizerKit):
    def make(self):
        return AdamW(lr=0.01, schedule="one_cycle")


SEGMENTING = {"mask": BceDice(points=32), "answer": CaptionCe()}


class TestMaskCaptionMask(LoopKit):
    reaches = frozenset({"projector", "language", "decoder"})

    def make(self):
        losses = SEGMENTING | {"pseudo": CaptionCe()}
        return MaskCaptionMask(sampler=StGumbelTopk(k=8), losses=losses, caption_length=5, token_mask_ratio=0.5)


class TestMaskCaptionMaskWithoutPseudo(LoopKit):
    def make(self):
        return MaskCaptionMask(sampler=StGumbelTopk(k=8), losses=SEGMENTING, caption_length=5)


class TestCaptionMaskCaption(LoopKit):
    reaches = frozenset({"projector", "language"})

    def make(self):
        losses = {"caption": CaptionCe(), "answer": CaptionCe()}
        return CaptionMaskCaption(losses=losses, caption_length=6, mask_gradient="straight_through")


class TestReferringSegmentation(LoopKit):
    def make(self):
        return ReferringSegmentation(losses=SEGMENTING, caption_length=6)


class TestPhraseToMask(LoopKit):
    def make(self):
        return PhraseToMask(losses={"mask": BceDice(points=32)}, caption_length=6)


class TestReferringFromScratch(LoopKit):
    def make(self):
        return ReferringFromScratch(losses=SEGMENTING, warmup_updates=3, caption_length=6)


class TestRegionDescription(LoopKit):
    def make(self):
        return RegionDescription(losses={"caption": CaptionCe()}, caption_length=6)


class TestRegionToWords(LoopKit):
    reaches = frozenset({"projector"})

    def make(self):
        return RegionToWords(caption_length=6)


class TestRefcocoEvaluator(EvaluatorKit):
    def make(self, data):
        return RefcocoEvaluator(data=data, max_new_tokens=8)


class TestRegionCaption(EvaluatorKit):
    unbounded = frozenset({"caption_ce", "CIDEr"})

    def make(self, data):
        return RegionCaption(data=data, caption_length=6, batch_size=2)


class TestClosure(EvaluatorKit):
    def make(self, data):
        return Closure(data=data, caption_length=6, batch_size=2)


class TestJsonl(TrackerKit):
    def make(self):
        return Jsonl()


class TestTensorboard(TrackerKit):
    def make(self):
        return Tensorboard()


class TestWandb(TrackerKit):
    def make(self):
        return Wandb(project="kit", mode="offline")


class TestTinyModel(ModelKit):
    def make(self):
        return TinyModel()


class TestSa2va(ModelKit):
    @pytest.fixture(autouse=True)
    def _checkpoint(self, small_checkpoint: Path, tmp_path: Path) -> None:
        self.checkpoint = shutil.copytree(small_checkpoint, tmp_path / "checkpoint")

    def make(self):
        from plugins.models.sa2va.components import Lora, load

        return load(checkpoint=self.checkpoint, lora=Lora(r=4, alpha=8), max_tiles=1)


class TestSa2vaOnQwen25VL(ModelKit):
    family = "qwen2_5_vl"

    @pytest.fixture(autouse=True)
    def _checkpoint(self, small_qwen: Callable[[str], Path], tmp_path: Path) -> None:
        self.checkpoint = shutil.copytree(small_qwen(self.family), tmp_path / "checkpoint")

    def make(self):
        from plugins.models.sa2va.components import Lora, load

        return load(checkpoint=self.checkpoint, lora=Lora(r=4, alpha=8))


class TestSa2vaOnQwen3VL(TestSa2vaOnQwen25VL):
    family = "qwen3_vl"


class TestSa2vaScratch(ModelKit):
    @pytest.fixture(autouse=True)
    def _folder(self, small_checkpoint: Path, world: Path, tmp_path: Path) -> None:
        self.folder, self.corpus = shutil.copytree(small_checkpoint, tmp_path / "checkpoint"), world / "corpus.txt"

    def make(self):
        from plugins.models.sa2va.components import Sizes, scratch

        sizes = Sizes(**json.loads((self.folder / "scratch.json").read_text())["sizes"])
        return scratch(folder=self.folder, corpus=self.corpus, train=["projector", "language_model"], sizes=sizes)


class TestSa2vaLegacy(ModelKit):
    @pytest.fixture(autouse=True)
    def _trained(self, small_checkpoint: Path, tmp_path: Path) -> None:
        self.checkpoint, self.file = small_checkpoint, tmp_path / "iter_1.pth"
        stored = {key: tensor for file in small_checkpoint.glob("*.safetensors") for key, tensor in load_file(file).items()}
        torch.save({f"mllm.model.{key}": tensor for key, tensor in stored.items() if "text_hidden_fcs" in key}, self.file)

    def make(self):
        from plugins.models.sa2va.components import load_legacy

        return load_legacy(file=self.file, checkpoint=self.checkpoint, max_tiles=1)
