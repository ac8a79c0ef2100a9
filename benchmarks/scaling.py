"""A model of the update's time and traffic from 8 to 512 GPUs: python benchmarks/scaling.py

Counted here, on the real sizes without their weights: trained and frozen parameters, the products of one forward and
backward pass, the bytes of the reduction. Measured on one H200 (docs/performance.md): at which rate these products are made, and the
time of a generated token. Assumed, and options of this script: what the links achieve, and how long a sequence is. docs/scaling.md
says what follows from it. Memory is not part of it: python -m core.check RECIPE --card GB.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.training import add_lora, choose_trained

VOCABULARY = 151674
VISION = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "image_size": 448}
VISION |= {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
QWEN = {
    "1B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864},
    "4B": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008},
}
MEASURED = {"1B": (262.0, 3.9), "4B": (353.0, 7.5)}  # TF/s over a whole update but for the tokens; ms for a token of 16 samples
WORLDS = (8, 16, 32, 64, 128, 256, 512)
ASSUMED = {
    "tflops": (0.0, "TF/s that bf16 products achieve, with all that is between them (0: as measured)"),
    "token-ms": (0.0, "milliseconds for a token that the teacher writes for all samples at once (0: as measured)"),
    "memory-tb": (2.3, "TB/s at which one GPU reads and writes what the optimizer moves (70 % of an H100's 3.35)"),
    "inside": (300.0, "GB/s of a ring inside a node of 8 (NVLink)"),
    "outside": (40.0, "GB/s for each GPU between nodes (one 400 Gb/s adapter for each at 80 %)"),
    "latency": (20.0, "microseconds for each step of a reduction between nodes"),
    "numbers": (2.0, "milliseconds for each exchange of counts and losses over gloo, times log2 of the nodes"),
    "tiles": (7.0, "tiles of a picture, thumbnail included, 256 tokens each"),
    "text": (120.0, "prompt tokens: the request and the region's cells"),
    "straggling": (0.05, "share of the update that ranks wait for the longest sequences among 8; grows with log2 of the world"),
}
BATCH, ACCUMULATE, TOKENS, LOOPS = 16, 2, 256, 2
TOGETHER = 32  # samples that the teacher describes at once


@dataclass(frozen=True)
class Counted:
    """What one size is, counted on its modules."""

    trained: int  # parameters, float32
    tensors: int  # trained ones
    frozen: int  # parameters, bf16
    tile: float  # operations of one tile through InternViT
    picture: float  # operations of one picture through SAM2's encoder
    forward: float  # operations of a sequence of pictures and texts through the language model
    both: float  # the same with the backward pass
    head: float  # operations of T states through the output layer


def published(size: str, **llm: int) -> dict[str, Any]:
    """The config.json of a published size, with other keys of its language model."""
    sizes = {**QWEN[size], "vocab_size": VOCABULARY, **llm}
    return {"llm_config": sizes, "vision_config": VISION, "force_image_size": 448, "ps_version": "v2", "template": "qwen_chat"}


def count(size: str, length: int) -> Counted:
    llm = QWEN[size]
    with torch.device("meta"):
        network = Network(parse_config(published(size))).bfloat16()
        add_lora(network, Lora())
        trained = [p for members in choose_trained(network, PUBLISHED_GROUPS).values() for _, p in members]
        numbers, tensors = sum(p.numel() for p in trained), len(trained)
        frozen = sum(p.numel() for p in network.parameters()) - numbers
        for parameter in trained:  # one precision: only shapes count from here
            parameter.data = parameter.data.bfloat16()
        tile = products(lambda: network.vision(torch.zeros(1, 3, 448, 448, dtype=torch.bfloat16)))
        picture = products(lambda: network.sam2.vision_encoder(torch.zeros(1, 3, 1024, 1024, dtype=torch.bfloat16)))
        embeds = torch.zeros(1, length, llm["hidden_size"], dtype=torch.bfloat16)
        read = {"inputs_embeds": embeds, "attention_mask": {"full_attention": None}, "use_cache": False}  # no mask: a look at values
        forward = products(lambda: network.llm.model(**read))
        embeds.requires_grad_()
        both = products(lambda: network.llm.model(**read).last_hidden_state.sum().backward())
    return Counted(numbers, tensors, frozen, tile, picture, forward, both, 2.0 * TOKENS * VOCABULARY * llm["hidden_size"])


def products(run: object) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def report(size: str, given: argparse.Namespace) -> None:
    length = int(given.tiles * 256 + given.text + TOKENS)
    one, samples = count(size, length), BATCH * ACCUMULATE
    rate, token = MEASURED[size]
    rate, token = (given.tflops or rate) * 1e12, (given.token_ms or token) / 1e3
    # loop 1 on pairs of frames: two pictures for the language model, one for SAM2, and the first once more for the teacher; loop 2: one
    operations = {
        "pictures": samples * (4 * given.tiles * one.tile + 2 * one.picture),
        "teacher, prompt": samples * one.forward,
        "forward and backward, 4": samples * 4 * (one.both + one.forward),  # train.activation_checkpointing: forward again
        "output layer": samples * (1 + 2) * one.head,  # the sampler's forward; a loss's forward and backward
    }
    seconds = {name: value / rate for name, value in operations.items()}
    seconds["teacher, tokens"] = -(-samples // TOGETHER) * TOKENS * token
    # optimizer, teacher, surgery: gradients, weights, two moments and the shadow, read and written
    seconds["surgery, step, teacher"] = one.trained * 4 * (3 * LOOPS + 10) / (given.memory_tb * 1e12)
    work = sum(seconds.values())
    print(f"\n{size}: {one.frozen / 1e9:.2f} G frozen, {one.trained / 1e6:.1f} M trained in {one.tensors} tensors, sequences of {length}")
    for name, value in seconds.items():
        print(f"  {name:26}{value:8.3f} s{value / work:8.1%}")
    message = LOOPS * (one.trained + one.tensors) * 4
    print(f"  reduced in an update: {message / 2**20:.0f} MiB; {rate / 1e12:.0f} TF/s, {1e3 * token:.1f} ms a token")
    heads = ("GPUs", "samples", "reduce s", "wait s", "update s", "efficiency", "samples/s", "Adam MiB", "GB sent")
    print("  " + "".join(f"{head:>11}" for head in heads))
    first = 0.0
    for world in WORLDS:
        nodes = world // 8
        reduce = 2 * 7 / 8 * message / (given.inside * 1e9)
        if nodes > 1:  # within nodes to an eighth, between nodes, back
            reduce += 2 * (nodes - 1) / nodes * message / 8 / (given.outside * 1e9) + 2 * (nodes - 1) * given.latency * 1e-6
        levels = nodes.bit_length() - 1
        exchange = 2 * LOOPS * given.numbers * 1e-3 * max(1, levels)
        wait = work * given.straggling * (world.bit_length() - 1) / 3 + exchange
        update = work + reduce + wait
        first = first or update
        share, sent = 8 * one.trained / world / 2**20, 2 * (world - 1) / world * message / 1e9
        numbers = (f"{world}", f"{world * samples * LOOPS}", f"{reduce:.4f}", f"{wait:.3f}", f"{update:.3f}", f"{first / update:.1%}")
        print("  " + "".join(f"{n:>11}" for n in (*numbers, f"{world * samples * LOOPS / update:.0f}", f"{share:.1f}", f"{sent:.2f}")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (value, meaning) in ASSUMED.items():
        parser.add_argument(f"--{name}", type=float, default=value, help=meaning.replace("%", "%%") + f" (default {value})")
    given = parser.parse_args()
    print("assumed:")
    for name, (_, meaning) in ASSUMED.items():
        print(f"  {getattr(given, name.replace('-', '_')):8} {meaning}")
    for size in QWEN:
        report(size, given)


if __name__ == "__main__":
    main()
