"""The families of published checkpoints, and the checkpoints themselves by their sizes. Nothing heavy is imported.

Sources: bytedance/Sa2VA, README.md; the ``config.json`` of the bases OpenGVLab/InternVL2_5-*, InternVL3-*, Qwen/Qwen2.5-VL-*, Qwen3-VL-*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.contracts import UserError


@dataclass(frozen=True)
class Family:
    """Checkpoints of one layout: what its ``config.json`` says of it."""

    architecture: str
    part: str  # key of the language model
    language: str  # that one's architecture
    kind: str  # and model_type
    examples: str

    @property
    def name(self) -> str:
        return f"{self.architecture} with {self.language} ({self.examples})"


QWEN2 = Family("Sa2VAChatModel", "llm_config", "Qwen2ForCausalLM", "qwen2", "Sa2VA-1B, -4B, -InternVL3-2B, -8B, -14B")
INTERNLM2 = Family("Sa2VAChatModel", "llm_config", "InternLM2ForCausalLM", "internlm2", "Sa2VA-8B, -26B")
_ON_QWEN_VL = "Sa2VAChatModelQwen"
QWEN2_5_VL = Family(_ON_QWEN_VL, "text_config", "Qwen2_5_VLTextModel", "qwen2_5_vl_text", "Sa2VA-Qwen2_5-VL-3B, -7B")
QWEN3_VL = Family(_ON_QWEN_VL, "text_config", "Qwen3VLTextModel", "qwen3_vl_text", "Sa2VA-Qwen3-VL-2B, -4B")
FAMILIES = (QWEN2, INTERNLM2, QWEN2_5_VL, QWEN3_VL)

_VIT_300M, _VIT_6B = ("InternViT-300M", 1024, 24), ("InternViT-6B", 3200, 45)  # width and layers of the picture encoder
_VIT_2_5, _VIT_3 = ("Qwen2.5-VL's encoder", 1280, 32), ("Qwen3-VL's encoder", 1024, 24)
#: Name, family, base, language model with its width, layers and feed-forward width, picture encoder.
_KNOWN = (
    ("Sa2VA-1B", QWEN2, "InternVL2.5-1B", ("Qwen2.5-0.5B", 896, 24, 4864), _VIT_300M),
    ("Sa2VA-4B", QWEN2, "InternVL2.5-4B", ("Qwen2.5-3B", 2048, 36, 11008), _VIT_300M),
    ("Sa2VA-8B", INTERNLM2, "InternVL2.5-8B", ("InternLM2.5-7B", 4096, 32, 14336), _VIT_300M),
    ("Sa2VA-26B", INTERNLM2, "InternVL2.5-26B", ("InternLM2.5-20B", 6144, 48, 16384), _VIT_6B),
    ("Sa2VA-InternVL3-2B", QWEN2, "InternVL3-2B", ("Qwen2.5-1.5B", 1536, 28, 8960), _VIT_300M),
    ("Sa2VA-InternVL3-8B", QWEN2, "InternVL3-8B", ("Qwen2.5-7B", 3584, 28, 18944), _VIT_300M),
    ("Sa2VA-InternVL3-14B", QWEN2, "InternVL3-14B", ("Qwen2.5-14B", 5120, 48, 13824), _VIT_300M),
    ("Sa2VA-Qwen2_5-VL-3B", QWEN2_5_VL, "Qwen2.5-VL-3B", ("Qwen2.5-3B", 2048, 36, 11008), _VIT_2_5),
    ("Sa2VA-Qwen2_5-VL-7B", QWEN2_5_VL, "Qwen2.5-VL-7B", ("Qwen2.5-7B", 3584, 28, 18944), _VIT_2_5),
    ("Sa2VA-Qwen3-VL-2B", QWEN3_VL, "Qwen3-VL-2B", ("Qwen3-1.7B", 2048, 28, 6144), _VIT_3),
    ("Sa2VA-Qwen3-VL-4B", QWEN3_VL, "Qwen3-VL-4B", ("Qwen3-4B", 2560, 36, 9728), _VIT_3),
)


def family_of(published: dict[str, Any], where: str) -> Family:
    """The family of a ``config.json``; ``where`` names it. Raises ``UserError`` naming its architecture and the known ones."""
    outer = _first(published.get("architectures")) or FAMILIES[0].architecture
    on_qwen_vl = published.get("model_type") == "sa2va_chat" and isinstance(published.get("text_config"), dict)
    if on_qwen_vl and outer.endswith("VLForConditionalGeneration"):
        outer = _ON_QWEN_VL  # exports on Qwen2.5-VL keep the base's name there
    candidates = [family for family in FAMILIES if family.architecture == outer]
    if candidates and not isinstance(published.get(candidates[0].part), dict):
        raise UserError(f"{where}: key '{candidates[0].part}' is missing; is this a Sa2VA checkpoint?")
    inner = published[candidates[0].part] if candidates else {}
    kind = inner.get("model_type", candidates[0].kind if candidates else "")
    language = _first(inner.get("architectures"))
    if not language or outer == _ON_QWEN_VL:  # such an export names its outer class there, or nothing
        language = next((family.language for family in candidates if family.kind == kind), language)
    for family in candidates:
        if (family.language, family.kind) == (language, kind):
            return family
    known = "; ".join(family.name for family in FAMILIES)
    what = f"the language model of this {outer} is {language or 'unnamed'} ({kind})" if candidates else f"this is a {outer}"
    raise UserError(f"{where}: {what}, which is not supported; known are {known}")


def identity(published: dict[str, Any], where: str) -> str:
    """Which published checkpoint has the sizes of this ``config.json``, in a sentence. Raises ``UserError`` for an unknown family."""
    family, vision = family_of(published, where), published.get("vision_config")
    inner, vision = published[family.part], vision if isinstance(vision, dict) else {}
    sizes = tuple(inner.get(key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    # upstream's defaults, which a config may leave out
    seen = vision.get("hidden_size", 3200), vision.get("num_hidden_layers") or vision.get("depth", 48)
    for name, of, base, language, encoder in _KNOWN:
        if (of, language[1:], encoder[1:]) == (family, sizes, seen) and not published.get("sam2_config"):
            return f"the sizes of {name} ({base}: {encoder[0]} and {language[0]}; SAM 2 Hiera-L)"
    what = f"{family.language} {sizes[0]} wide in {sizes[1]} layers, picture encoder {seen[0]} wide in {seen[1]}"
    return f"the sizes of no published Sa2VA: {what}{', SAM2 of its own sizes' if published.get('sam2_config') else ''}"


def _first(named: Any) -> str:
    """``architectures`` is a list, or one name."""
    return str(named[0] if isinstance(named, list) else named) if named else ""
