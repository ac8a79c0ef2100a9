"""What ``core.evaluate`` prints: of several variants a row each, the metrics as columns that fit the terminal."""

from __future__ import annotations

import io

from rich.console import Console

from core.evaluation import card

METRICS = ["cIoU", "gIoU", "precision@0.5", "precision@0.7", "precision@0.9", "no_seg_share"]


def printed(found: dict[str, card.Results], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    card.show(console, "referring", found)
    return console.file.getvalue()  # type: ignore[attr-defined]


def variant(shift: float, to_full: list[float] | None = None) -> card.Results:
    found: card.Results = {
        name: {"value": 0.5 + shift, "interval": [0.4, 0.6]} | ({"to_full": {"value": shift, "interval": to_full}} if to_full else {})
        for name in METRICS
    }
    return found | {"n_expressions": {"value": 22}}


def test_variants_are_rows():
    found = {"full": variant(0.0), "lora": variant(-0.1, [-0.2, -0.05]), "sam2_decoder+text_hidden_fcs": variant(0.01, [-0.1, 0.1])}
    text = printed(found, 200)
    lines = text.splitlines()
    assert lines[0].strip() == "referring, n_expressions 22"
    assert [name for name in METRICS if name in lines[2]] == METRICS
    assert sum("0.4000*" in line for line in lines) == 1
    assert text.count("0.4000*") == len(METRICS)
    assert "0.5100*" not in text, "its interval holds 0"
    narrow = printed(found, 80)
    assert max(map(len, narrow.splitlines())) <= 100
    assert all(name in narrow for name in METRICS), "no name is cut"
    assert narrow.count("sam2_decoder+text_hidden_fcs") > 1, "what does not fit beside comes below"
    assert len(narrow.splitlines()) < 30


def test_one_variant_has_its_intervals():
    assert "0.5000 [0.4000, 0.6000]" in printed({"full": variant(0.0)}, 120)
