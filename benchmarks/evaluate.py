"""Generation, with what it shares and without: OMP_NUM_THREADS=1 python benchmarks/evaluate.py

Referring: the phrases of each picture, their masks at the picture's size. Each way adds one thing to the one before it.
alone      each phrase by itself: picture encoded anew, batch 1, one token at a time
encoded    each phrase by itself, but each picture encoded once
batched    the phrases of a picture as one batch, each reading the whole prompt
shared     what the prompts begin with (the image tokens) read once
expected   the usual answers read with the prompt and taken as far as the model would write them: what ``predict`` does
Texts and pixels are compared with those of the first way.

Captions: a batch of regions of different pictures as the teacher describes them, all tokens written.
grown      transformers' DynamicCache, a copy of the cache for each token
static     transformers' StaticCache, attention over all of its places
buffered   plugins.models.sa2va.generation

The middle-sized model is untrained and wired so that it answers "Sure, it is [SEG]."; the other is assets/sa2va-shapes.
The ways take turns on the same weights in one process; seconds are those of the processor, the best of ``--repeats``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Cache, DynamicCache, StaticCache

from core.contracts import Prediction
from plugins.datasets.shapes.scene import draw
from plugins.datasets.shapes.world import corpus
from plugins.models.sa2va import ask, prompts
from plugins.models.sa2va.backend import Prompt
from plugins.models.sa2va.components import Sizes, load
from plugins.models.sa2va.generation import Generated, greedy
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.scratch import new_network
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.text import Text

SEED, TEMPLATE = 5, "qwen_chat"
ASSET = Path(__file__).parents[1] / "assets" / "sa2va-shapes"
Ended = Callable[[list[int]], bool]
Rows = list[tuple[str, float, str]]


def middle_sized(vocabulary: int) -> Sa2va:
    """256 image tokens, a language model 512 wide with 8 layers; each token of the answer is followed by the next."""
    sizes = Sizes(
        tile=448,
        patch=14,
        vision_width=384,
        vision_layers=6,
        llm_width=512,
        llm_layers=8,
        sam_size=512,
        sam_width=128,
        hiera_width=32,
        hiera_stages=[1, 2, 7, 2],
        hiera_global=[5, 7, 9],
        init_range=0.02,
    )
    tokenizer = train_tokenizer(corpus(200, SEED), 448, TEMPLATE)
    network = new_network(published_config(sizes, vocabulary, tokenizer.eos_token_id, TEMPLATE), sizes.init_range, SEED)
    text = Text(tokenizer, TEMPLATE, prompts.INTERNVL, None)
    chain = [text.ids(text.turn.between)[-1], *text.ids(prompts.ANSWERS[0] + text.turn.end)]
    with torch.no_grad():
        words, head = network.llm.model.embed_tokens.weight, network.llm.lm_head.weight
        for before, after in itertools.pairwise(chain):
            head[after] = words[before] / words[before].norm()
    return Sa2va(network, text, None, None, ["projector"], 1).eval()


@torch.no_grad()
def plain(backend: Any, prompts: Sequence[Prompt], length: int, ended: Ended, expected: Any = (), make: Any = None) -> Generated:
    """Greedy decoding with nothing shared: one token of each row in each forward, with the cache that ``make(places)`` gives."""
    batch, longest = len(prompts), max(map(len, prompts))
    embeds = torch.stack([F.pad(p.embeddings, (0, 0, longest - len(p), 0)) for p in prompts])  # [B, L, D]
    real = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])  # [B, L]
    positions = (real.cumsum(1) - 1).clamp_min(0)
    cache: Cache = make(longest + length) if make else DynamicCache(config=backend.config.llm)
    ids: list[list[int]] = [[] for _ in prompts]
    running, states = [True] * batch, []
    for step in range(length):
        output = backend.llm.model(inputs_embeds=embeds, attention_mask=real, position_ids=positions, past_key_values=cache, use_cache=True)
        last = output.last_hidden_state[:, -1]  # [B, D]
        if step:
            states.append(last)
        token = backend.head(last).argmax(-1)  # [B]
        for row, value in enumerate(token.tolist()):
            if running[row]:
                ids[row].append(value)
                running[row] = not ended(ids[row])
        if not any(running):
            break
        embeds = backend.embed(token)[:, None]  # [B, 1, D]
        real = torch.cat([real, real.new_ones(batch, 1)], dim=1)
        positions = positions[:, -1:] + 1
    return Generated(ids, list(torch.stack(states, dim=1)))


def unexpected(backend: Any, heads: Sequence[Prompt], length: int, ended: Ended, expected: Any = ()) -> Generated:
    return greedy(backend, heads, length, ended)


def alone(model: Sa2va, image: np.ndarray, phrases: list[str]) -> list[Prediction]:
    with patch.object(ask, "greedy", plain):
        return [model.predict(image, [phrase], 32)[0] for phrase in phrases]


def encoded(model: Sa2va, image: np.ndarray, phrases: list[str]) -> list[Prediction]:
    vision = model.look(image)
    with patch.object(model, "look", lambda _: vision):
        return alone(model, image, phrases)


def batched(model: Sa2va, image: np.ndarray, phrases: list[str]) -> list[Prediction]:
    with patch.object(ask, "greedy", plain):
        return model.predict(image, phrases, 32)


def shared(model: Sa2va, image: np.ndarray, phrases: list[str]) -> list[Prediction]:
    with patch.object(ask, "greedy", unexpected):
        return model.predict(image, phrases, 32)


def expected(model: Sa2va, image: np.ndarray, phrases: list[str]) -> list[Prediction]:
    return model.predict(image, phrases, 32)


def turns(ways: Sequence[Callable[[], Any]], repeats: int) -> tuple[list[float], list[Any]]:
    """Best seconds and first result of each way; the ways take turns."""
    results, best = [way() for way in ways], [float("inf")] * len(ways)  # the first run warms up
    for _ in range(repeats):
        for number, way in enumerate(ways):
            start = time.process_time()
            way()
            best[number] = min(best[number], time.process_time() - start)
    return best, results


def referring(model: Sa2va, name: str, size: int, args: argparse.Namespace) -> None:
    pictures = [draw((SEED, number), size).images[0] for number in range(args.pictures)]
    lines = [line.strip() for line in corpus(200, SEED)]
    phrases = [lines[number * args.phrases : (number + 1) * args.phrases] for number in range(args.pictures)]
    ways = (alone, encoded, batched, shared, expected)

    def run(way: Callable[[Sa2va, np.ndarray, list[str]], list[Prediction]]) -> list[Prediction]:
        return [one for image, texts in zip(pictures, phrases, strict=True) for one in way(model, image, texts)]

    seconds, found = turns([lambda way=way: run(way) for way in ways], args.repeats)
    count, truth = args.pictures * args.phrases, found[0]
    pixels = size * size * sum(one.mask is not None for one in truth)
    print(f"\nreferring, {name}: {args.pictures} pictures x {args.phrases} phrases, e.g. {phrases[0][0]!r}: {truth[0].text!r}")
    print(f"{'way':10}{'phrases/s':>11}{'x alone':>9}{'other texts':>13}{'other pixels':>14} of {pixels}")
    for way, best, result in zip(ways, seconds, found, strict=True):
        texts, other = differences(truth, result)
        print(f"{way.__name__:10}{count / best:11.2f}{seconds[0] / best:9.2f}{texts:13}{other:14}")
    if any(differences(truth, result)[1] for result in found):  # the masks of an untrained model have pixels that rounding decides
        model.network.double()
        texts, other = differences(run(alone), run(expected))
        print(f"in float64, expected against alone: {texts} other texts, {other} other pixels")


def differences(truth: list[Prediction], result: list[Prediction]) -> tuple[int, int]:
    """Texts and pixels that are not the same."""
    texts = sum(a.text != b.text for a, b in zip(truth, result, strict=True))
    masks = [[np.zeros(1) if one.mask is None else one.mask for one in given] for given in (truth, result)]
    return texts, sum(int((a != b).sum()) for a, b in zip(*masks, strict=True))


def captions(model: Sa2va, dtype: torch.dtype, args: argparse.Namespace) -> None:
    backend, config = model.network.backend, model.network.config.backend.llm
    for parameter in model.network.parameters():
        parameter.data = parameter.data.to(dtype)
    lengths = torch.randint(300, 380, (args.batch,), generator=torch.Generator().manual_seed(SEED)).tolist()
    noise = torch.Generator().manual_seed(SEED)
    embedded = [(0.3 * torch.randn(length, config.hidden_size, generator=noise)).to(dtype) for length in lengths]
    heads = [Prompt(each, torch.arange(len(each))[None]) for each in embedded]

    def never(ids: list[int]) -> bool:
        return False

    ways: dict[str, Callable[[], Generated]] = {
        "grown": lambda: plain(backend, heads, args.tokens, never),
        "static": lambda: plain(backend, heads, args.tokens, never, (), lambda places: StaticCache(config=config, max_cache_len=places)),
        "buffered": lambda: greedy(backend, heads, args.tokens, never),
    }
    seconds, found = turns(list(ways.values()), args.repeats)
    weight, state = backend.head.weight, torch.randn(args.batch, config.hidden_size).to(dtype)
    [head], _ = turns([lambda: [torch.nn.functional.linear(state, weight) for _ in range(args.tokens)]], args.repeats)
    print(f"\ncaptions, {dtype}: B {args.batch} T {args.tokens}, prompts {min(lengths)} to {max(lengths)}; output layer alone {head:.2f} s")
    print(f"{'way':10}{'seconds':>9}{'x grown':>9}{'other tokens':>14} of {args.batch * args.tokens}")
    for name, best, result in zip(ways, seconds, found, strict=True):
        other = sum(a != b for one, two in zip(found[0].ids, result.ids, strict=True) for a, b in zip(one, two, strict=True))
        print(f"{name:10}{best:9.2f}{seconds[0] / best:9.2f}{other:14}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocab", 151674), ("pictures", 3), ("phrases", 5), ("batch", 4), ("tokens", 128), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-bf16", action="store_true", help="leave bfloat16 out: for a processor without such products")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    model = middle_sized(args.vocab)
    referring(model, f"448-pixel tiles, D 512, 8 layers, V {args.vocab}", 480, args)
    referring(load(checkpoint=ASSET, max_tiles=1).eval(), "assets/sa2va-shapes", 128, args)
    for dtype in (torch.float32,) if args.no_bf16 else (torch.float32, torch.bfloat16):
        captions(model, dtype, args)


if __name__ == "__main__":
    main()
