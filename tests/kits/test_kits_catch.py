"""Each kit fails on components that break its contract: one line for each promise, with the check that must notice."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.contracts import Gram, Region
from core.testing import (
    DatasetKit,
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
from plugins.evaluators.refcoco import RefcocoEvaluator
from plugins.loops.region_description import RegionDescription
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.optimizers.adamw import AdamW
from plugins.samplers.soft import Soft
from plugins.teachers.ema import Ema
from plugins.trackers.jsonl import Jsonl


def failing(kit: type, made: Any, check: str, tmp_path: Path, **declared: Any) -> None:
    """Runs one check of a kit on what ``made(*arguments of make)`` gives; the check must fail."""
    make = {"make": lambda self, *given: made(*given)}
    one = type("Broken", (kit,), make | declared)()
    sound = tmp_path / "sound"
    sound.mkdir()
    if hasattr(one, "write"):
        one.write(sound)
    given = {"tmp_path": tmp_path, "sound": sound, "fault": "rubbish", "which": "all", "loop": "loop1"}
    method = getattr(one, check)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        method(**{name: given[name] for name in inspect.signature(method).parameters})
    assert not isinstance(caught.value, TypeError | AttributeError | pytest.skip.Exception), caught.value


class Op:
    """The plain sum with a change."""

    def __init__(self, change: Any) -> None:
        self.change, self.seen = change, 0

    def weights(self, gram: Gram) -> torch.Tensor:
        self.seen += 1
        return self.change(gram, gram.scales.repeat(len(gram.groups), 1), self.seen)  # [P, n]


class Forgetful(Op):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Unwritable(Forgetful):
    def state_dict(self) -> dict[str, Any]:
        return {"mean": torch.zeros(2)}


def tilted(gram: Gram, w: torch.Tensor, seen: int) -> torch.Tensor:
    """The first loop counts more, in the first group most."""
    w[0, 0], w[1:, 0] = 3 * w[0, 0], (2 if len(w) > 1 and gram.values[1].sum() > 0 else 1) * w[1:, 0]
    return w


@pytest.mark.parametrize(
    ("make", "check", "declared"),
    [
        (lambda: Op(lambda gram, w, seen: w.float()), "test_gives_a_finite_float64_weight_for_each_group_and_loop", {}),
        (lambda: Op(lambda gram, w, seen: w / gram.values.sum()), "test_zero_gradients_give_finite_weights", {}),
        (lambda: Op(lambda gram, w, seen: 2 * w), "test_one_loop_alone_is_plain_training", {}),
        (lambda: Op(lambda gram, w, seen: (gram.values.zero_(), w)[1]), "test_the_gram_matrix_is_not_changed", {}),
        (lambda: Op(lambda gram, w, seen: w * torch.rand(())), "test_two_processes_agree_bit_for_bit", {}),
        (lambda: Op(lambda gram, w, seen: w * seen), "test_state_survives_a_checkpoint_or_there_is_none", {}),
        (lambda: Unwritable(lambda gram, w, seen: w), "test_state_survives_a_checkpoint_or_there_is_none", {}),
        (lambda: Op(lambda gram, w, seen: w / w), "test_a_loop_that_only_has_its_running_mean_gives_finite_weights", {}),
        (lambda: Forgetful(lambda gram, w, seen: w * seen), "test_state_survives_a_checkpoint_or_there_is_none", {}),
        (lambda: Op(lambda gram, w, seen: w), "test_declared_orthogonality", {"orthogonal_to": "loop1"}),
        (lambda: Op(lambda gram, w, seen: w), "test_declared_freedom_from_conflict", {"conflict_free": True}),
        (lambda: Op(tilted), "test_declared_sum_without_conflict", {"sum_without_conflict": True}),
        (lambda: Op(tilted), "test_declared_symmetry", {"symmetric": True}),
        (lambda: Op(tilted), "test_declared_scope", {"scope": "global"}),
        (lambda: Op(lambda gram, w, seen: w * gram.values.sum()), "test_declared_scope", {"scope": "group"}),
    ],
)
def test_gradient_ops(make: Any, check: str, declared: dict[str, Any], tmp_path: Path) -> None:
    failing(GradientOpKit, make, check, tmp_path, **declared)


class Pictures:
    """``NAME.png`` with everything marked, read without care."""

    def __init__(self, root: Path, same_id: bool = False, eager: bool = False) -> None:
        self.files, self.same_id, self.calls = sorted(root.glob("*.png")), same_id, 0
        if eager:
            [Image.open(file).load() for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Region:
        self.calls += 1
        image = np.array(Image.open(self.files[index]))
        return Region("one" if self.same_id else f"{index}/{self.calls}", image, np.ones(image.shape[:2], bool))


class PicturesKit(DatasetKit):
    def write(self, root: Path) -> None:
        for name in "ab":
            Image.new("RGB", (8, 8)).save(root / f"{name}.png")


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (Pictures, "test_reads_the_same_again_in_any_order_and_after_a_pickle"),
        (lambda root: Pictures(root, same_id=True), "test_ids_are_unique"),
        (Pictures, "test_a_missing_root_is_one_clear_sentence"),
        (Pictures, "test_an_empty_source_is_one_clear_sentence"),
        (Pictures, "test_a_damaged_file_gives_bad_samples_or_a_user_error"),
        (lambda root: Pictures(root, eager=True), "test_a_pictures_damage_is_met_when_it_is_read_not_before"),
    ],
)
def test_data_sets(make: Any, check: str, tmp_path: Path) -> None:
    failing(PicturesKit, make, check, tmp_path)


class Drawing(Pictures):
    """Sound by index; ``change`` says what is wrong with what it draws, or with what it gives by index."""

    def __init__(self, root: Path, change: Any, by_index: bool = False) -> None:
        super().__init__(root)
        self.change, self.by_index = change, by_index

    def __getitem__(self, index: int) -> Region:
        region = replace(super().__getitem__(index), id=str(index))
        return self.change(self, region) if self.by_index else region

    def draw(self, index: int, generator: np.random.Generator) -> Region:
        return self.change(self, self[index])


@pytest.mark.parametrize(
    "change",
    [
        lambda self, region: replace(region, image=np.random.default_rng().integers(0, 256, region.image.shape, np.uint8)),
        lambda self, region: replace(region, caption=f"visit {self.calls}"),
        lambda self, region: replace(region, id=f"{region.id}-flipped"),
        lambda self, region: replace(region, mask=region.mask[:4]),
        lambda self, region: replace(region, mask=np.zeros_like(region.mask)),
    ],
)
def test_data_sets_that_draw(change: Any, tmp_path: Path) -> None:
    failing(PicturesKit, lambda root: Drawing(root, change), "test_draws_depend_on_the_generator_alone", tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"captions": "a cup"},
        {"captions": ["a cup", " "]},
        {"captions": ["a cup"], "caption": "a cup"},
        {"category": ""},
        {"extra": {"file": lambda: None}},
        {"extra": {1: "one"}},
    ],
)
def test_data_sets_with_further_fields(fields: Any, tmp_path: Path) -> None:
    make = lambda root: Drawing(root, lambda self, region: replace(region, **fields), by_index=True)  # noqa: E731
    failing(PicturesKit, make, "test_regions_have_the_shapes_and_types_of_the_contract", tmp_path)


def changed(cls: type, method: str, change: Any, *given: Any, **options: Any) -> Any:
    """An object of ``cls`` in a subclass whose ``method`` is ``change(sound method, self, *arguments)``."""
    sound = getattr(cls, method)
    return type("Changed", (cls,), {method: lambda self, *a, **k: change(lambda *b: sound(self, *b, **k), self, *a)})(*given, **options)


def unstable(sound: Any, self: Any, model: Any, unit: int) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return [{**item, "inter": self.calls} for item in sound(model, unit)]


def training(sound: Any, self: Any, model: Any, unit: int) -> Any:
    next(model.parameters()).data.add_(1)
    return sound(model, unit)


@pytest.mark.parametrize(
    ("change", "method", "check"),
    [
        (unstable, "measure", "test_two_processes_measure_what_one_does"),
        (unstable, "measure", "test_a_unit_depends_on_the_model_and_itself_alone"),
        (training, "measure", "test_the_model_is_left_as_it_was"),
        (lambda sound, self, sums: {k: v * 9 + 2 for k, v in sound(sums).items()}, "metrics", "test_metrics_are_finite_and_in_their_range"),
        (
            lambda sound, self, sums: {k: v / len(v) for k, v in sound(sums).items()},
            "metrics",
            "test_metrics_are_elementwise_functions_of_sums",
        ),
        (lambda sound, self, *a: [{**item, "x": (1, 2)} for item in sound(*a)], "measure", "test_items_survive_json"),
    ],
)
def test_evaluators(change: Any, method: str, check: str, tmp_path: Path) -> None:
    failing(EvaluatorKit, lambda data: changed(RefcocoEvaluator, method, change, data=data, max_new_tokens=4), check, tmp_path)


def noisy(sound: Any, self: Any, *given: Any) -> Any:
    return sound(*given) * torch.rand(())


def no_graph(sound: Any, self: Any, *given: Any) -> Any:
    text, seen = sound(*given)
    return text.detach() + 0 * given[0].sum(), seen


@pytest.mark.parametrize(
    ("kit", "make", "check"),
    [
        (MaskLossKit, lambda: changed(BceDice, "__call__", noisy, points=9), "test_draws_from_the_generators_only"),
        (
            MaskLossKit,
            lambda: changed(BceDice, "__call__", lambda sound, self, *a: sound(*a).mean().repeat(len(a[0])), points=9),
            "test_a_row_depends_on_nothing_but_itself_and_its_generator",
        ),
        (
            MaskLossKit,
            lambda: changed(BceDice, "__call__", lambda sound, self, *a: -sound(*a), points=9),
            "test_a_right_prediction_costs_less_than_a_wrong_one",
        ),
        (TokenLossKit, lambda: changed(CaptionCe, "__call__", lambda sound, self, *a: sound(*a) / len(a[0])), "test_is_the_sum_over_rows"),
        (TokenLossKit, lambda: changed(CaptionCe, "__call__", noisy), "test_gives_the_same_again"),
        (SamplerKit, lambda: changed(Soft, "__call__", no_graph), "test_the_gradient_reaches_the_states_of_every_token"),
        (
            SamplerKit,
            lambda: changed(Soft, "__call__", lambda sound, self, *a: (noisy(lambda *b: sound(*b)[0], self, *a), sound(*a)[1])),
            "test_draws_from_the_generators_only",
        ),
        (
            TeacherKit,
            lambda: changed(Ema, "state_dict", lambda sound, self: {k: v * 0 for k, v in sound().items()}, decay=0.9),
            "test_a_resumed_teacher_equals_the_uninterrupted_one_bit_for_bit",
        ),
        (
            OptimizerKit,
            lambda: changed(AdamW, "build", lambda sound, self, groups, n: sound({"lora": groups["lora"]}, n), lr=0.01),
            "test_every_parameter_is_in_exactly_one_group",
        ),
        (ScheduleKit, lambda: Turns(), "test_is_a_function_of_the_update_alone"),
        (
            LoopKit,
            lambda: changed(RegionDescription, "counts", lambda sound, self, *a: {"caption": 1}, losses={"caption": CaptionCe()}),
            "test_counts_announce_what_the_terms_sum_over",
        ),
        (
            LoopKit,
            lambda: RegionDescription(losses={"caption": changed(CaptionCe, "__call__", noisy)}),
            "test_draws_from_the_noise_only",
        ),
        (ModelKit, lambda: changed(TinyModel, "encode", noisy), "test_gives_the_same_again"),
        (
            ModelKit,
            lambda: changed(TinyModel, "encode", lambda sound, self, batch: sound(batch) * len(batch)),
            "test_a_row_depends_on_itself_alone",
        ),
    ],
)
def test_the_others(kit: type, make: Any, check: str, tmp_path: Path) -> None:
    failing(kit, make, check, tmp_path)


class Turns:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def loops(self, update: int) -> list[str]:
        self.calls += 1
        return ["loop1" if self.calls % 3 else "loop2"]


class Running(Turns):
    def __init__(self, running: tuple[str, float]) -> None:
        super().__init__()
        self.running = running


@pytest.mark.parametrize(
    ("kit", "make", "check"),
    [
        (
            TeacherKit,
            lambda: changed(Ema, "statistics", lambda sound, self: {"distance": float("nan")}, decay=0.9),
            "test_statistics_are_finite_numbers",
        ),
        (ScheduleKit, lambda: Running(("loop3", 0.5)), "test_a_running_mean_is_of_a_loop_and_decays"),
        (ScheduleKit, lambda: Running(("loop1", 1.0)), "test_a_running_mean_is_of_a_loop_and_decays"),
    ],
)
def test_optional_parts(kit: type, make: Any, check: str, tmp_path: Path) -> None:
    failing(kit, make, check, tmp_path)


def test_trackers_whose_panels_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = type("Broken", (TrackerKit,), {"make": lambda self: type("Bad", (Jsonl,), {"panels": lambda *given: 1 / 0})()})()
    with pytest.raises(pytest.fail.Exception, match=r"panels.*ZeroDivisionError"):
        one.test_takes_a_whole_run_and_stays_in_its_folder(TrackerKit.run.__wrapped__(one, tmp_path, monkeypatch))


def test_trackers_that_write_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = type("Broken", (TrackerKit,), {"make": lambda self: changed(Jsonl, "start", stray)})()
    with pytest.raises(AssertionError, match=r"run\.folder"):
        one.test_takes_a_whole_run_and_stays_in_its_folder(TrackerKit.run.__wrapped__(one, tmp_path, monkeypatch))


def stray(sound: Any, self: Any, run: Any) -> None:
    Path("stray.txt").write_text("here")
    sound(run)
