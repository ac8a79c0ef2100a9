"""A teacher that is another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.contracts import (
    PreparesItsOwn,
    Region,
    RegionBatch,
    Teacher,
    Tokens,
    UserError,
    WritesCaptions,
    generated_tokens,
    teacher_captions,
)
from core.engine import building, runner
from core.engine.teaching import teacher_preparation
from core.recipe import Recipe, components_used, path_report
from core.registry import Registry
from core.testing import TeacherKit, TinyModel
from core.testing.tiny_model import END, FIRST, PAD, TinyPreparation, regions, rows
from plugins.models.sa2va.components import Sizes, load, scratch
from plugins.teachers.ema import Ema
from plugins.teachers.frozen import Frozen


@dataclass(frozen=True)
class Negative(TinyPreparation):
    """Sees negatives of the pictures: not what the student sees."""

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Region:
        return replace(super().__call__(region, needs), image=255 - region.image)


class Other(TinyModel):
    """A model with other tokens: its letters come in the opposite order, and its turn's end is another id."""

    def __init__(self, *, seed: int = 7) -> None:
        super().__init__(seed=seed)
        self.preparation = Negative()

    def decode(self, tokens: Tokens) -> list[str]:
        return super().decode(Tokens(torch.where(tokens.ids >= FIRST, FIRST + 29 - tokens.ids, tokens.ids), tokens.mask))


class TestFrozen(TeacherKit):
    def make(self) -> Teacher:
        return Frozen(model=TinyModel(seed=3))


class TestFrozenOfAnotherKind(TeacherKit):
    def make(self) -> Teacher:
        return Frozen(model=Other())


def seen_by(teacher: Frozen, chosen: Sequence[Region]) -> RegionBatch:
    own = teacher.preparation
    return replace(TinyPreparation().collate(chosen), for_teacher=own.collate([own(region) for region in chosen]))


def test_the_students_tokens_spell_what_the_teacher_wrote() -> None:
    teacher, student = Frozen(model=Other()), TinyModel()
    teacher.start(student.trainable())
    batch = seen_by(teacher, regions())
    view = Negative().collate([Negative()(region) for region in regions()])
    with torch.no_grad():
        written = teacher.model.decode(teacher.model.generate(teacher.model.encode(view), view.view1, view.cells, 9))
    tokens = teacher_captions(teacher, student, None, batch, 9)
    assert [text.strip() for text in student.decode(tokens)] == [text.strip() for text in written]
    assert len(set(written)) > 1
    other = Frozen(model=Other()).captions(student, None, replace(batch, for_teacher=TinyPreparation().collate(regions())), 9)
    assert student.decode(other) != student.decode(tokens)  # it is its own preparation's pictures that it saw
    with pytest.raises(RuntimeError, match="the teacher's preparation is not the student's"):
        teacher.captions(student, None, replace(batch, for_teacher=None), 9)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 50])
def test_texts_become_what_generate_returns(length: int) -> None:
    """Cut or ended, empty or not; a text that is as long as its limit has no room for the turn's end, as in ``generate``."""
    tokens = generated_tokens(TinyModel(), ["abcd", "", "ab"], length)
    wanted = rows([[FIRST, FIRST + 1, FIRST + 2, FIRST + 3][:length], [], [FIRST, FIRST + 1][:length]])
    assert torch.equal(tokens.mask, wanted.mask)
    assert torch.equal(tokens.ids, wanted.ids)
    assert not bool((tokens.ids == END).any())
    assert bool((tokens.ids[~tokens.mask] == PAD).all())


def test_an_average_still_writes_with_its_weights_bit_for_bit() -> None:
    student = TinyModel()
    teacher = Ema(decay=0.5)
    teacher.start(student.trainable())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(-1)
    batch = TinyPreparation().collate(regions())
    vision = student.encode(batch)
    with teacher.weights():
        wanted = student.generate(vision, batch.view1, batch.cells, 8)
    found = teacher_captions(teacher, student, vision, batch, 8)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.mask, wanted.mask)
    assert not torch.equal(found.ids, student.generate(vision, batch.view1, batch.cells, 8).ids)


def test_what_it_is_and_refuses() -> None:
    teacher = Frozen(model=TinyModel())
    assert isinstance(teacher, WritesCaptions)
    assert isinstance(teacher, PreparesItsOwn)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.state_dict() == {}
    teacher.load_state_dict({})
    with pytest.raises(UserError, match="has weights \\(lora/a\\), this one has none"):
        teacher.load_state_dict({"lora/a": torch.zeros(1)})
    with pytest.raises(UserError, match="has no weights for the student, but writes captions"):
        teacher.weights()


