"""``weight`` of a source: all of a loop's, above zero, or none."""

from __future__ import annotations

import pytest
from conftest import RECIPE

A = 'a: {use: "./parts.py:source", root: "${data.root}/a"}'
PLACE = "loops.one.tasks.seg.data"


def sources(folder, *weights: str) -> list[str]:
    lines = [A.replace("a:", f"s{i}:", 1).replace("}/a", "}/" + f"a{i}") for i in range(len(weights))]
    lines = [line[:-1] + (f", weight: {weight}}}" if weight else "}") for line, weight in zip(lines, weights, strict=True)]
    return folder.faults(text=RECIPE.replace(A, "\n          ".join(lines)))


@pytest.mark.parametrize("weights", [("", ""), ("1", "0.25"), ("3",)])
def test_all_or_none(folder, weights: tuple[str, ...]) -> None:
    assert sources(folder, *weights) == []


def test_one_without_is_named_with_its_line(folder) -> None:
    assert sources(folder, "1", "", "2") == [
        f"r.yaml:18: {PLACE}.s1: this source has no weight, but {PLACE}.s0 has one: give every source of one a weight, or none"
    ]


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("0", f"expected a finite number above 0, got 0; to leave the source out, remove it or write {PLACE}.s1=null"),
        (".inf", f"expected a finite number above 0, got inf; to leave the source out, remove it or write {PLACE}.s1=null"),
        ("-1", "expected a value >= 0, got -1 (an integer)"),
        ("lots", "expected a number, got 'lots' (text)"),
    ],
)
def test_what_is_no_weight(folder, weight: str, said: str) -> None:
    assert sources(folder, "1", weight) == [f"r.yaml:18: {PLACE}.s1.weight: {said}"]
