"""A byte-level BPE trained on text lines, with the special tokens of the published tokenizers."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders
from transformers import Qwen2Tokenizer

from plugins.models.sa2va import prompts

_QWEN = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "[SEG]",
    "<p>",
    "</p>",
    "<vp>",
    "</vp>",
]
# Qwen2's own pre-tokenizer (transformers, Qwen2 tokenizer)
_QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(lines: list[str], vocabulary: int, template: str) -> Qwen2Tokenizer:
    """Byte-level BPE over ``lines`` and the prompt texts, ``vocabulary`` ordinary tokens at most, then the special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    turn = prompts.turn_format(template)
    frame = [
        turn.before,
        turn.between,
        prompts.region_text([], prompts.INTERNVL.token),
        prompts.DESCRIBE,
        *prompts.ANSWERS,
        *(b + " the" + a for b, a in prompts.SEGMENT),
    ]
    tokenizer.train_from_iterator([*lines, *frame * 50], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _QWEN])
    return Qwen2Tokenizer(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
