"""Which samples an update draws, and what happens to bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from core.contracts import BadSample, Region, UserError
from core.engine.feed import Ahead, Feed, Supply, requests
from core.engine.noise import RunNoise
from core.engine.plan import Plan, Source
from core.testing.tiny_model import TinyPreparation


@dataclass
class Numbers:
    """A data set whose regions carry their index; the indices in ``bad`` cannot be used."""

    length: int
    bad: frozenset[int] = frozenset()
    groups: list[list[int]] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Region:
        if index in self.bad:
            raise BadSample("unreadable", str(index))
        return Region(str(index), np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), "x")

    def images(self) -> list[list[int]] | None:
        return self.groups


def source(name: str, dataset: Numbers, task: str = "t") -> Source:
    return Source("loop", task, name, dataset, frozenset())


def plan(*sizes: int, batch: int = 8, seed: int = 1) -> Plan:
    return Plan([source(f"s{i}", Numbers(size)) for i, size in enumerate(sizes)], seed, batch)


def test_an_epoch_draws_every_sample_once_and_the_next_in_another_order() -> None:
    p = plan(30, 10, batch=8)
    epochs = [[(s.source, s.index) for update in range(5 * e, 5 * e + 5) for s in p.slots(update)] for e in range(2)]
    assert all(sorted(epoch) == sorted((i, j) for i, n in enumerate((30, 10)) for j in range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_sources_are_interleaved_evenly_from_the_start() -> None:
    p = plan(900, 90, 9, batch=999)
    drawn = [slot.source for slot in p.slots(0)]
    assert {0, 1, 2} == set(drawn[:3])
    for source_, size in enumerate((900, 90, 9)):
        places = np.flatnonzero(np.array(drawn) == source_) / 999
        assert np.abs(places - np.arange(size) / size).max() < 0.02


def test_pictures_stay_together_on_request() -> None:
    groups = [[0, 1, 2], [3], [4, 5]]
    p = Plan([source("s", Numbers(6, groups=groups))], 1, 6, group_pictures=True)
    order = [slot.index for slot in p.slots(0)]
    for group in groups:
        first = order.index(group[0])
        assert order[first : first + len(group)] == group


@pytest.mark.parametrize(("world", "micro"), [(1, 8), (2, 4), (4, 2), (1, 2), (2, 2)])
def test_any_number_of_processes_draws_the_same_samples(world: int, micro: int) -> None:
    p = plan(50, 20, batch=8)
    drawn = [slot for rank in range(world) for request in requests({"l": p}, [(3, "l")], micro, rank, world) for slot in request.slots]
    assert sorted(drawn, key=lambda slot: slot.number) == p.slots(3)


def test_another_seed_draws_other_samples() -> None:
    assert plan(500, seed=1).slots(0) != plan(500, seed=2).slots(0)


def feed(dataset: Numbers, updates: int = 40, max_bad: float = 0.01, start: int = 0, workers: int = 0, record: Path | None = None) -> Feed:
    order = [(update, "loop") for update in range(start, updates)]
    plans = {"loop": Plan([source("s", dataset)], 5, 8)}
    return Feed("loop", Supply(plans, TinyPreparation(), order, 4, room=Ahead(workers, 2**20)), max_bad, record)


def test_bad_samples_are_replaced_deterministically_and_counted() -> None:
    dataset = Numbers(40, frozenset(range(0, 40, 4)))
    first, second = feed(dataset, max_bad=1.0), feed(dataset, max_bad=1.0)
    for _ in range(10):
        ours = [micro.ids["t"] for micro in first.update()]
        assert ours == [micro.ids["t"] for micro in second.update()]
        assert all(int(sample.split("/")[1]) % 4 for ids in ours for sample in ids)
    path = "loops.loop.tasks.t.data.s"
    assert first.bad[(path, "unreadable")] > 0
    assert first.drawn[path] == 80 + first.bad[(path, "unreadable")]


def test_a_feed_that_starts_later_goes_on_where_the_other_was() -> None:
    dataset = Numbers(40, frozenset({1, 2, 3}))
    whole, late = feed(dataset, max_bad=1.0), feed(dataset, max_bad=1.0, start=3)
    updates = [[micro.ids for micro in whole.update()] for _ in range(5)]
    assert [[micro.ids for micro in late.update()] for _ in range(2)] == updates[3:]


def test_workers_change_nothing() -> None:
    dataset = Numbers(40, frozenset({1, 2, 3}))
    alone, helped = feed(dataset, 4, 1.0), feed(dataset, 4, 1.0, workers=2)
    for _ in range(4):
        assert [m.ids for m in alone.update()] == [m.ids for m in helped.update()]
    assert alone.bad == helped.bad


def run_through(stream: Feed, updates: int) -> None:
    for _ in range(updates):
        stream.update()


def test_too_many_bad_samples_stop_the_run_with_the_reasons() -> None:
    stream = feed(Numbers(400, frozenset(range(40))))
    with pytest.raises(UserError, match=r"loops\.loop\.tasks\.t\.data\.s: \d+ of \d+ samples are bad \(\d+ x unreadable\)"):
        run_through(stream, 40)


_CRASH = """
from tests.engine.test_plan_and_feed import Numbers, feed
stream = feed(Numbers(4000), 1000, workers=2)
stream.update()
raise RuntimeError("out of memory")
"""


def test_a_crash_ends_the_workers_and_the_process() -> None:
    """Workers ignore SIGTERM, by which multiprocessing ends them before it waits for them."""
    done = subprocess.run([sys.executable, "-c", _CRASH], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: out of memory\n")


def test_every_bad_sample_is_named_in_a_file(tmp_path: Path) -> None:
    record = tmp_path / "bad.jsonl"
    stream = feed(Numbers(400, frozenset(range(40))), record=record)
    with pytest.raises(UserError, match=r"bad\.jsonl names them; repair"):
        run_through(stream, 40)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == sum(stream.bad.values())
    assert {int(line["sample"]) for line in lines} <= set(range(40))
    assert {line["update"] for line in lines} <= set(range(40))
    first = next(slot for update in range(40) for slot in stream_plan(400).slots(update) if slot.index < 40)
    expected = {
        "update": first.update,
        "source": "loops.loop.tasks.t.data.s",
        "reason": "unreadable",
        "sample": str(first.index),
        "detail": "",
    }
    assert lines[0] == expected


def stream_plan(length: int) -> Plan:
    return Plan([source("s", Numbers(length))], 5, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_a_usable_sample_stops_the_run(workers: int) -> None:
    with pytest.raises(
        UserError, match=r"^loops\.loop\.tasks\.t\.data\.s: 20 draws in a row were bad, .*options$"
    ):  # no worker's traceback
        feed(Numbers(10, frozenset(range(10))), workers=workers).update()


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(UserError, match=r"loops\.loop\.tasks\.t\.data\.s0: no sample at all"):
        plan(0)


def test_noise_depends_on_its_names_only() -> None:
    draws = Counter()
    for seed in (1, 2):
        for update in (0, 1):
            for sample in ("a", "b"):
                for purpose in ("x", "y"):
                    noise = RunNoise(seed, update)
                    draw = torch.rand(1, generator=noise.generator(sample, purpose)).item()
                    assert draw == torch.rand(1, generator=noise.generator(sample, purpose)).item()
                    draws[draw] += 1
    assert len(draws) == 16
