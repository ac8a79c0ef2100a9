"""A CPU without products in bfloat16 is told to whoever asks it for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.engine import processor
from core.engine.processor import slow_bfloat16


def values(precision: str = "bf16", dtype: str | None = "bfloat16", device: str = "cpu") -> dict[str, Any]:
    return {"train": {"precision": precision}, "model": {"dtype": dtype} if dtype else {}, "launch": {"device": device}}


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPUINFO", file)
    return file


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx avx2 fma", "Features\t: fp asimd"])
def test_it_is_told_with_the_keys(flags: Path, line: str) -> None:
    flags.write_text(f"processor : 0\n{line}\n")
    told = slow_bfloat16(values())
    assert told is not None
    assert told.startswith("train.precision, model.dtype: ")
    assert told.endswith("set train.precision=fp32 model.dtype=float32, or train on a GPU")
    assert (slow_bfloat16(values("auto")) or "").startswith("model.dtype: ")
    assert (slow_bfloat16(values(dtype=None)) or "").startswith("train.precision: ")


@pytest.mark.parametrize("line", ["flags : avx2 avx512bw", "flags : avx2 amx_bf16", "Features : asimd bf16", "nothing known"])
def test_nothing_is_told_of_a_processor_that_has_them_or_is_not_known(flags: Path, line: str) -> None:
    flags.write_text(line + "\n")
    assert slow_bfloat16(values()) is None
    flags.unlink()
    assert slow_bfloat16(values()) is None


def test_nothing_is_told_where_none_are_asked_for_or_a_gpu_has_them(flags: Path) -> None:
    flags.write_text("flags : avx2\n")
    assert slow_bfloat16(values("fp32", "float32")) is None
    assert slow_bfloat16(values(device="cuda")) is None
