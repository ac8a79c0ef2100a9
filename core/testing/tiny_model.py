"""A model of a few hundred weights that keeps the whole ``Model`` contract: loops and evaluators run on it in milliseconds.

It learns nothing useful, but it has every gradient path, and the result of a row depends on that row alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.contracts import (
    BadSample,
    Noise,
    Precision,
    Prediction,
    Preparation,
    Region,
    RegionBatch,
    Segmentation,
    Tokens,
    UserError,
    Wording,
)

PAD, END, SEG, FIRST = 0, 1, 2, 3
LETTERS = "abcdefghijklmnopqrstuvwxyz "
V, D, D2, G, R, H = (
    FIRST + len(LETTERS),
    8,
    4,
    4,
    32,
    8,
)  # sizes, see core.contracts; G: a grid's longer side, R: a picture's, H: a mask's


class KitNoise:
    """Noise as the engine gives it: a fresh generator from (seed, update, sample, purpose)."""

    def __init__(self, seed: int = 0, update: int = 0) -> None:
        self.seed, self.update = seed, update

    def generator(self, sample: str, purpose: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{self.update}/{sample}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, ...] -> [height, width, ...] by nearest pixels."""
    rows, columns = ((np.arange(new) * old) // new for new, old in zip((height, width), array.shape[:2], strict=True))
    return array[rows][:, columns]


def grid_of(image: np.ndarray) -> tuple[int, int]:
    """(gh, gw) of a picture [H, W, 3]: G cells along its longer side, and as many along the other as keep them square."""
    height, width = image.shape[:2]
    return max(1, G * height // max(height, width)), max(1, G * width // max(height, width))


@dataclass(frozen=True)  # two of them are equal
class TinyPreparation:
    """One tile and one picture of R x R pixels for each view."""

    def __call__(self, region: Region, needs: frozenset[str] = frozenset()) -> Region:
        if "caption" in needs and not region.caption:
            raise BadSample("no caption", region.id)
        if not region.mask.any() and "empty_mask" not in needs:
            raise BadSample("empty mask", region.id)
        return region

    def collate(self, samples: Sequence[Region]) -> RegionBatch:
        images: list[np.ndarray] = []
        grids: list[tuple[int, int]] = []
        view1, view2, masks1, masks2, cells = [], [], [], [], []
        for region in samples:
            view1.append(len(images))
            for image in (region.image, region.image2):
                if image is not None:
                    images.append(resized(image, R, R))
                    grids.append(grid_of(image))
            view2.append(len(images) - 1)
            mask2 = region.mask if region.mask2 is None else region.mask2
            masks1.append(resized(region.mask, H, H))
            masks2.append(resized(mask2, H, H))
            cells.append(torch.from_numpy(resized(region.mask, *grid_of(region.image))))  # [gh, gw] bool
        pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # [N, 3, R, R] uint8
        return RegionBatch(
            ids=[region.id for region in samples],
            captions=[region.caption for region in samples],
            tiles=pictures,
            tile_counts=[1] * len(images),
            grids=grids,
            sam_pictures=pictures,
            view1=torch.tensor(view1),
            view2=torch.tensor(view2),
            cells=cells,
            mask1=torch.from_numpy(np.stack(masks1)),
            mask2=torch.from_numpy(np.stack(masks2)),
            categories=[region.category for region in samples],
            extra=[region.extra for region in samples],
        )


class TinyModel(nn.Module):
    """A ``Model`` whose tokens are letters. Three trained groups: ``projector``, ``language``, ``decoder``."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.preparation: Preparation = TinyPreparation()
        self.ordinary_tokens, self.pad_token = torch.arange(FIRST, V), PAD
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("table", torch.randn(V, D, generator=draw))
        self.projector, self.language = nn.Linear(3, D), nn.Linear(D, D)
        self.hidden, self.pixels = nn.Linear(D, D2), nn.Linear(3, D2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)

    def trainable(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        modules = {"projector": [self.projector], "language": [self.language], "decoder": [self.hidden, self.pixels]}
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return {group: [(names[id(p)], p) for module in members for p in module.parameters()] for group, members in modules.items()}

    @contextmanager
    def computing(self, training: bool, precision: Precision = "auto") -> Iterator[None]:
        """In float32, whatever is asked for: there is nothing to save."""
        modes = {module: module.training for module in self.modules()}
        self.train(training)
        try:
            with torch.set_grad_enabled(training):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def encode(self, batch: RegionBatch) -> Tensor:
        return batch.sam_pictures.float() / 255  # [N, 3, R, R]

    def tokenize(self, texts: Sequence[str], length: int) -> Tokens:
        return rows([([*spell(text), END])[:length] for text in texts])

    def phrases(self, texts: Sequence[str], length: int) -> Tokens:
        return rows([spell(" " + text)[:length] for text in texts])

    def decode(self, tokens: Tokens) -> list[str]:
        real = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
        return ["".join(LETTERS[i - FIRST] for i in row if i >= FIRST) for row in real]

    def embed(self, ids: Tensor) -> Tensor:
        return self.embedding()[ids]

    def embedding(self) -> Tensor:
        return self.get_buffer("table")

    def head(self) -> tuple[Tensor, Tensor | None]:
        return self.embedding(), None

    @torch.no_grad()
    def generate(self, vision: Tensor, view: Tensor, cells: Sequence[Tensor], length: int) -> Tokens:
        B = len(view)
        ids, mask = torch.full((B, length), PAD), torch.zeros(B, length, dtype=torch.bool)
        alive = torch.ones(B, dtype=torch.bool)
        for t in range(length):
            states = self.caption_states(vision, view, cells, Tokens(ids, mask))[:, t]  # [B, D]
            ids[:, t] = F.linear(states, self.embedding()).argmax(1)
            alive = alive & (ids[:, t] != END)  # the turn's end is no part of the caption
            mask[:, t] = alive
        return Tokens(torch.where(mask, ids, PAD), mask)

    def caption_states(
        self, vision: Tensor, view: Tensor, cells: Sequence[Tensor], captions: Tokens, gate: Sequence[Tensor] | None = None
    ) -> Tensor:
        share = cells if gate is None else [chosen * weight for chosen, weight in zip(cells, gate, strict=True)]  # B of [gh, gw]
        seen = []
        for picture, chosen, weight in zip(vision[view], cells, share, strict=True):
            grid = F.adaptive_avg_pool2d(picture, (chosen.shape[0], chosen.shape[1])).flatten(1).mT  # [gh * gw, 3]
            seen.append((self.projector(grid) * weight.float().flatten()[:, None]).sum(0) / chosen.sum().clamp_min(1))  # [D]
        region = torch.stack(seen)[:, None]  # [B, 1, D]
        before = F.pad(self.embed(captions.ids), (0, 0, 1, 0))[:, :-1]  # [B, T, D], the token before each
        place = torch.arange(1, before.shape[1] + 1)[:, None]  # [T, 1]
        return torch.tanh(self.language(region + before.cumsum(1) / place))  # [B, T, D]

    def region_tokens(self, vision: Tensor, view: Tensor, cells: Sequence[Tensor]) -> list[Tensor]:
        tokens = []
        for picture, chosen in zip(vision[view], cells, strict=True):
            grid = F.adaptive_avg_pool2d(picture, (chosen.shape[0], chosen.shape[1])).flatten(1).mT  # [gh * gw, 3]
            tokens.append(self.projector(grid[chosen.flatten()]))  # [n, D]
        return tokens

    def wording(self, samples: Sequence[str], noise: Noise | None) -> Wording:
        forms = ["find", "please find"]
        drawn = [int(torch.randint(2, (1,), generator=noise.generator(sample, "wording"))) if noise else 0 for sample in samples]
        B = len(samples)
        return Wording([forms[i] for i in drawn], [""] * B, rows([[*spell("it is "), SEG, END]] * B))

    def segment(self, vision: Tensor, view: Tensor, text: Tensor, text_mask: Tensor, wording: Wording) -> Segmentation:
        real = text_mask[..., None].float()  # [B, T, 1]
        asked = (text * real).sum(1) / real.sum(1).clamp_min(1)  # [B, D]
        opening = torch.stack([self.embed(torch.tensor(spell(before))).mean(0) for before in wording.before])  # [B, D]
        seen = self.projector(vision[view].mean((2, 3)))  # [B, D]
        before = F.pad(self.embed(wording.answers.ids), (0, 0, 1, 0))[:, :-1]  # [B, A, D]
        states = torch.tanh(self.language((asked + opening + seen)[:, None] + before))  # [B, A, D]
        at_seg = (wording.answers.ids == SEG).int().argmax(1)  # [B]
        embedding = self.seg_embedding(states[torch.arange(len(view)), at_seg])  # [B, D2]
        return Segmentation(self.masks(vision, view, embedding), states, embedding)

    def seg_embedding(self, states: Tensor) -> Tensor:
        return self.hidden(states)

    def masks(self, vision: Tensor, view: Tensor, embedding: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(vision[view], H)  # [B, 3, H, H]
        return torch.einsum("bdhw,bd->bhw", self.pixels(small.movedim(1, 3)).movedim(3, 1), embedding)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        if folder.exists():
            raise UserError(f"{folder} exists already; choose another folder.")
        folder.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "model.safetensors")

    @torch.no_grad()
    def predict(self, image: np.ndarray, phrases: Sequence[str], max_new_tokens: int) -> list[Prediction]:
        vision = torch.from_numpy(resized(image, R, R).copy()).permute(2, 0, 1)[None].float() / 255  # [1, 3, R, R]
        made = []
        for phrase in phrases:
            asked = self.phrases([phrase], max_new_tokens)
            logits = self.segment(vision, torch.zeros(1, dtype=torch.int64), self.embed(asked.ids), asked.mask, self.wording([""], None))
            big = F.interpolate(logits.mask_logits[:, None], image.shape[:2], mode="bilinear")[0, 0]  # [H, W]
            made.append(Prediction("it is [SEG]", (big > 0).numpy()))
        return made


def spell(text: str) -> list[int]:
    """Ids of the letters of a text; other signs are left out."""
    return [FIRST + LETTERS.index(letter) for letter in text.lower() if letter in LETTERS]


def rows(lists: Sequence[Sequence[int]]) -> Tokens:
    """Right-padded tokens; at least one column."""
    width = max(1, *map(len, lists))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in lists])  # [B, T]
    return Tokens(ids, torch.tensor([[i < len(row) for i in range(width)] for row in lists]))


def regions(count: int = 3, side: int = 24) -> list[Region]:
    """Made-up described regions with a second view, each of its own picture."""
    draw = np.random.default_rng(0)
    made = []
    for i in range(count):
        image, image2 = draw.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        mask = np.zeros((side, side), dtype=bool)
        mask[i : i + 12, 2 : 14 + i] = True
        made.append(Region(f"region-{i}", image, mask, f"a {['red', 'green', 'blue'][i % 3]} square", image2, mask[::-1].copy()))
    return made
