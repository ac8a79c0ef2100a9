"""The whole dual update, the toolkit's and the straightforward one: OMP_NUM_THREADS=1 python benchmarks/dual_update.py

plain   benchmarks/straightforward.py: full [B, T, V] logits, a deep-copied teacher, pictures encoded for each forward, cloned gradients
ours    core.engine's update with the loops, sampler, losses and teacher of the plugins, in float32
bf16    the same with the frozen weights in bfloat16, trained ones in float32

Each way runs in a process of its own on the same weights, pictures and noise: the losses and gradients of the first update
beside the plain way's, then the best time of ``--repeats``. At full size some tokens are so nearly as likely that rounding
decides between them; whether both ways are one method is seen in the small size, which comes first. Seconds are those of
the processor, so that other programs on the machine count little. Memory is what the updates add to the resident set of
the process that holds the loaded model. Then the time of each phase of our update beside that of its matrix products at
the machine's own measured rate.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from sampler import _peak, _reset_peak
from straightforward import Straightforward
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import core.engine.parallel.strategy as strategy_module
from core.contracts import RegionBatch
from core.engine.drawing import MicroBatch
from core.engine.parallel.exchange import Alone
from core.engine.parallel.strategy import make_strategy
from core.engine.surgery import Surgery
from core.engine.update import LoopSetup, Trainer
from plugins.gradient_ops.pcgrad_orthogonal import PcgradOrthogonal
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.components import Sizes
from plugins.models.sa2va.groups import Lora
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.prompts import INTERNVL
from plugins.models.sa2va.published.scratch import new_network
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.scratch_tokenizer import train_tokenizer
from plugins.models.sa2va.text import Text
from plugins.optimizers.adamw import AdamW
from plugins.samplers.st_gumbel_topk import StGumbelTopk
from plugins.schedules.alternate import Alternate
from plugins.teachers.ema import Ema

SEED, TEMPLATE = 5, "qwen_chat"
SMALL = {"vocab": 5000, "dim": 64, "layers": 2, "batch": 2, "tokens": 16, "k": 64, "repeats": 1}
WORDS = ["a", "large", "small", "red", "green", "blue", "circle", "square", "on", "the", "left", "right", "of", "two", "striped"]


def build(args: argparse.Namespace, dtype: torch.dtype) -> Sa2va:
    """A model of ``args.dim`` and ``args.layers`` with a vocabulary of ``args.vocab``; the same weights in every process."""
    sizes = Sizes(llm_width=args.dim, llm_layers=args.layers, tile=256, patch=16, vision_width=256, vision_layers=4)
    tokenizer = train_tokenizer([" ".join(WORDS)], 400, TEMPLATE)
    config = published_config(sizes, args.vocab, tokenizer.eos_token_id, TEMPLATE)
    network = new_network(config, 0.02, SEED)
    with torch.no_grad():  # every way shall write all its tokens: no end of turn
        network.llm.lm_head.weight[tokenizer.eos_token_id] = 0
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    torch.manual_seed(SEED)
    model = Sa2va(network, Text(tokenizer, TEMPLATE, INTERNVL, None), None, Lora(r=16, alpha=32, dropout=0.0), None, 1).train()
    model.ordinary_tokens = torch.tensor([i for i in range(args.vocab) if i not in tokenizer.all_special_ids])  # not only those of WORDS
    with torch.no_grad():  # adapters start at zero, and half of their gradient with them
        for _, parameter in model.trainable()["lora"]:
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return model


def pictures(model: Sa2va, args: argparse.Namespace) -> tuple[RegionBatch, RegionBatch]:
    """Noise pictures for both loops: pairs of frames for loop 1, one picture for each description in loop 2."""
    draw = torch.Generator().manual_seed(SEED)
    preparation, sizes, B = model.preparation, model.preparation.pictures, args.batch
    batches = []
    for loop, views in (("one", 2), ("two", 1)):
        low = preparation.sam_size // 4
        masks = torch.rand(2, B, low, low, generator=draw) > 0.5
        captions = [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (args.tokens,), generator=draw)) for _ in range(B)]
        tiles = torch.randint(256, (views * B, 3, sizes.tile, sizes.tile), dtype=torch.uint8, generator=draw)
        sam = torch.randint(256, (views * B, 3, preparation.sam_size, preparation.sam_size), dtype=torch.uint8, generator=draw)
        cells = list(torch.rand(B, sizes.grid, sizes.grid, generator=draw) < 0.25)
        first = torch.arange(B)
        ids = [f"{loop}{i}" for i in range(B)]
        table = (tiles, [1] * len(tiles), [(sizes.grid, sizes.grid)] * len(tiles), sam)
        batches.append(RegionBatch(ids, list(captions), *table, first, first + B * (views - 1), cells, *masks))
    return batches[0], batches[1]


class Given:
    """A feed that gives one batch in every update."""

    def __init__(self, task: str, batch: RegionBatch) -> None:
        self.micro = MicroBatch("", [(task, batch)], Counter(), [])

    def update(self) -> list[MicroBatch]:
        return [self.micro]


def trainer(model: Sa2va, batches: tuple[RegionBatch, RegionBatch], args: argparse.Namespace, precision: str) -> Trainer:
    """The toolkit's update, as a recipe would build it."""
    token = CaptionCe()
    one = MaskCaptionMask(sampler=StGumbelTopk(k=args.k), losses={"mask": BceDice(), "answer": token}, caption_length=args.tokens)
    two = CaptionMaskCaption(losses={"caption": token, "answer": token}, caption_length=args.tokens)
    feeds: list[Any] = [Given("one", batches[0]), Given("two", batches[1])]
    loops = {"loop1": LoopSetup("loop1", 1.0, {"one": one}, feeds[0]), "loop2": LoopSetup("loop2", 0.5, {"two": two}, feeds[1])}
    teacher, groups = Ema(decay=0.999), model.trainable()
    teacher.start(groups)
    optimizer, rate = AdamW(lr=2e-5).build(groups, 1000)
    op, schedule = PcgradOrthogonal(anchor="loop1"), Alternate(order=["loop1", "loop2"])
    strategy = make_strategy({"strategy": "single"}, groups, optimizer, 1.0, Alone(), len(loops))
    return Trainer(model, loops, teacher, Surgery(op, SEED), schedule, strategy, rate, SEED, "cpu", precision, Path("."))


