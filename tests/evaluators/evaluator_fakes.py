"""A data set and a model small enough to compute every metric by hand."""

from __future__ import annotations

import numpy as np
import torch

from core.contracts import BadSample, Prediction, Region, RegionBatch, Tokens


def square(size: int, side: int = 8) -> np.ndarray:
    """[side, side] bool with ``size`` pixels set, row by row."""
    mask = np.zeros(side * side, dtype=bool)
    mask[:size] = True
    return mask.reshape(side, side)


def region(number: int, size: int, caption: str | None) -> Region:
    return Region(f"r{number}", np.full((8, 8, 3), number, dtype=np.uint8), square(size), caption)


class ListData:
    """Regions and errors from a list; ``groups`` adds the optional ``images()``."""

    def __init__(self, items, groups=None):
        self.items = items
        if groups is not None:
            self.images = lambda: groups

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], BadSample):
            raise self.items[index]
        return self.items[index]


class Fake:
    def computing(self, training, precision="auto"):
        return torch.set_grad_enabled(training)


class Segmenter(Fake):
    """Answers "<n>" with a mask of the first n pixels and "none" without a mask; remembers how it was asked."""

    def __init__(self):
        self.calls = []

    def predict(self, image, phrases, max_new_tokens):
        self.calls.append((int(image[0, 0, 0]), list(phrases), max_new_tokens))
        return [Prediction("no" if p == "none" else "it is [SEG]", None if p == "none" else square(int(p))) for p in phrases]


class Preparation:
    def __call__(self, region, needs=frozenset()):
        if "caption" in needs and not region.caption:
            raise BadSample("no caption", region.id)
        if not region.mask.any():
            raise BadSample("empty mask", region.id)
        return region

    def collate(self, samples):
        n = len(samples)
        rows = torch.arange(n)
        cells = [torch.ones(2, 2, dtype=torch.bool)] * n
        small = torch.zeros(n, 2, 2, dtype=torch.bool)
        pictures = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
        ids, captions = [s.id for s in samples], [s.caption for s in samples]
        return RegionBatch(ids, captions, pictures, [1] * n, [(2, 2)] * n, pictures, rows, rows, cells, small, small)


class Speller(Fake):
    """Each letter a..h is a token (1..8), 0 ends the turn. Predicts the token after the one given in ``wrong`` wrongly as 'h'.

    Its states are one-hot times ``sharpness``, its output layer is the identity plus a bias of zeros.
    """

    sharpness = 2.0
    vocabulary = 9

    def __init__(self, wrong=frozenset(), says="abc"):
        self.preparation = Preparation()
        self.wrong, self.says, self.batches = wrong, says, []

    def head(self):
        return torch.eye(self.vocabulary), torch.zeros(self.vocabulary)

    def encode(self, batch):
        self.batches.append(len(batch))
        return batch

    def tokenize(self, texts, length):
        rows = [([ord(c) - 96 for c in text] + [0])[:length] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [8] * (width - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        return Tokens(ids, mask)

    def decode(self, tokens):
        rows = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
        return ["".join(chr(96 + i) for i in row if i) for row in rows]

    def generate(self, vision, view, cells, length):
        return self.tokenize([self.says] * len(view), length)

    def caption_states(self, vision, view, cells, captions, gate=None):
        said = captions.ids.clone()
        for token in self.wrong:
            said[captions.ids == token] = 8
        return torch.nn.functional.one_hot(said, self.vocabulary).float() * self.sharpness
