"""Greedy decoding of a batch of prompts given as embeddings, with the states that a [SEG] needs.

The common beginning of the prompts is read once. Expected answers may be given: they are read together with the prompt, and the
part that the model would have written itself is taken. Neither changes the result, except for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache

from plugins.models.sa2va.backend import Backend, Prompt
from plugins.models.sa2va.buffers import buffered
from plugins.models.sa2va.output_layer import next_tokens, packed_head
from plugins.models.sa2va.stepping import Other, Steps

WORTHWHILE = 32  # a shorter common beginning saves less than its own forward costs, which reads all weights once more
PACKED = 12  # forwards after which packing the output layer is worth its time, which is about that many more


@dataclass
class Generated:
    """Tokens of each row up to and including its stop, and the state of each token once it was read: the one that a [SEG] gives."""

    ids: list[list[int]]  # B rows
    states: Sequence[Tensor]  # B of [n, D]; states[b][i] belongs to ids[b][i]; the last token of a row may not have been read

    def state(self, row: int, position: int) -> Tensor | None:
        """[D] after reading token ``position`` of ``row``; None if generation ended before it was read."""
        return self.states[row][position] if position < len(self.states[row]) else None


@dataclass
class _Begun:
    """Prompts whose common beginning has been read."""

    cache: Cache
    unread: Tensor  # [B, n, D]
    positions: Tensor  # [a, B, n]
    deep: Tensor | None  # [B, n, k, D]
    ahead: Tensor  # [B], a new token's position less its number in the row: not zero where a picture's tokens take fewer positions
    real: Tensor  # [B, slots]: which keys count; those of padding and of tokens that were not taken stay where they are


def _begin(backend: Backend, prompts: Sequence[Prompt]) -> _Begun:
    batch, device = len(prompts), prompts[0].embeddings.device
    cache = buffered(backend.layers)
    shared = common_beginning(prompts)
    if shared < WORTHWHILE:
        shared = 0
    else:
        backend.forward(*_block(prompts[:1], 0, shared), cache=cache)
    longest = max(map(len, prompts)) - shared
    padding = torch.tensor([longest + shared - len(prompt) for prompt in prompts], device=device)  # [B]
    unread, positions, deep = _block(prompts, shared, longest + shared)  # [B, n, D], [a, B, n], [B, n, k, D] or None
    ahead = torch.stack([prompt.positions.amax() + 1 - len(prompt) for prompt in prompts])
    real = torch.arange(longest, device=device) >= padding[:, None]
    real = torch.cat([real.new_ones(batch, shared), real], dim=1).long()
    return _Begun(cache, unread, positions, deep, ahead, real)


@torch.no_grad()
def captions(
    backend: Backend, prompts: Sequence[Prompt], length: int, ended: Callable[[list[int]], bool], wait: int | None = None
) -> list[list[int]]:
    """The ids of ``greedy``, at less cost for each token where ``stepping`` knows the language model's layers.

    The host looks at the tokens of ``wait`` steps at once; rows that have ended write on until then, and that is cut off. None: of
    one step on a CPU, where looking costs nothing, and otherwise of eight.
    """
    if not length:
        return [[] for _ in prompts]
    device, longest = prompts[0].embeddings.device, max(map(len, prompts)) + length
    try:
        if backend.longest is not None and longest > backend.longest:
            raise Other  # ``forward`` tells when it comes to that
        steps = Steps(backend.llm, device, longest)
    except Other:
        return greedy(backend, prompts, length, ended).ids
    begun = _begin(backend, prompts)
    output = backend.forward(begun.unread, begun.positions, begun.deep, begun.real, begun.cache).last[:, -1:]  # [B, 1, D]
    first = next_tokens(backend.head, output)[:, 0]  # [B]
    steps.begin(begun.cache.layers, begun.real, begun.real.sum(1) + begun.ahead, first, length - 1)
    wait = wait or (1 if device.type == "cpu" else 8)
    ids: list[list[int]] = [[] for _ in prompts]
    new, running = [[token] for token in first.tolist()], [True] * len(prompts)
    while True:
        for row, tokens in enumerate(new):
            for token in tokens:
                if running[row]:
                    ids[row].append(token)
                    running[row] = len(ids[row]) < length and not ended(ids[row])
        if not any(running):
            return ids
        new = steps.take(min(wait, length - 1 - steps.done))


@torch.no_grad()
def greedy(
    backend: Backend,
    prompts: Sequence[Prompt],
    length: int,
    ended: Callable[[list[int]], bool],
    expected: Sequence[Sequence[int]] = (),
) -> Generated:
    """Decodes at most ``length`` tokens for each prompt; a row stops when ``ended(its tokens)``.

    ``expected`` lists whole answers. A row that has written the beginning of one (or nothing yet) reads the rest of it in the
    same forward as its next token. Prompts are padded at the left, so that every row's next token comes at the same place.
    """
    batch, device = len(prompts), prompts[0].embeddings.device
    begun = _begin(backend, prompts)
    cache, unread, positions, deep, ahead, real = begun.cache, begun.unread, begun.positions, begun.deep, begun.ahead, begun.real
    ids: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    running = [True] * batch
    packed, forwards = None, 0
    while length and any(running):
        forwards += 1
        if forwards == PACKED:
            packed = packed_head(backend.head, batch)
        drafts = [_continuation(expected, row)[: length - len(row) - 1] if runs else [] for row, runs in zip(ids, running, strict=True)]
        width = max(map(len, drafts))
        if width:
            read = torch.tensor([draft + [0] * (width - len(draft)) for draft in drafts], device=device)  # [B, w]
            unread = torch.cat([unread, backend.embed(read).to(unread.dtype)], dim=1)
            real = torch.cat([real, real.new_ones(batch, width)], dim=1)
            positions = torch.cat([positions, _following(real, ahead, width, len(positions))], dim=2)
            deep = None if deep is None else F.pad(deep, (0, 0, 0, 0, 0, width))
        output = backend.forward(unread, positions, deep, real, cache)
        chosen = next_tokens(backend.head, output.last[:, -1 - width :], packed)  # [B, 1 + w], the token after each of those read
        given = output.seg[:, -1 - width :]  # [B, 1 + w, D]
        written = chosen.tolist()
        taken = [_agreement(draft, row) for draft, row in zip(drafts, written, strict=True)]
        for row in range(batch):
            if not running[row]:
                continue
            states[row].extend(given[row, 0 if ids[row] else 1 : 1 + taken[row]])
            for token in written[row][: 1 + taken[row]]:
                ids[row].append(token)
                running[row] = not ended(ids[row]) and len(ids[row]) < length
                if not running[row]:
                    break
        last = torch.tensor(taken, device=device)  # [B]
        real[:, real.shape[1] - width :] = (torch.arange(width, device=device) < last[:, None]).long()
        unread, deep = backend.embed(chosen.gather(1, last[:, None])), None  # [B, 1, D]
        real = torch.cat([real, real.new_ones(batch, 1)], dim=1)
        positions = _following(real, ahead, 1, len(positions))
    return Generated(ids, [torch.stack(row) if row else prompts[0].embeddings[:0] for row in states])


def common_beginning(prompts: Sequence[Prompt]) -> int:
    """The number of leading tokens that all prompts share; at least one of each prompt is left. 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    shortest, first = min(map(len, prompts)) - 1, prompts[0]
    equal = torch.stack([_equal(prompt, first, shortest) for prompt in prompts[1:]]).all(0)  # [shortest]
    return int(equal.long().cumprod(0).sum())