Phases = dict[str, float]


def packed_flops(rows: list[int], *given: Any, out_shape: list[int], **named: Any) -> int:
    """Of a product with a packed matrix or one in 8 bits, which the counter does not know."""
    return 2 * rows[0] * rows[1] * out_shape[1]


PACKED = dict.fromkeys((torch.ops.mkldnn._linear_pointwise, torch.ops.aten._weight_int8pack_mm), packed_flops)


class Clock:
    """Adds what ``read`` counts to the phase that is on."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read, self.phase, self.last = read, "rest", read()
        self.phases: Phases = {}

    def at(self, phase: str) -> str:
        """From now on in ``phase``; returns the one before."""
        now = self.read()
        self.phases[self.phase] = self.phases.get(self.phase, 0.0) + now - self.last
        before, self.phase, self.last = self.phase, phase, now
        return before

    def around(self, phase: str, call: Callable[..., Any], after: str = "") -> Callable[..., Any]:
        """``call`` in a phase of its own; afterwards ``after``, or what was on before."""

        def timed(*given: Any, **named: Any) -> Any:
            before = self.at(phase)
            result = call(*given, **named)
            self.at(after or before)
            return result

        return timed


def watch(run: Trainer, clock: Clock) -> None:
    """Puts the clock on the update's parts; backward is told apart where it passes the sampler."""
    model, teacher, one = run.model, run.teacher, run.loops["loop1"].tasks["one"]
    assert isinstance(model, Sa2va)
    assert isinstance(teacher, Ema)
    assert isinstance(one, MaskCaptionMask)
    gradients, sampler, weights, network = run._gradients, one.sampler, teacher.weights, model.network

    def loop(setup: LoopSetup, *given: Any) -> Any:
        clock.at("first forward" if setup.name == "loop1" else "loop 2")
        result = gradients(setup, *given)
        clock.at("rest")
        return result

    def sample(states: Tensor, *given: Any) -> Any:
        clock.at("sampler")
        states.register_hook(lambda grad: clock.at("first forward") and None)
        text, seen = sampler(states, *given)
        text.register_hook(lambda grad: clock.at("sampler") and None)
        clock.at("second forward")
        return text, seen

    @contextmanager
    def teaching() -> Iterator[None]:
        clock.at("teacher")
        with weights():
            yield
        clock.at("first forward")

    network.backend.tile_features = clock.around("pictures", network.backend.tile_features)
    network.sam_features = clock.around("pictures", network.sam_features)
    run._gradients, one.sampler, teacher.weights = loop, sample, teaching
    teacher.update = clock.around("EMA", teacher.update)
    run.strategy.gram = clock.around("surgery", run.strategy.gram)
    strategy_module.combine = clock.around("surgery", strategy_module.combine)
    run.surgery.op.weights = clock.around("surgery", run.surgery.op.weights)
    run.strategy.step = clock.around("optimizer", run.strategy.step)


