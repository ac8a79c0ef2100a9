"""Greedy decoding of a batch of prompts given as embeddings, with the states that a [SEG] needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from plugins.models.sa2va.network import Network


@dataclass
class Generated:
    """Tokens of each row up to and including its stop, and the state of each token once it was read."""

    ids: list[list[int]]  # B rows
    states: Tensor  # [B, steps, D]; states[b, i] belongs to ids[b][i]; the last token of a row may not have been read

    def state(self, row: int, position: int) -> Tensor | None:
        """[D] after reading token ``position`` of ``row``; None if generation ended before it was read."""
        return self.states[row, position] if position < self.states.shape[1] else None


@torch.no_grad()
def greedy(network: Network, prompts: Sequence[Tensor], length: int, ended: Callable[[list[int]], bool]) -> Generated:
    """Decodes at most ``length`` tokens for each prompt [L_i, D]; a row stops when ``ended(its tokens)``.

    Prompts are padded at the left, so that every row's next token comes at the same step.
    """
    batch, longest, device = len(prompts), max(len(prompt) for prompt in prompts), prompts[0].device
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)  # [B]
    embeds = torch.stack([torch.cat([prompt.new_zeros(longest - len(prompt), prompt.shape[1]), prompt]) for prompt in prompts])
    attention = (torch.arange(longest, device=device) >= padding[:, None]).long()  # [B, longest]
    positions = (attention.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=network.config.llm)
    ids: list[list[int]] = [[] for _ in prompts]
    running = [True] * batch
    states: list[Tensor] = []
    for step in range(length):
        output = network.llm.model(
            inputs_embeds=embeds, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True
        )
        last = output.last_hidden_state[:, -1]  # [B, D]
        if step:
            states.append(last)
        token = network.llm.lm_head(last).argmax(-1)  # [B]
        for row, value in enumerate(token.tolist()):
            if running[row]:
                ids[row].append(value)
                running[row] = not ended(ids[row])
        if not any(running):
            break
        embeds = network.llm.model.embed_tokens(token)[:, None]  # [B, 1, D]
        attention = torch.cat([attention, attention.new_ones(batch, 1)], dim=1)
        positions = positions[:, -1:] + 1
    width = prompts[0].shape[1]
    return Generated(ids, torch.stack(states, dim=1) if states else prompts[0].new_zeros(batch, 0, width))
