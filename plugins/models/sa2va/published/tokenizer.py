"""The tokenizer's files of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from core.contracts import UserError
from plugins.models.sa2va.published.internlm2_tokenizer import read_internlm2
from plugins.models.sa2va.published.other_folders import is_pointer, pointer_sentence


def read_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder whose embedding has so many ``rows``.

    Raises ``UserError`` where a file of it is missing or damaged, and where it has tokens beyond the embedding.
    """
    settings = folder / "tokenizer_config.json"
    for name in (settings.name, "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json"):
        if is_pointer(folder / name):
            raise UserError(pointer_sentence(folder / name))
    internlm2 = settings.is_file() and '"InternLM2Tokenizer' in settings.read_text(encoding="utf-8", errors="replace")
    if internlm2 and not (folder / "tokenizer.model").is_file():
        raise UserError(f"{folder / 'tokenizer.model'}: not found; the tokenizer's files belong to a checkpoint")
    if not internlm2 and not (folder / "tokenizer.json").is_file():  # then it is made from these
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: not found, nor is tokenizer.json; the tokenizer's files belong to a checkpoint")
    if not settings.is_file():
        raise UserError(f"{settings}: not found; the tokenizer's files belong to a checkpoint")
    try:
        tokenizer: PreTrainedTokenizerBase = read_internlm2(folder) if internlm2 else Qwen2Tokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises Exception itself
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the tokenizer's files cannot be read ({type(error).__name__}: {text}); copy them again") from error
    beyond = sorted((row, token) for token, row in tokenizer.get_vocab().items() if row >= rows)
    if beyond:
        names = ", ".join(f"{token!r} ({row})" for row, token in beyond[:4])
        raise UserError(
            f"{folder}: the tokenizer has {len(beyond)} tokens for which the embedding, of {rows} rows, has none: {names}"
            f"{', ...' if len(beyond) > 4 else ''}; copy the tokenizer's files that belong to these weights, or enlarge the embedding "
            "where the tokens were added (resize_token_embeddings, then save_pretrained)"
        )
    return tokenizer
