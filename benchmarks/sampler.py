"""Time and peak extra memory of three ways to sample straight-through text: python benchmarks/sampler.py [--device cuda]

full    softmax over the whole vocabulary, one-hot @ embedding, by autograd
top-k   top-k logits, softmax, embedding[kept] weighted and summed, by autograd
fused   plugins.samplers.st_gumbel_topk

Each way runs in a process of its own, on equal inputs, forward and backward, the best time of ``--repeats``. Memory is
what the first run adds to the resident set (Linux), or to the allocator on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.samplers.st_gumbel_topk import StGumbelTopk, gumbel

TEMPERATURE = 0.7
WAYS = ("full", "top-k", "fused")


def full(states: Tensor, weight: Tensor, embedding: Tensor, k: int) -> Tensor:
    logits = F.linear(states, weight).float()  # [B, T, V]
    noise = torch.stack([gumbel(states.shape[1], len(weight), torch.Generator().manual_seed(b)) for b in range(len(states))])
    soft = ((logits + noise.to(logits.device)) / TEMPERATURE).softmax(-1).to(embedding.dtype)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return (hard + soft - soft.detach()) @ embedding  # [B, T, D]


def top_k(states: Tensor, weight: Tensor, embedding: Tensor, k: int) -> Tensor:
    logits, kept = F.linear(states, weight).topk(k, dim=-1)  # [B, T, k] each
    noise = torch.stack([gumbel(states.shape[1], k, torch.Generator().manual_seed(b)) for b in range(len(states))])
    soft = ((logits.float() + noise.to(logits.device)) / TEMPERATURE).softmax(-1).to(embedding.dtype)
    hard = F.one_hot(soft.argmax(-1), k).to(soft.dtype)
    return ((hard + soft - soft.detach()).unsqueeze(-1) * embedding[kept]).sum(-2)  # [B, T, D]


def fused(states: Tensor, weight: Tensor, embedding: Tensor, k: int) -> Tensor:
    generators = [torch.Generator().manual_seed(b) for b in range(len(states))]
    return StGumbelTopk(k=k, temperature=TEMPERATURE)(states, (weight, None), embedding, generators)[0]


def measure(way: str, args: argparse.Namespace) -> tuple[float, float]:
    """Best seconds of a forward and backward, and MiB that the first one added at its peak."""
    run: Callable[[Tensor, Tensor, Tensor, int], Tensor] = {"full": full, "top-k": top_k, "fused": fused}[way]
    torch.manual_seed(0)
    dtype, cuda = getattr(torch, args.dtype), args.device == "cuda"
    states = torch.randn(args.batch, args.tokens, args.dim, dtype=dtype, device=args.device, requires_grad=True)
    weight = torch.randn(args.vocab, args.dim, dtype=dtype, device=args.device).div_(args.dim**0.5).mul_(3)
    embedding = torch.randn(args.vocab, args.dim, dtype=dtype, device=args.device)
    (states[:1, :1, :8] @ weight[:8, :8].T).sum().backward()  # libraries allocate their workspaces
    before, seconds, peak = _reset_peak(cuda), [], 0.0
    for repeat in range(args.repeats):
        states.grad = None
        start = time.perf_counter()
        run(states, weight, embedding, args.k).square().sum().backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            peak = _peak(cuda) - before
    return min(seconds), peak


def _reset_peak(cuda: bool) -> float:
    """Starts a new peak; MiB in use now."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak resident set becomes the present one
    return _peak(cuda)


def _peak(cuda: bool) -> float:
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocab", 151674), ("dim", 896), ("k", 512), ("batch", 4), ("tokens", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    results = {}
    for way in WAYS:
        with get_context("spawn").Pool(1) as pool:
            results[way] = pool.apply(measure, (way, args))
    print(f"V {args.vocab} D {args.dim} k {args.k} B {args.batch} T {args.tokens} {args.dtype} {args.device}")
    print(f"{'way':8}{'seconds':>10}{'MiB':>10}{'time / fused':>14}{'memory / fused':>16}")
    for way, (seconds, peak) in results.items():
        print(f"{way:8}{seconds:10.3f}{peak:10.0f}{seconds / results['fused'][0]:14.1f}{peak / results['fused'][1]:16.1f}")


if __name__ == "__main__":
    main()
