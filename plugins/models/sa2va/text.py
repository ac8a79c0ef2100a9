"""Text to token ids and back, with the turn format and the special tokens of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from core.contracts import Tokens, UserError
from plugins.models.sa2va import prompts


class Text:
    """A tokenizer and the strings around questions and answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, marks: prompts.Marks, where: Path | None) -> None:
        """``where`` names the checkpoint in errors. Raises ``UserError`` where a special token is not one id."""
        self.tokenizer, self.turn = tokenizer, replace(prompts.turn_format(template), marks=marks)
        #: Of questions; training has another one where upstream's inference goes by the chat template, which may have a system prompt.
        self.asked = _chat_turn(tokenizer, self.turn, where) if marks.chat and tokenizer.chat_template else self.turn
        split = {token: len(self.ids(token)) for token in self.turn.special if len(self.ids(token)) != 1}
        if split:
            found = ", ".join(f"{token!r} is {count} tokens" for token, count in split.items())
            raise UserError(f"{where}: {found} in this tokenizer; Sa2VA needs each as one special token")
        [self.seg], [self.image] = self.ids(prompts.SEG), self.ids(marks.token)
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        self.ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
        self._end = self.ids(self.turn.end)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def rows(self, rows: Sequence[Sequence[int]], device: torch.device) -> Tokens:
        """Rows of ids, padded at the right to [B, T]."""
        longest = max(1, *map(len, rows)) if rows else 1
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : len(row)] = True
        return Tokens(ids.to(device), mask.to(device))

    def decode(self, ids: list[int]) -> str:
        """The text up to the turn's end; the special tokens inside it stay."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        return text.split(self.turn.end)[0].replace(self.tokenizer.eos_token or self.turn.end, "").strip()

    def ended(self, ids: list[int]) -> bool:
        """Whether the last id ends the answer."""
        if ids[-1] == self.tokenizer.eos_token_id or ids[-len(self._end) :] == self._end:
            return True
        # the end may have merged with the text before it: then only the decoded text shows it
        return self.turn.end in str(self.tokenizer.decode(ids[-len(self._end) - 2 :])).replace("\n", "")

    def without_end(self, ids: list[int]) -> list[int]:
        """The ids before the turn's end."""
        while ids and self.ended(ids):
            ids = ids[:-1]
        return ids


_QUESTION = "\u241f"  # stands for a question; no template has it


def _chat_turn(tokenizer: PreTrainedTokenizerBase, turn: prompts.TurnFormat, where: Path | None) -> prompts.TurnFormat:
    """The turn that a tokenizer's chat template makes of one picture and a question. Raises ``UserError``."""
    asked: Any = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]}]
    try:
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2's own are not listed anywhere
        raise UserError(f"{where}: the tokenizer's chat template cannot be applied ({error}); copy it again") from error
    picture = turn.marks.start + turn.marks.token + turn.marks.end
    before, found, between = str(text).partition(picture + _QUESTION)
    if not found:
        raise UserError(f"{where}: the chat template does not write a picture as {picture} before the question; copy the published one")
    return replace(turn, before=before, between=between, marks=replace(turn.marks, joint=""))
