from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.contracts import Picture, Sample
from core.engine.sheet import CASING, CELL, LINE, RIGHT, TRUTH, WRONG, draw_masks, picture_sheet

GREY = np.full((32, 32, 3), 128, dtype=np.uint8)


def half(rows, columns):
    mask = np.zeros((32, 32), dtype=bool)
    mask[rows, columns] = True
    return mask


def colours(drawn):
    return set(map(tuple, drawn.reshape(-1, 3).tolist()))


def test_masks_are_outlined_and_the_picture_keeps_its_colours():
    truth, predicted = half(slice(0, 16), slice(None)), half(slice(None), slice(0, 16))
    drawn = np.asarray(draw_masks(Picture("", GREY, truth, predicted))).astype(int)
    assert drawn.shape == (CELL, CELL, 3)
    quarter, middle = CELL // 4, CELL // 2
    for y in (quarter, 3 * quarter):
        for x in (quarter, 3 * quarter):
            assert drawn[y, x].tolist() == [128] * 3  # inside and outside of both masks
    assert drawn[middle, 3 * quarter].tolist() == list(TRUTH)  # just below the upper half
    assert drawn[middle - 1, 3 * quarter].tolist() == [128] * 3
    assert drawn[quarter, middle - 1].tolist() == list(RIGHT)  # just inside the left half
    assert drawn[quarter, middle].tolist() == [128] * 3
    assert drawn[3 * quarter, middle - 1].tolist() == list(WRONG)
    assert colours(drawn) == {RIGHT, WRONG, TRUTH, CASING, (128, 128, 128)}


def test_where_truth_and_prediction_agree_both_lines_are_seen():
    mask = half(slice(8, 24), slice(8, 24))
    drawn = np.asarray(draw_masks(Picture("", GREY, mask, mask))).astype(int)
    edge, middle = 8 * CELL // 32, CELL // 2
    across = [tuple(drawn[middle, x]) for x in range(edge - LINE - 1, edge + LINE + 1)]
    assert across == [CASING, *[TRUTH] * LINE, *[RIGHT] * LINE, CASING]


def test_a_mask_without_truth_is_outlined_as_right_and_no_mask_draws_nothing():
    alone = np.asarray(draw_masks(Picture("", GREY, predicted=half(slice(8, 24), slice(8, 24)))))
    assert colours(alone) == {RIGHT, CASING, (128, 128, 128)}
    assert colours(np.asarray(draw_masks(Picture("", GREY)))) == {(128, 128, 128)}


@pytest.mark.parametrize(("count", "columns", "wide", "high"), [(5, 4, 4, 2), (2, 4, 2, 1), (6, 2, 2, 3)])
def test_layout(tmp_path, count, columns, wide, high):
    picture_sheet([Picture("a phrase", GREY, score=0.5)] * count, tmp_path / "new" / "sheet.png", columns)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert wide * CELL < sheet.width < (wide + 1) * CELL
        assert high * CELL < sheet.height < high * (CELL + 90) + 60
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("text", ["", "日本語 🙂 Привет naïve", "x" * 500, "word " * 200, "\x00\n\t", "e\u0301"])
@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3)])
def test_any_text_and_any_size(tmp_path, text, size):
    image = np.zeros((*size, 3), dtype=np.uint8)
    picture_sheet([Picture(text, image, np.ones(size, bool), np.ones(size, bool), text, 1.0)], tmp_path / "s.png", title=text)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.height < 3 * CELL  # long text is cut


def test_no_pictures_still_make_a_sheet(tmp_path):
    picture_sheet([], tmp_path / "s.png", title="nothing")
    assert Image.open(tmp_path / "s.png").width > 0


def test_a_mask_of_another_size_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="mask of 'cat'"):
        picture_sheet([Picture("cat", GREY, np.ones((4, 4), bool))], tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()


def test_a_sample_shows_its_texts_by_name():
    from core.engine import sheet

    sample = Sample("loop1/pseudo", GREY, score=0.25, texts={"teacher": "a red box", "student": ""})
    assert sheet._caption(sample) == [
        ("loop1/pseudo", sheet.INK),
        ("teacher: a red box", sheet.FAINT),
        ("student: (nothing)", sheet.FAINT),
        ("IoU 0.25", WRONG),
    ]
