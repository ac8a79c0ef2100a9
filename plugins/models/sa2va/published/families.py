"""The families of published checkpoints: what tells one from another, and who reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.contracts import UserError
from plugins.models.sa2va.backend import BackendConfig
from plugins.models.sa2va.backends.internvl_config import internvl
from plugins.models.sa2va.published import tables
from plugins.models.sa2va.published.keys import Layout


@dataclass(frozen=True)
class Family:
    """Checkpoints of one layout."""

    architecture: str  # of config.json
    part: str  # its key for the language model
    language: str  # that one's architecture
    kind: str  # and model_type
    examples: str
    read: Callable[[dict[str, Any], str], tuple[BackendConfig, Layout]]


def _with_qwen2(published: dict[str, Any], where: str) -> tuple[BackendConfig, Layout]:
    return internvl(published, where), Layout([*tables.INTERNVL, *tables.QWEN2])


def _with_internlm2(published: dict[str, Any], where: str) -> tuple[BackendConfig, Layout]:
    sizes = internvl(published, where)
    groups = sizes.llm.num_key_value_heads or sizes.llm.num_attention_heads
    return sizes, Layout([*tables.INTERNVL, *tables.INTERNLM2], groups, sizes.llm.num_attention_heads // groups)


FAMILIES = (
    Family("Sa2VAChatModel", "llm_config", "Qwen2ForCausalLM", "qwen2", "Sa2VA-1B, -4B, -InternVL3-2B, -8B, -14B", _with_qwen2),
    Family("Sa2VAChatModel", "llm_config", "InternLM2ForCausalLM", "internlm2", "Sa2VA-8B, -26B", _with_internlm2),
)


def family_of(published: dict[str, Any], where: str) -> Family:
    """The family of a ``config.json``; ``where`` names it. Raises ``UserError`` naming its architecture and the known ones."""
    outer = _first(published.get("architectures")) or FAMILIES[0].architecture
    candidates = [family for family in FAMILIES if family.architecture == outer]
    if candidates and not isinstance(published.get(candidates[0].part), dict):
        raise UserError(f"{where}: key '{candidates[0].part}' is missing; is this a Sa2VA checkpoint?")
    inner = published[candidates[0].part] if candidates else {}
    kind = inner.get("model_type", candidates[0].kind if candidates else "")
    language = _first(inner.get("architectures")) or next((family.language for family in candidates if family.kind == kind), "")
    for family in candidates:
        if (family.language, family.kind) == (language, kind):
            return family
    known = "; ".join(f"{family.architecture} with {family.language} ({family.examples})" for family in FAMILIES)
    what = f"the language model of this {outer} is {language or 'unnamed'} ({kind})" if candidates else f"this is a {outer}"
    raise UserError(f"{where}: {what}, which is not supported; known are {known}")


def _first(named: Any) -> str:
    """``architectures`` is a list, or one name."""
    return str(named if isinstance(named, str) else named[0]) if named else ""
