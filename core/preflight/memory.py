"""Memory: of each GPU, and of the machine for what loads samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from core.engine.feed import ahead
from core.engine.launch.devices import device_of
from core.engine.memory import BESIDE, GIB, OFFERED, need, remedy, tasks
from core.preflight.finding import Facts, Finding, size
from core.recipe import Recipe
from core.registry import Registry

NODE = 8  # GPUs of a node, where the recipe asks for more than this machine has
LOADER = 0.4 * GIB  # of its own, a process that loads samples: decoded pictures and what fork no longer shares


def on_a_gpu(recipe: Recipe, registry: Registry, facts: Facts, teachers: Sequence[Facts], card: float | None) -> Iterator[Finding]:
    """Whether an update fits: into the cards of this machine, or into those of ``card`` GB; on a CPU, into its memory."""
    if "working" not in facts:
        return
    found = need(recipe, registry, facts, teachers)
    parts = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in found.parts.items() if bytes_)
    device = "cuda" if card is not None else device_of(recipe.values["launch"])
    if device == "cpu":
        text = f"about {size(found.counted)} a process, roughly: {parts}, the most in {found.task}"
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // recipe.values["launch"]["processes"] if _linux() else None
        short = there is not None and found.counted > there
        yield Finding("warn" if short else "pass", "memory", text if there is None else f"{text}; {size(there)} there")
        return
    text = f"about {size(found.card)} on each GPU: {parts}, the most in {found.task}, and {size(BESIDE)} beside what torch allocates"
    if card is None and not torch.cuda.is_available():
        least = found.card / GIB / OFFERED
        yield Finding("warn", "memory", f"{text}; no GPU is here to compare with: a card of {least:.0f} GB or more is needed (--card GB)")
        return
    room = card * OFFERED * GIB if card is not None else float(torch.cuda.get_device_properties(0).total_memory)
    if found.card > room:
        yield Finding("fail", "memory", f"{text}; {size(room)} there: {remedy(recipe, registry, facts, teachers, room)}")
    else:
        yield Finding("pass", "memory", f"{text}; {size(room)} there")


def of_the_host(recipe: Recipe, registry: Registry, facts: Facts, card: float | None) -> Iterator[Finding]:
    """What the processes that load samples take on a node: their number, and the samples that are ready or under way."""
    values = recipe.values
    rule, processes = ahead(values["train"]), values["launch"]["processes"]
    if "prepared" not in facts or not rule.processes:
        return
    on_node = min(processes, torch.cuda.device_count() or NODE) if device_of(values["launch"]) == "cuda" or card is not None else processes
    batch = max(facts["prepared"](work) for _, work in tasks(recipe, registry))
    flying = on_node * max(rule.most_bytes, batch)
    pinned = ", in pinned memory" if device_of(values["launch"]) == "cuda" or card is not None else ""
    own = on_node * rule.processes * LOADER
    text = f"{on_node * rule.processes} processes load samples on a node ({on_node} x {rule.processes}), with about {size(own)}"
    text += f"; up to {size(flying)} of samples are ready or under way{pinned} (a micro-batch has {size(batch)}); /dev/shm is not used"
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if card is None and _linux() else None
    if there is not None and flying + own > there:
        yield Finding("fail", "train.workers", f"{text}; {size(there)} are there in all: lower train.workers or train.prefetch_gib")
    else:
        yield Finding("pass", "train.workers", text)


def _linux() -> bool:
    return hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