def _equal(one: Prompt, other: Prompt, length: int) -> Tensor:
    """[length] bool: which of the first tokens are equal, with all that belongs to them."""
    equal = (one.embeddings[:length] == other.embeddings[:length]).all(1)
    equal = equal & (one.positions[:, :length] == other.positions[:, :length]).all(0)
    if one.deep is not None and other.deep is not None:
        equal = equal & (one.deep[:length] == other.deep[:length]).flatten(1).all(1)
    return equal


def _block(prompts: Sequence[Prompt], start: int, end: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of each prompt its tokens from ``start`` on, ``end - start`` of them or padded at the left: [B, n, D], [a, B, n], [B, n, k, D]."""

    def padded(tokens: Tensor) -> Tensor:
        """[L, ...] -> [n, ...]."""
        return torch.cat([tokens.new_zeros(max(0, end - len(tokens)), *tokens.shape[1:]), tokens[start:end]])

    embeddings = torch.stack([padded(prompt.embeddings) for prompt in prompts])
    positions = torch.stack([padded(prompt.positions.mT) for prompt in prompts]).movedim(2, 0)
    deep = [padded(prompt.deep) for prompt in prompts if prompt.deep is not None]
    return embeddings, positions, torch.stack(deep) if deep else None


def _following(real: Tensor, ahead: Tensor, count: int, axes: int) -> Tensor:
    """[a, B, count]: positions of the last ``count`` tokens, which are new, of rows ``real`` [B, slots]."""
    return (real.cumsum(1)[:, -count:] - 1 + ahead[:, None]).expand(axes, -1, -1)


def _continuation(expected: Sequence[Sequence[int]], row: list[int]) -> list[int]:
    """What follows ``row`` in the first expected answer that begins with it."""
    return next((list(answer[len(row) :]) for answer in expected if list(answer[: len(row)]) == row), [])


def _agreement(draft: list[int], written: list[int]) -> int:
    """How many tokens of ``draft`` are those that the model would have written."""
    return next((place for place, token in enumerate(draft) if written[place] != token), len(draft))
