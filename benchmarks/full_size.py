"""The update at the published sizes on whatever GPU there is: python -m benchmarks.full_size 1B|4B [--batch 16] [--updates 2]

Random weights, random pictures: the arithmetic is that of the real job, its losses mean nothing. It prints where the time and the
memory of an update go, beside the figures that were counted without a GPU (benchmarks/counted.json, where it is there), and writes
the table and a trace of one update to --out. --tiny is a small model that a CPU can train.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.scaling import QWEN, published
from core.contracts import RegionBatch
from core.engine.drawing import MicroBatch
from core.engine.launch.devices import prepare
from core.engine.parallel.blocks import recompute
from core.engine.parallel.exchange import Alone
from core.engine.parallel.strategy import make_strategy
from core.engine.profile import Profile
from core.engine.surgery import Surgery
from core.engine.update import LoopSetup, Trainer
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora, trained_groups
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.prompts import INTERNVL
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.sizes import Sizes
from plugins.models.sa2va.text import Text
from plugins.optimizers.adamw import AdamW
from plugins.samplers.st_gumbel_topk import StGumbelTopk
from plugins.schedules.alternate import Alternate
from plugins.teachers.ema import Ema

SEED, TEMPLATE = 5, "qwen_chat"
WORDS = ["a", "large", "small", "red", "green", "blue", "circle", "square", "on", "the", "left", "right", "of", "two", "striped"]
COUNTED = Path(__file__).with_name("counted.json")


def build(args: argparse.Namespace) -> Sa2va:
    """The model on its device, frozen weights in bfloat16; it is never whole in the host's memory."""
    tokenizer = train_tokenizer([" ".join(WORDS)], 400, TEMPLATE)
    if args.tiny:
        sizes = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=2, sam_size=64, sam_width=32, hiera_width=8)
        config = published_config(sizes, len(tokenizer), tokenizer.eos_token_id, TEMPLATE)
    else:
        config = published(args.size, eos_token_id=tokenizer.eos_token_id)
    lora = Lora(r=args.rank, alpha=2 * args.rank, dropout=0.05)
    with torch.device("meta"):
        network = Network(parse_config(config))
    groups = trained_groups(PUBLISHED_GROUPS, lora)
    for name, parameter in network.named_parameters():  # as published weights are loaded
        parameter.data = parameter.data.to(torch.float32 if network.group_of(name) in groups else torch.bfloat16)
    _fill(network.to_empty(device=args.device))
    with torch.no_grad():  # captions shall have all their tokens: no end of turn
        network.llm.get_output_embeddings().weight[tokenizer.eos_token_id] = 0
    torch.manual_seed(SEED)
    return Sa2va(network, Text(tokenizer, TEMPLATE, INTERNVL, None), None, lora, PUBLISHED_GROUPS, 12).to(args.device).train()


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    torch.manual_seed(SEED)
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:  # norms and biases
            parameter.fill_(float(name.endswith("weight")))
        else:
            parameter.normal_(std=0.02)
    for module in network.modules():
        fresh = getattr(module, "rope_init_fn", None) or getattr(module, "compute_default_rope_parameters", None)
        if fresh and hasattr(module, "inv_freq"):  # the one buffer that is no zero
            module.inv_freq.copy_(_frequencies(module))
        else:
            for buffer in module.buffers(recurse=False):
                buffer.zero_()


def _frequencies(module: Any) -> torch.Tensor:
    """Of rotary embeddings, arXiv:2104.09864, with Qwen2's base."""
    count = module.inv_freq.numel()
    return 1e6 ** -(torch.arange(count, device=module.inv_freq.device) / count)


def pictures(model: Sa2va, args: argparse.Namespace) -> tuple[RegionBatch, RegionBatch]:
    """Noise in the sizes of real samples: pairs of frames for loop 1, one picture for each description in loop 2."""
    draw = torch.Generator().manual_seed(SEED)
    preparation, sizes, B = model.preparation, model.preparation.pictures, args.batch
    low, tiles = preparation.sam_size // 4, args.tiles
    batches = []
    for loop, views in (("one", 2), ("two", 1)):
        N = views * B
        captions = [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (args.tokens,), generator=draw)) for _ in range(B)]
        shape = (N * tiles, 3, sizes.tile, sizes.tile)
        table = (
            torch.randint(256, shape, dtype=torch.uint8, generator=draw),
            [tiles] * N,
            [(sizes.grid, sizes.grid)] * N,
            torch.randint(256, (N, 3, preparation.sam_size, preparation.sam_size), dtype=torch.uint8, generator=draw),
        )
        cells = list(torch.rand(B, sizes.grid, sizes.grid, generator=draw) < 0.125)
        masks = torch.rand(2, B, low, low, generator=draw) > 0.5
        first = torch.arange(B)
        batches.append(RegionBatch([f"{loop}{i}" for i in range(B)], list(captions), *table, first, first + B * (views - 1), cells, *masks))
    return batches[0], batches[1]


