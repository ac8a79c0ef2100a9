"""``core.check --closure``: how well the base of a recipe closes its loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.commands.check import main
from core.contracts import BadSample, LossTerms, Region
from core.preflight.closure import _drawn, _ious, _Measured, _told, closure
from core.preflight.finding import Finding
from core.registry import Registry
from core.testing import TinyModel
from core.testing.tiny_model import regions

FEW = (
    "loops.loop2.tasks.cycle.data={sav: null, cocostuff: null, mapillary: null, openimages: null, paco: null}",
    "loops.loop1.tasks.pseudo.data={sav: null, openimages: null}",
)


def test_every_task_is_measured_with_the_recipe_s_own_parts(tiny: Any) -> None:
    """The likeliest words of an unmasked caption are the teacher's own, since student and teacher start equal; but for special tokens,
    which an untrained teacher writes, too."""
    clean = ("loops.loop1.tasks.pseudo.sampler.k=1", "loops.loop1.tasks.pseudo.token_mask_ratio=0.0")
    done: list[tuple[int, int]] = []
    found = list(closure(tiny(*FEW, *clean), Registry(), 6, lambda *step: done.append(step)))
    told = {(one.subject, one.text.partition(":")[0]): one for one in found}
    pseudo, referring, cycle = (f"loops.{name}" for name in ("loop1.tasks.pseudo", "loop1.tasks.referring", "loop2.tasks.cycle"))
    own = told[pseudo, "masks that the base finds for its teacher's captions"]
    assert "(6 regions); the first caption: " in own.text
    logged = told[pseudo, "with the recipe's settings, before the first update"].text
    assert float(logged.partition("kept_tokens ")[2].partition(",")[0]) > 0.7
    assert told[referring, "masks that the base finds for given captions"].text.count("(6 regions)") == 2  # and for its own of these
    assert "empty_masks" in told[cycle, "with the recipe's settings, before the first update"].text
    assert {one.subject for one in found} == {pseudo, referring, cycle}
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_masked_and_drawn_words_are_seen(tiny: Any) -> None:
    found = list(closure(tiny(*FEW, "loops.loop1.tasks.pseudo.token_mask_ratio=1.0"), Registry(), 4, lambda *_: None))
    [warning] = [one for one in found if one.subject == "loops.loop1.tasks.pseudo" and one.status == "warn"]
    assert "can hardly be expected to help this base: only" in warning.text
    assert "(kept_tokens)" in warning.text


class Loop:
    needs = frozenset[str]()

    def counts(self, *_: Any) -> dict[str, int]:
        return {}

    def __call__(self, *_: Any) -> LossTerms:
        return LossTerms({})


def test_captions_single_out_their_region_among_those_of_the_picture() -> None:
    one = _Measured(("loops", "a"), Loop())
    one.written[b"first"] |= {b"1": "a red  circle", b"2": "A red circle", b"3": "a star"}
    one.written[b"second"] |= {b"1": "", b"2": "a box"}
    one.written[b"alone"] |= {b"1": "a box"}
    assert one.singled_out() == (2, 5)  # the star and the box; an empty caption singles out nothing
    one.own, one.bad = [0.5], 3
    told = [(finding.status, finding.text) for finding in _told(one, {})]
    assert told[0] == ("warn", "3 of the regions drawn could not be used; what is said of its sources names the reasons")
    assert "2 of 5 captions (40%)" in told[2][1]


def test_masks_are_compared_by_iou() -> None:
    model = TinyModel()
    batch = model.preparation.collate([model.preparation(region) for region in regions(3)])
    texts = ["a b", "c", ""]
    with model.computing(training=False):
        vision = model.encode(batch)
        phrases = model.phrases(texts, 9)
        logits = model.segment(vision, batch.view2, model.embed(phrases.ids), phrases.mask, model.wording(batch.ids, None)).mask_logits
        truth = logits > 0
        truth[1] = ~truth[1]  # [h, w]
        assert truth[1].any()
        found = _ious(model, vision, batch.view2, truth, texts, 9, batch.ids)
        assert found == [1.0, 0.0, 1.0]
        half = truth.clone()
        half[0] |= torch.ones_like(half[0])
        [first, *_] = _ious(model, vision, batch.view2, half, texts, 9, batch.ids)
    assert first == pytest.approx(float(truth[0].float().mean()))


def test_regions_are_drawn_side_by_side_and_bad_ones_are_counted() -> None:
    class Data:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Region:
            if index == 1:
                raise BadSample("no picture", "x1")
            return Region(str(index), np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool), captions=["one", "other"])

    found = _Measured(("loops", "a"), Loop())
    drawn = list(_drawn(Data(), 8, "mine", found))
    assert [one.id for one in drawn] == [f"mine/{index}" for index in (0, 2, 3, 96, 97, 98, 99)]
    assert (found.bad, drawn[0].caption, drawn[0].captions) == (1, "one", ())


def test_nothing_usable_is_a_warning() -> None:
    [finding] = _told(_Measured(("loops", "a"), Loop(), bad=7), {})
    assert (finding.status, finding.text) == ("warn", "nothing could be measured: 7 regions were drawn, and none could be used")


def test_the_command_measures_after_everything_else_unless_that_failed(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    asked: list[int] = []

    def measured(recipe: Any, registry: Any, count: int, progress: Any) -> list[Finding]:
        asked.append(count)
        return [Finding("warn", "loops.loop1.tasks.pseudo", "can hardly be expected to help")]

    monkeypatch.setattr("core.preflight.closure.closure", measured)
    for status, code, told in (("pass", 0, "can hardly be expected to help"), ("fail", 1, "not measured: put right what failed first")):
        monkeypatch.setattr("core.commands.check._findings", lambda *_, status=status: iter([Finding(status, "model", "as it is")]))
        assert main(["dual_loop_tiny", f"output={tmp_path}", "--closure", "9", "--json"]) == code
        assert [one["text"] for one in json.loads(capsys.readouterr().out)["findings"]] == ["as it is", told]
    assert asked == [9]


def test_what_was_asked_for_is_shown_where_all_is_well_too(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "core.preflight.closure.closure", lambda *_: [Finding("pass", "loops.loop1.tasks.pseudo", "nothing speaks against it")]
    )
    monkeypatch.setattr("core.commands.check._findings", lambda *_: iter([Finding("pass", "model", "as it is")]))
    assert main(["dual_loop_tiny", f"output={tmp_path}", "--closure", "9"]) == 0
    out = capsys.readouterr().out
    assert "nothing speaks against it" in out
    assert "as it is" not in out
    assert out.splitlines()[-1] == "2 pass (--all shows them), 0 warn, 0 fail"


@pytest.mark.parametrize(
    ("given", "told"),
    [(["recipes/dual_loop_tiny.yaml", "--closure", "0"], "at least 1"), (["--data", ".", "--closure", "4"], "--closure needs a recipe")],
)
def test_the_option_is_checked(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert told in capsys.readouterr().err


def test_a_task_that_reaches_nothing_trained_fails(tiny: Any) -> None:
    recipe = tiny(*FEW, "model.train=[sam2_decoder]", "model.lora=null", "gradient={use: sum}")
    found = [one for one in closure(recipe, Registry(), 1, lambda *_: None) if one.status == "fail"]
    assert [one.subject for one in found] == ["loops.loop2.tasks.cycle"]
    assert found[0].text.startswith("no loss of it reaches a trained weight; train a group")
