"""What the processor lacks that a recipe counts on. Quick: nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Flags of processors that have products in bfloat16, or vectors wide enough for libraries to make up for it.
_PRODUCTS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "avx512bw", "bf16", "svebf16"})
CPUINFO = Path("/proc/cpuinfo")


def slow_bfloat16(values: Mapping[str, Any]) -> str | None:
    """A sentence where a recipe's resolved ``values`` ask a CPU for bfloat16 that computes it slowly; None where it is not known to."""
    asked = [key for key, wish in (("train.precision", "bf16"), ("model.dtype", "bfloat16")) if _at(values, key) == wish]
    if not asked or values["launch"]["device"] != "cpu" or not CPUINFO.is_file():
        return None
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), None)
    if flags is None or not _PRODUCTS.isdisjoint(flags):
        return None
    other = {"train.precision": "train.precision=fp32", "model.dtype": "model.dtype=float32"}
    what = "this processor has no products in bfloat16, so that an update takes several times as long as in float32"
    return f"{', '.join(asked)}: {what}; set {' '.join(other[key] for key in asked)}, or train on a GPU"


def _at(values: Mapping[str, Any], key: str) -> Any:
    part, name = key.split(".")
    inside = values.get(part)
    return inside.get(name) if isinstance(inside, Mapping) else None
