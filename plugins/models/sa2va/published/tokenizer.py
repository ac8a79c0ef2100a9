"""The tokenizer's files of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2Tokenizer

from core.contracts import UserError


def read_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer of a checkpoint folder. Raises ``UserError`` where a file of it is missing or damaged."""
    if not (folder / "tokenizer.json").is_file():  # then it is made from these
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: not found, nor is tokenizer.json; the tokenizer's files belong to a checkpoint")
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder / 'tokenizer_config.json'}: not found; the tokenizer's files belong to a checkpoint")
    try:
        return Qwen2Tokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises Exception itself
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the tokenizer's files cannot be read ({type(error).__name__}: {text}); copy them again") from error
