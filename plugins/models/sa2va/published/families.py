"""What reads the configuration of each family of ``known``, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plugins.models.sa2va.backend import BackendConfig
from plugins.models.sa2va.backends.internvl_config import internvl
from plugins.models.sa2va.backends.qwen_config import qwen2_5_vl, qwen3_vl
from plugins.models.sa2va.published import known, tables
from plugins.models.sa2va.published.keys import Layout

Read = tuple[BackendConfig, Layout]


def _with_qwen2(published: dict[str, Any], where: str) -> Read:
    return internvl(published, where), Layout([*tables.INTERNVL, *tables.QWEN2])


def _with_internlm2(published: dict[str, Any], where: str) -> Read:
    sizes = internvl(published, where)
    groups = sizes.llm.num_key_value_heads or sizes.llm.num_attention_heads
    return sizes, Layout([*tables.INTERNVL, *tables.INTERNLM2], groups, sizes.llm.num_attention_heads // groups)


def _qwen2_5_vl(published: dict[str, Any], where: str) -> Read:
    return qwen2_5_vl(published, where), Layout(tables.QWEN_VL, adapted="model.")


def _qwen3_vl(published: dict[str, Any], where: str) -> Read:
    return qwen3_vl(published, where), Layout(tables.QWEN_VL, adapted="model.")


_READERS: dict[known.Family, Callable[[dict[str, Any], str], Read]] = {
    known.QWEN2: _with_qwen2,
    known.INTERNLM2: _with_internlm2,
    known.QWEN2_5_VL: _qwen2_5_vl,
    known.QWEN3_VL: _qwen3_vl,
}


def read_family(published: dict[str, Any], where: str) -> Read:
    """Sizes of the backend and names of the tensors of a ``config.json``; ``where`` names it. Raises ``UserError``."""
    return _READERS[known.family_of(published, where)](published, where)