def test_a_region_is_prepared_twice_only_where_the_preparations_differ() -> None:
    student = TinyModel()
    assert teacher_preparation(None, student) is None
    assert teacher_preparation(Ema(), student) is None
    assert teacher_preparation(Frozen(model=TinyModel(seed=3)), student) is None
    assert teacher_preparation(Frozen(model=Other()), student) == Negative()


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A wider model of the small one's pictures, with another vocabulary."""
    sizes = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=48, llm_layers=1, sam_size=64, sam_width=32, hiera_width=8)
    folder = tmp_path_factory.mktemp("teacher") / "other"
    scratch(folder=folder, corpus=world / "corpus.txt", train=["projector"], sizes=sizes, vocabulary=300, seed=5)
    return folder


TEXTS = ["a red square", "large blue circle, left", "", "x" * 40, "  spaces at both ends  "]


@pytest.mark.parametrize("length", [1, 4, 64])
def test_sa2va_texts_become_what_generate_returns(small_checkpoint: Path, other_checkpoint: Path, length: int) -> None:
    student, teacher = load(checkpoint=small_checkpoint), load(checkpoint=other_checkpoint)
    assert len(student.embedding()) != len(teacher.embedding())
    for text in TEXTS:
        ids = student.text.without_end(student.text.ids(text.strip())[:length])  # generate's own last steps
        wanted = student.text.rows([ids], student.device)
        found = generated_tokens(student, [text], length)
        assert torch.equal(found.ids, wanted.ids), text
        assert torch.equal(found.mask, wanted.mask), text
    assert student.decode(generated_tokens(student, TEXTS, 64)) == [text.strip() for text in TEXTS]
    theirs = generated_tokens(teacher, TEXTS[:1], 64)
    assert teacher.decode(theirs) == TEXTS[:1]
    assert theirs.ids.tolist() != generated_tokens(student, TEXTS[:1], 64).ids.tolist()


def frozen(checkpoint: Path, *keys: str) -> str:
    return f"teacher={{use: frozen, model: {{{', '.join(['use: sa2va', f'checkpoint: {checkpoint}', 'max_tiles: 1', *keys])}}}}}"


def test_a_run_learns_from_another_model_and_resumes(
    tiny: Callable[..., Recipe], other_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("teacher=null", frozen(other_checkpoint, "train: []"), "train.updates=2")
    used = {".".join(map(str, path)): component.entry.name for path, component in components_used(recipe, Registry())}
    assert (used["teacher"], used["teacher.model"]) == ("frozen", "sa2va")
    assert ("teacher.model.checkpoint", other_checkpoint) in [(key, path) for key, path, *_ in path_report(recipe, Registry())]
    asked: list[Tensor] = []
    captions = Frozen.captions

    def watched(*given: object) -> Tokens:
        tokens = captions(*given)
        asked.append(tokens.ids)
        return tokens

    monkeypatch.setattr(Frozen, "captions", watched)
    assert runner.run(recipe, Registry(), quiet=True) == 0
    assert asked
    [run] = Path(recipe.values["output"]).iterdir()
    last = run / "checkpoints" / "update-000002"
    before = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert not any(name.startswith("teacher/") for name in before)
    assert (
        runner.run(tiny("teacher=null", frozen(other_checkpoint, "train: []"), "train.updates=3"), Registry(), resume=run, quiet=True) == 0
    )
    assert (last.parent / "update-000003").is_dir()


@pytest.mark.parametrize("keys", [["dtype: bfloat16"], ["dtype: bfloat16", "train: []"], ["lora: {r: 2, alpha: 4, dropout: 0.5}"]])
def test_its_precision_and_its_train_are_its_own(
    tiny: Callable[..., Recipe], tmp_path: Path, other_checkpoint: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its recipe entry trains stays as it is, and its dropout is off: the same captions twice."""
    asked: list[tuple[RegionBatch, Tokens]] = []
    captions = Frozen.captions

    def watched(teacher: Frozen, model: TinyModel, vision: object, batch: RegionBatch, length: int) -> Tokens:
        asked.append((batch, captions(teacher, model, vision, batch, length)))
        return asked[-1][1]

    monkeypatch.setattr(Frozen, "captions", watched)
    run = building.build_run(tiny("teacher=null", frozen(other_checkpoint, *keys)), Registry(), tmp_path, None)
    before = {name: tensor.clone() for name, tensor in run.teacher.model.state_dict().items()}
    run.trainer.update(0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.teacher.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in run.teacher.model.parameters())
    batch, first = asked[0]
    with run.model.computing(True):
        again = captions(run.teacher, run.model, None, batch, 5)
    assert torch.equal(first.ids, again.ids)
