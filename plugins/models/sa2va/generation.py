"""Greedy decoding of a batch of prompts given as embeddings, with the states that a [SEG] needs.

What the prompts begin with alike is read once. Answers that are expected may be given: they are read together with the prompt,
and as much of them is taken as the model would have written itself. Neither changes the result, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from plugins.models.sa2va.network import Network

WORTHWHILE = 32  # a shorter common beginning saves less than the forward of its own costs, which reads all weights once more
PACKED = 12  # forwards after which packing the output layer is worth its time, which is about that many more
SPARE = 128  # tokens for which a full buffer gets new room


@dataclass
class Generated:
    """Tokens of each row up to and including its stop, and the state of each token once it was read."""

    ids: list[list[int]]  # B rows
    states: Sequence[Tensor]  # B of [n, D]; states[b][i] belongs to ids[b][i]; the last token of a row may not have been read

    def state(self, row: int, position: int) -> Tensor | None:
        """[D] after reading token ``position`` of ``row``; None if generation ended before it was read."""
        return self.states[row][position] if position < len(self.states[row]) else None


class Buffered(DynamicLayer):
    """Keys and values of one layer in buffers with spare room, so that a new token is written and nothing is copied.

    A larger batch may follow on what one row has read: then each of its rows goes on from there.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._key_buffer, self.keys = key_states, key_states[:, :, :0]
        self._value_buffer, self.values = value_states, value_states[:, :, :0]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends [B, H, n, d] each; returns all that is held, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        self._key_buffer = _written(self._key_buffer, start, key_states)
        self._value_buffer = _written(self._value_buffer, start, value_states)
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values


def _written(buffer: Tensor, start: int, new: Tensor) -> Tensor:
    """``buffer`` with ``new`` [B, H, n, d] from ``start`` on, in a larger one if it has no room or too few rows."""
    end = start + new.shape[2]
    if end > buffer.shape[2] or len(new) != len(buffer) or not start:
        larger = new.new_empty(*new.shape[:2], end + SPARE, new.shape[3])
        larger[:, :, :start] = buffer[:, :, :start]
        buffer = larger
    buffer[:, :, start:end] = new
    return buffer


@torch.no_grad()
def greedy(
    network: Network,
    prompts: Sequence[Tensor],
    length: int,
    ended: Callable[[list[int]], bool],
    expected: Sequence[Sequence[int]] = (),
) -> Generated:
    """Decodes at most ``length`` tokens for each prompt [L_i, D]; a row stops when ``ended(its tokens)``.

    ``expected`` lists whole answers. A row that has written the beginning of one (or nothing yet) reads the rest of it in the
    same forward as its next token. Prompts are padded at the left, so that every row's next token comes at the same place.
    """
    batch, device = len(prompts), prompts[0].device
    cache = Cache(layers=[Buffered() for _ in range(network.config.llm.num_hidden_layers)])
    shared = common_beginning(prompts)
    if shared < WORTHWHILE:
        shared = 0
    else:
        network.llm.model(inputs_embeds=prompts[0][None, :shared], past_key_values=cache, use_cache=True)
    longest = max(map(len, prompts)) - shared
    padding = torch.tensor([longest + shared - len(prompt) for prompt in prompts], device=device)  # [B]
    unread = torch.stack([torch.cat([p.new_zeros(longest + shared - len(p), p.shape[1]), p[shared:]]) for p in prompts])  # [B, n, D]
    real = torch.arange(longest, device=device) >= padding[:, None]
    # [B, slots]: which keys count; those of padding and of tokens that were not taken stay where they are
    real = torch.cat([real.new_ones(batch, shared), real], dim=1).long()
    ids: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    running = [True] * batch
    packed, forwards = None, 0
    while length and any(running):
        forwards += 1
        if forwards == PACKED:
            packed = network.packed_head(batch)
        drafts = [_continuation(expected, row)[: length - len(row) - 1] if runs else [] for row, runs in zip(ids, running, strict=True)]
        width = max(map(len, drafts))
        if width:
            read = torch.tensor([draft + [0] * (width - len(draft)) for draft in drafts], device=device)  # [B, w]
            unread = torch.cat([unread, network.llm.model.embed_tokens(read).to(unread.dtype)], dim=1)
            real = torch.cat([real, real.new_ones(batch, width)], dim=1)
        positions = (real.cumsum(1)[:, -unread.shape[1] :] - 1).clamp_min(0)
        output = network.llm.model(
            inputs_embeds=unread, attention_mask=real, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1 - width :]  # [B, 1 + w, D]
        chosen = network.next_tokens(output, packed)  # [B, 1 + w], the token after each of those read
        written = chosen.tolist()
        taken = [_agreement(draft, row) for draft, row in zip(drafts, written, strict=True)]
        for row in range(batch):
            if not running[row]:
                continue
            states[row].extend(output[row, 0 if ids[row] else 1 : 1 + taken[row]])
            for token in written[row][: 1 + taken[row]]:
                ids[row].append(token)
                running[row] = not ended(ids[row]) and len(ids[row]) < length
                if not running[row]:
                    break
        last = torch.tensor(taken, device=device)  # [B]
        real[:, real.shape[1] - width :] = (torch.arange(width, device=device) < last[:, None]).long()
        unread = network.llm.model.embed_tokens(chosen.gather(1, last[:, None]))  # [B, 1, D]
        real = torch.cat([real, real.new_ones(batch, 1)], dim=1)
    return Generated(ids, [torch.stack(row) if row else prompts[0].new_zeros(0, prompts[0].shape[1]) for row in states])


def common_beginning(prompts: Sequence[Tensor]) -> int:
    """How many embeddings all prompts [L_i, D] begin with alike; at least one of each prompt is left. 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    shortest, first = min(map(len, prompts)) - 1, prompts[0]
    alike = torch.stack([(prompt[:shortest] == first[:shortest]).all(1) for prompt in prompts[1:]]).all(0)  # [shortest]
    return int(alike.long().cumprod(0).sum())


def _continuation(expected: Sequence[Sequence[int]], row: list[int]) -> list[int]:
    """What follows ``row`` in the first expected answer that begins with it."""
    return next((list(answer[len(row) :]) for answer in expected if list(answer[: len(row)]) == row), [])


def _agreement(draft: list[int], written: list[int]) -> int:
    """How many tokens of ``draft`` are those that the model would have written."""
    return next((place for place, token in enumerate(draft) if written[place] != token), len(draft))