class Given:
    """A feed that gives the same micro-batches in every update."""

    def __init__(self, loop: str, batch: RegionBatch, times: int) -> None:
        self.micro = [MicroBatch(loop, [("task", batch)], Counter(), []) for _ in range(times)]

    def update(self) -> list[MicroBatch]:
        return self.micro


def trainer(model: Sa2va, args: argparse.Namespace) -> Trainer:
    """The update of recipes/dual_loop_8gpu.yaml on one process."""
    token, (one, two) = CaptionCe(), pictures(model, args)
    first = MaskCaptionMask(sampler=StGumbelTopk(k=args.k), losses={"mask": BceDice(), "answer": token}, caption_length=args.tokens)
    second = CaptionMaskCaption(losses={"caption": token, "answer": token}, caption_length=args.tokens)
    feeds: list[Any] = [Given("loop1", one, args.accumulate), Given("loop2", two, args.accumulate)]
    loops = {"loop1": LoopSetup("loop1", 1.0, {"task": first}, feeds[0]), "loop2": LoopSetup("loop2", 0.5, {"task": second}, feeds[1])}
    teacher, groups = Ema(decay=0.999), model.trainable()
    teacher.start(groups)
    optimizer, rate = AdamW(lr=2e-5).build(groups, 1000)
    strategy = make_strategy({"strategy": "single"}, groups, optimizer, 1.0, Alone(), len(loops))
    surgery, schedule = Surgery(PcgradOrthogonal(anchor="loop1"), SEED), Alternate(order=["loop1", "loop2"])
    return Trainer(model, loops, teacher, surgery, schedule, strategy, rate, SEED, args.device, "bf16", args.out)


class Untraced(Profile):
    """Without the update under torch's profiler, whose trace takes minutes to write at full size: waits are not counted then."""

    def _trace(self, number: int, measured: bool) -> dict[str, float]:
        return self._measure(number) if measured else self.trainer.update(number)

    def result(self) -> dict[str, Any]:
        return super().result() | {"traced_while_measured": False}


def token_seconds(model: Sa2va, batch: RegionBatch, short: int = 10, long: int = 74) -> float:
    """What one more token takes, of all regions at once: by two generations of different lengths, each after one that warms up."""
    seconds = []
    with torch.no_grad(), model.computing(training=False, precision="bf16"):
        vision = model.encode(batch)
        for length in (short, short, long):
            begun = time.perf_counter()
            model.generate(vision, batch.view1, batch.cells, length)  # its end waits for the tokens
            seconds.append(time.perf_counter() - begun)
    return (seconds[2] - seconds[1]) / (long - short)


def counted(args: argparse.Namespace) -> dict[str, Any]:
    """The row of ``counted.json`` with these settings, or {}."""
    changes = {"train.accumulate=1", f"train.batch_size={args.batch}", f"model.max_tiles={max(1, args.tiles - 1)}"}
    overrides = changes - {"train.batch_size=16", "model.max_tiles=12"}  # what the recipe has
    usual = (args.tokens, args.rank, args.keep_activations) == (256, 128, False)
    settings = {"size": "tiny" if args.tiny else args.size, "recipe": "dual_loop_8gpu"}
    rows = json.loads(COUNTED.read_text(encoding="utf-8")) if usual else []
    return next((row for row in rows if settings.items() <= row.items() and set(row["overrides"]) == overrides), {})


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=list(QWEN))
    numbers = {"batch": 16, "accumulate": 1, "tiles": 13, "tokens": 256, "rank": 128, "k": 512, "updates": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--keep-activations", action="store_true", help="without train.activation_checkpointing")
    parser.add_argument("--no-trace", action="store_true", help="no update under torch's profiler: no waits and no trace, but minutes less")
    parser.add_argument("--generation", action="store_true", help="also what one token of the teacher's captions takes")
    parser.add_argument("--tiny", action="store_true", help="a small model, for a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("full_size"), help="folder of the table and the trace (default: full_size)")
    args = parser.parse_args(given)
    args.tiles = 1 if args.tiny else args.tiles
    if args.device == "cpu" and not args.tiny:
        parser.error("the published sizes need a GPU, and torch sees none; --tiny runs on the CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(os.environ)  # the allocator's setting of a run
    model = build(args)
    if not args.keep_activations:
        recompute(model, Alone())
    run = trainer(model, args)
    kind, left = (Untraced, args.updates + 1) if args.no_trace else (Profile, args.updates + 2)
    profile = kind(run, args.updates, left, args.out)
    for number in range(left):
        profile.update(number)
    settings = ", ".join(f"{name} {getattr(args, name)}" for name in numbers)
    print(f"{'tiny' if args.tiny else args.size}: {settings}, activations {'kept' if args.keep_activations else 'computed again'}")
    row = counted(args)
    print(profile.write(row.get("phases", {})))
    print(f"counted without a GPU: peak {row['peak']:.1f} GiB" if row else f"these settings were not counted: {COUNTED}")
    if args.generation:
        print(f"a token of {args.batch} captions: {1000 * token_seconds(model, pictures(model, args)[0].to(args.device)):.2f} ms")
    print(f"{'table' if args.no_trace else 'trace and table'}: {args.out}")


if __name__ == "__main__":
    main()
