"""InternLM2's tokenizer, made of ``tokenizer.model`` (sentencepiece's BPE with bytes) without sentencepiece and without remote code.

Texts that it decodes are those of upstream's slow tokenizer, with the spaces that this one puts around added and special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges, import_protobuf

_SPACE = "▁"  # sentencepiece's
_LARGEST = 2**26  # bytes of tokenizer.model
#: What transformers' clean_up_tokenization replaces.
_TIDY = {f" {mark}": mark for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")}


class InternLM2Tokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Encodes as sentencepiece does each text between added tokens; ``pieces``: how many tokens sentencepiece's own file has."""

    pieces: int

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of ids, as the slow tokenizer of transformers 4 puts it together."""
        special, parts, plain = set(self.all_special_ids), [], []
        for token in map(int, token_ids):
            if skip_special_tokens and token in special:
                continue
            if token < self.pieces:
                plain.append(token)
                continue
            parts += [text] if (text := self._plain(plain, special)) else []
            parts.append(str(self.backend_tokenizer.id_to_token(token)))
            plain = []
        if plain:
            parts.append(self._plain(plain, special))
        return " ".join(parts)

    def _plain(self, ids: list[int], special: set[int]) -> str:
        """Of ids that the file of sentencepiece has; a special one has a space before the text that precedes it."""
        text, since, after_special = "", [], False
        for token in ids:
            if token not in special:
                since.append(token)
                after_special = False
                continue
            text += (
                ("" if after_special else " ") + str(self.backend_tokenizer.decode(since)) + str(self.backend_tokenizer.id_to_token(token))
            )
            since, after_special = [], True
        text += str(self.backend_tokenizer.decode(since))
        tidy = text.replace(" ' ", "'")
        for untidy, put in _TIDY.items():
            tidy = tidy.replace(untidy, put)
        return tidy


def read_internlm2(folder: Path) -> InternLM2Tokenizer:
    """Of ``tokenizer.model`` and ``tokenizer_config.json``. Raises what the libraries raise, ``ValueError`` for another kind of file."""
    file, model = folder / "tokenizer.model", import_protobuf().ModelProto()
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"tokenizer.model has {file.stat().st_size} bytes; InternLM2's has one and a half million")
    model.ParseFromString(file.read_bytes())
    normal = model.normalizer_spec
    if model.trainer_spec.model_type != 2 or not model.trainer_spec.byte_fallback:
        raise ValueError("tokenizer.model is no BPE with bytes for unknown characters")
    if normal.precompiled_charsmap or normal.remove_extra_whitespaces:
        raise ValueError(f"tokenizer.model changes texts ({normal.name}) before it cuts them")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {int(number): AddedToken(**token) for number, token in settings["added_tokens_decoder"].items()}
    # the last pieces of the file are unused, and chat tokens lie over them
    scores = [(added[i].content if i in added else piece.piece, piece.score) for i, piece in enumerate(model.pieces)]
    vocabulary = {piece: number for number, (piece, _) in enumerate(scores)}
    merges = generate_merges(vocabulary, scores, {token.content for token in added.values()})
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=scores[0][0], fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend(_SPACE)] if normal.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    unprefix = [decoders.Strip(" ", 1, 0)] if normal.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *unprefix])
    tokenizer.add_tokens([added[number] for number in sorted(added)])
    if wrong := [token.content for number, token in added.items() if tokenizer.token_to_id(token.content) != number]:
        raise ValueError(
            f"tokenizer_config.json: {wrong[0]!r} has another number than its place after tokenizer.model's {len(scores)} pieces"
        )
    names = {name: settings[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if settings.get(name)}
    more = settings.get("additional_special_tokens") or []
    result = InternLM2Tokenizer(tokenizer_object=tokenizer, additional_special_tokens=more, **names)
    result.pieces = len(scores)
    return result
