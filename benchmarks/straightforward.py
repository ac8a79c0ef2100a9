"""The dual update as one would first write it: the other side of ``dual_update.py``. The same method, nothing saved.

A deep copy of the model as teacher, averaged over all its parameters; pictures encoded again for each forward; logits of
the whole vocabulary for each token; gradients cloned for each parameter. It shares with the toolkit what is no matter of
speed: the network itself, the prompts, the mask loss and the noise.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from core.contracts import RegionBatch, Tokens, Wording
from core.engine.noise import RunNoise
from plugins.losses.bce_dice import BceDice
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.vision import Vision
from plugins.samplers.st_gumbel_topk import gumbel


def look(model: Sa2va, batch: RegionBatch, view: Tensor) -> tuple[Vision, Tensor]:
    """Features of each region's picture (one tile each), made anew, and the rows [B] to find them at."""
    grids = [batch.grids[picture] for picture in view.tolist()]
    return model.vision(batch.tiles[view], [1] * len(view), grids, batch.sam_pictures[view]), torch.arange(len(view))


class Straightforward:
    """``update(number)`` returns both losses; ``gradients`` then holds both loops' gradients, as lists by parameter."""

    def __init__(self, model: Sa2va, batches: tuple[RegionBatch, RegionBatch], k: int, length: int, seed: int) -> None:
        self.model, self.teacher = model, copy.deepcopy(model).eval()
        self.batches, self.k, self.length, self.seed = batches, k, length, seed
        self.parameters = [p for members in model.trainable().values() for _, p in members]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2e-5, weight_decay=0.05)
        self.gradients: list[list[Tensor]] = []

    def update(self, number: int) -> tuple[float, float]:
        noise = RunNoise(self.seed, number)
        self.gradients, losses = [], []
        for loss in (self.loop1(self.batches[0], noise), self.loop2(self.batches[1], noise)):
            loss.backward()
            losses.append(float(loss.detach()))
            self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters])
            self.optimizer.zero_grad()
        first, second = self.gradients
        square = sum((a * a).sum() for a in first)
        c = sum((a * b).sum() for a, b in zip(first, second, strict=True)) / square
        for parameter, a, b in zip(self.parameters, first, second, strict=True):
            parameter.grad = a + 0.5 * (b - c * a)
        clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
                slow.mul_(0.999).add_(fast, alpha=0.001)
        return losses[0], losses[1]

    def loop1(self, batch: RegionBatch, noise: RunNoise) -> Tensor:
        model = self.model
        pseudo = self.generate(batch)  # [B, T]
        ids = pseudo.ids.clone()
        for row, sample in enumerate(batch.ids):
            generator, count = noise.generator(sample, "token_mask"), int(pseudo.mask[row].sum())
            chosen = torch.randperm(count, generator=generator)[: round(0.25 * count)]
            ids[row, chosen] = model.ordinary_tokens[torch.randint(len(model.ordinary_tokens), (len(chosen),), generator=generator)]
        states = model.caption_states(*look(model, batch, batch.view1), batch.cells, Tokens(ids, pseudo.mask))  # [B, T, D]
        weight, _ = model.head()
        special = torch.ones(len(weight), dtype=torch.bool).index_fill(0, model.ordinary_tokens, False).nonzero().flatten()
        logits = (states @ weight.T).index_fill(-1, special, -torch.inf)  # [B, T, V]
        top, kept = logits.topk(self.k, dim=-1)  # [B, T, k] each
        drawn = torch.stack([gumbel(top.shape[1], self.k, noise.generator(sample, "gumbel")) for sample in batch.ids])
        soft = ((top + drawn) / 0.7).softmax(-1)  # [B, T, k]
        hard = F.one_hot(soft.argmax(-1), self.k).to(soft.dtype)
        text = torch.zeros(*kept.shape[:2], len(weight)).scatter(-1, kept, hard + soft - soft.detach()) @ model.embedding()  # [B, T, D]
        wording = model.wording(batch.ids, noise)
        request = Wording([before + " " for before in wording.before], wording.after, wording.answers)
        result = model.segment(*look(model, batch, batch.view2), text, pseudo.mask, request)
        points = [noise.generator(sample, "points") for sample in batch.ids]
        mask = BceDice()(result.mask_logits, batch.mask2, points).mean()
        return mask + self.cross_entropy(result.answer_states, wording.answers)

    def loop2(self, batch: RegionBatch, noise: RunNoise) -> Tensor:
        model, texts = self.model, [caption or "" for caption in batch.captions]
        phrase, wording = model.phrases(texts, self.length), model.wording(batch.ids, noise)
        result = model.segment(*look(model, batch, batch.view1), model.embed(phrase.ids), phrase.mask, wording)
        cells = list(F.adaptive_avg_pool2d(result.mask_logits.sigmoid(), batch.grids[0]) > 0.5)  # B of [gh, gw], all alike here
        captions = model.tokenize(texts, self.length)
        states = model.caption_states(*look(model, batch, batch.view1), cells, captions)  # [B, T, D]
        return self.cross_entropy(states, captions) + self.cross_entropy(result.answer_states, wording.answers)

    def cross_entropy(self, states: Tensor, tokens: Tokens) -> Tensor:
        logits = self.model.network.llm.lm_head(states)  # [B, T, V]
        return F.cross_entropy(logits.flatten(0, 1), tokens.ids.masked_fill(~tokens.mask, -100).flatten())

    @torch.no_grad()
    def generate(self, batch: RegionBatch) -> Tokens:
        """Greedy, by transformers' own ``generate``."""
        model = self.teacher
        described = model.sequences.describe(*look(model, batch, batch.view1), batch.cells)
        prompts = [prompt.embeddings for prompt in described]  # B of [L_i, D]
        longest = max(map(len, prompts))
        embeds = torch.stack([F.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])  # [B, L, D], padded at the left
        real = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        llm = model.network.llm
        written = llm.generate(
            inputs_embeds=embeds,
            attention_mask=real,
            do_sample=False,
            max_new_tokens=self.length,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=model.pad_token,
        )
        rows = [list(itertools.takewhile(lambda token: token != model.tokenizer.eos_token_id, row)) for row in written.tolist()]
        return model.text.rows(rows, model.device)