def measure(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an update, MiB, losses and gradients of the first one and, of ours, seconds and products of each phase."""
    half = way == "bf16"
    model = build(args, torch.bfloat16 if half else torch.float32)
    batches = pictures(model, args)
    gemm_rate(torch.float32, 256)  # libraries allocate their workspaces
    result: dict[str, Any] = {"model": sum(p.nbytes for p in model.parameters()) / 2**20}
    before = _reset_peak(False)
    if way == "plain":
        plain = Straightforward(model, batches, args.k, args.tokens, SEED)
        result["losses"] = plain.update(0)
        result["gradients"] = [torch.cat([g.flatten() for g in loop]).numpy() for loop in plain.gradients]
        update: Callable[[int], Any] = plain.update
    else:
        run = trainer(model, batches, args, "bf16" if half else "fp32")
        reduce = run.strategy.reduce
        run.strategy.reduce = lambda gradients: result.update(gradients=[g.whole.numpy().copy() for g in gradients])
        values = run.update(0)
        result["losses"] = (values["loop1/loss"], values["loop2/loss"])
        run.strategy.reduce = reduce
        update = run.update
    result["memory"] = _peak(False) - before
    seconds = []
    for number in range(1, args.repeats + 1):
        start = time.process_time()
        update(number)
        seconds.append(time.process_time() - start)
    result["seconds"] = min(seconds)
    if way != "plain":
        clock = Clock(time.process_time)
        watch(run, clock)
        update(args.repeats + 1)
        clock.at("rest")
        result["phases"] = clock.phases
        with FlopCounterMode(display=False, custom_mapping=PACKED) as counter:
            clock.phases, clock.read = {}, lambda: float(counter.get_total_flops())
            clock.last = 0.0
            update(args.repeats + 1)
            clock.at("rest")
        result["products"] = clock.phases
        result["rate"] = gemm_rate(torch.bfloat16 if half else torch.float32, 2048)
        head = model.head()[0]
        result["reads"] = read_rate()
        result["head"] = args.tokens * head.nbytes / result["reads"]
    return result


def gemm_rate(dtype: torch.dtype, size: int) -> float:
    """The machine's best of five at a square product, in operations per second of the processor."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out, best = torch.empty(size, size, dtype=dtype), float("inf")
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, b, out=out)
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best


def read_rate() -> float:
    """Bytes per second of the processor at which a sum reads 256 MiB, the best of five."""
    numbers, best = torch.ones(2**26), float("inf")
    for _ in range(5):
        start = time.process_time()
        numbers.sum()
        best = min(best, time.process_time() - start)
    return numbers.nbytes / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("vocab", 151674), ("dim", 512), ("layers", 4), ("batch", 4), ("tokens", 128), ("k", 512), ("repeats", 3))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-bf16", action="store_true", help="leave bfloat16 out: for a processor without such products")
    args = parser.parse_args()
    ways = ("plain", "ours") if args.no_bf16 else ("plain", "ours", "bf16")
    print(f"processor: {processor()}")
    for name, value in (("small, where no two tokens are nearly as likely", SMALL), ("as asked", {})):
        chosen = argparse.Namespace(**(vars(args) | value))
        results: dict[str, dict[str, Any]] = {}
        for way in ways:
            with get_context("spawn").Pool(1) as pool:
                results[way] = pool.apply(measure, (way, chosen))
        print(f"\n{name}: " + " ".join(f"{key} {getattr(chosen, key)}" for key, _ in sizes), f"threads {torch.get_num_threads()}")
        table(results)
    for way in ways[1:]:
        phases(way, results[way])


def processor() -> str:
    """Its name and its widest vectors, as Linux tells them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in told.get("flags", "").split()]
    return f"{told.get('model name', 'not known')}, {' '.join(flags) or 'vectors not known'}"


def table(results: dict[str, dict[str, Any]]) -> None:
    """Both ways in numbers; ``g off``: the distance of the loops' gradients from the plain way's, relative, the larger one."""
    heads = {"seconds": 9, "MiB added": 11, "MiB model": 11, "speed x": 9, "memory x": 10, "loss 1": 10, "loss 2": 10, "g off": 10}
    print(f"{'way':8}" + "".join(f"{head:>{width}}" for head, width in heads.items()))
    plain = results["plain"]
    for way, found in results.items():
        off = max(
            float(torch.dist(torch.from_numpy(a), torch.from_numpy(b)) / torch.from_numpy(b).norm())
            for a, b in zip(found["gradients"], plain["gradients"], strict=True)
        )
        ratios = f"{plain['seconds'] / found['seconds']:9.2f}{found['memory'] / plain['memory']:10.3f}"
        numbers = f"{found['seconds']:9.2f}{found['memory']:11.0f}{found['model']:11.0f}"
        print(f"{way:8}{numbers}{ratios}{found['losses'][0]:10.5f}{found['losses'][1]:10.5f}{off:10.1e}")


def phases(way: str, found: dict[str, Any]) -> None:
    """Each phase's time, and that of its products at the machine's rate. The teacher's are bound by memory: see ``reads``."""
    print(f"\n{way}: products at {found['rate'] / 1e9:.0f} GF/s")
    print(f"{'phase':16}{'seconds':>9}{'share':>8}{'products s':>12}{'lost s':>9}")
    whole = sum(found["phases"].values())
    for phase, seconds in found["phases"].items():
        limit = found["products"].get(phase, 0.0) / found["rate"]
        print(f"{phase:16}{seconds:9.3f}{seconds / whole:8.1%}{limit:12.3f}{seconds - limit:9.3f}")
    print(f"the teacher's output layer, read once per token at {found['reads'] / 1e9:.0f} GB/s: {found['head']:.3f} s")


if __name__ == "__main__":
    main()
