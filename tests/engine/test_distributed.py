"""Several processes make the updates of one: the same global batch gives the same parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.contracts import UserError
from core.engine import checkpoint, runner
from core.engine.parallel.exchange import Alone, Exchange, Group
from core.recipe import Recipe, resolved_yaml
from core.registry import Registry
from tests.engine.distributed_worker import Case, carry_out, check_zero, on_ranks, start_ranks
from tests.patience import HANGS_S

Make = Callable[..., Recipe]
Tensors = dict[str, torch.Tensor]

ROUNDING = 3e-5  # of a parameter, whose sums have another order on several processes; kinds of projection differ by more than 1e-4
PROJECTIONS = {
    "global": "gradient={use: pcgrad_orthogonal, anchor: loop1}",
    "group": "gradient={use: pcgrad_orthogonal, anchor: loop1, scope: group}",
    "conflict": "gradient={use: pcgrad_orthogonal, anchor: loop1, when: conflict}",
}


@pytest.fixture
def case(tiny: Make, tmp_path: Path) -> Callable[..., Case]:
    """Makes a case of ``distributed_worker``: eight samples for each loop and update; on two ranks in two micro-batches each."""

    def make(
        strategy: str, world: int, projection: str, updates: int = 4, zero_stage: int = 2, overrides: Sequence[str] = (), **more: object
    ) -> Case:
        parts = 2 if world == 2 else 1
        recipe = tiny(
            PROJECTIONS[projection],
            # a large eps: Adam with the usual one turns the rounding of near-zero gradients into whole steps
            "optimizer.eps=1.0e-3",
            "optimizer.lr=0.01",
            "model.lora={r: 4, alpha: 8, dropout: 0.0}",
            f"train={{updates: 4, batch_size: {8 // world // parts}, accumulate: {parts}, clip_norm: 1.0}}",
            f"launch={{strategy: {strategy}, processes: {world}, device: cpu, timeout_s: {HANGS_S}, zero_stage: {zero_stage}}}",
            *overrides,
        )
        out = tmp_path / f"{strategy}{zero_stage}-{world}-{projection}-{updates}"
        out.mkdir()
        (out / "recipe.yaml").write_text(resolved_yaml(recipe, Registry()))
        return {"recipe": str(out / "recipe.yaml"), "updates": updates, "out": str(out), **more}

    return make


def result(case: Case, file: str = "trained") -> Tensors:
    return load_file(Path(case["out"]) / f"update-{case['updates']:06d}" / f"{file}.safetensors")


def alone(case: Case, ranks: Exchange | None = None) -> Tensors:
    """Carries the case out in this process."""
    carry_out(case, ranks or Alone())
    return result(case)


def joined(case: Case) -> Tensors:
    """Carries the case out in this process, as the only one of a process group."""
    ranks = Group("cpu", HANGS_S)
    try:
        return alone(case, ranks)
    finally:
        ranks.leave()


def distance(first: Tensors, second: Tensors) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_any_number_of_processes_makes_the_same_updates(case: Callable[..., Case]) -> None:
    references = {name: alone(case("single", 1, name)) for name in PROJECTIONS}
    assert min(distance(references["global"], references[other]) for other in ("group", "conflict")) > 1e-4
    two = {name: case("ddp", 2, name) for name in PROJECTIONS}
    two["conflict"]["corrupt"] = 1
    on_ranks(2, list(two.values()))
    for name, reference in references.items():
        assert distance(reference, result(two[name])) < ROUNDING, name
    for rank in (0, 1):  # one parameter of rank 1 was changed a little at the end of the last case
        told = (Path(two["conflict"]["out"]) / f"rank{rank}").read_text()
        assert told.startswith("the ranks' weights differ after update 7: rank 1 from the others"), told
    four = case("ddp", 4, "group", updates=2)
    on_ranks(4, [four])
    assert distance(alone(case("single", 1, "group", updates=2)), result(four)) < ROUNDING
    assert distance(references["group"], joined(case("ddp", 1, "group"))) < ROUNDING


def test_fsdp2_makes_the_same_updates_with_its_part_of_the_frozen_weights(case: Callable[..., Case]) -> None:
    """The ranks' tasks and caption lengths differ, so that they need other layers at other times."""
    reference, sharded = case("single", 1, "conflict"), case("fsdp2", 2, "conflict", layers=True)
    on_ranks(2, [sharded])
    assert distance(alone(reference), result(sharded)) < ROUNDING
    told = [json.loads((Path(sharded["out"]) / f"layers{rank}").read_text()) for rank in (0, 1)]
    assert all(rank["held"] < 0.55 * rank["whole"] and rank["whole"] > 0.5 * rank["frozen"] for rank in told), told
    assert all(rank["given"] > 10 for rank in told), told


def test_zero_makes_the_same_updates_and_shares_checkpoints(case: Callable[..., Case]) -> None:
    reference, whole = case("single", 1, "conflict"), case("single", 1, "conflict", updates=2)
    alone(reference)
    alone(whole)
    second = checkpoint.list_checkpoints(Path(whole["out"]))[0][1]
    one, two = case("deepspeed", 2, "conflict", zero_stage=1), case("deepspeed", 2, "conflict", last=str(second))
    half = case("deepspeed", 2, "conflict", updates=2)
    on_ranks(2, [one, two, half])  # the second goes on from a checkpoint of one process
    for case_ in (one, two):
        assert distance(result(reference), result(case_)) < ROUNDING
        moments = result(reference, "optimizer")
        found = result(case_, "optimizer")
        assert moments.keys() <= found.keys()
        assert distance(moments, {name: found[name] for name in moments}) < ROUNDING
    back = {**reference, "out": half["out"], "last": str(checkpoint.list_checkpoints(Path(half["out"]))[0][1])}
    assert distance(result(reference), alone(back)) < ROUNDING  # ZeRO's second checkpoint, gone on with by one process
    assert distance(result(reference), joined(case("deepspeed", 1, "conflict"))) < ROUNDING


@pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="takes two minutes; set DUALLOOP_LONG=1, and -s for the table")
def test_every_strategy_number_of_processes_and_projection(case: Callable[..., Case]) -> None:
    references = {name: alone(case("single", 1, name)) for name in PROJECTIONS}
    strategies = {"ddp": ("ddp", 0), "fsdp2": ("fsdp2", 0), "ZeRO-1": ("deepspeed", 1), "ZeRO-2": ("deepspeed", 2)}
    off: dict[tuple[str, int, str], float] = {}
    for world in (1, 2, 4):
        cases = {
            (label, world, name): case(strategy, world, name, zero_stage=stage)
            for label, (strategy, stage) in strategies.items()
            for name in PROJECTIONS
        }
        on_ranks(world, list(cases.values()))
        off |= {key: distance(references[key[2]], result(done)) for key, done in cases.items()}
    print("\n| strategy | processes |", " | ".join(PROJECTIONS), "|")
    for label in strategies:
        for world in (1, 2, 4):
            print(f"| {label} | {world} |", " | ".join(f"{off[label, world, name]:.1e}" for name in PROJECTIONS), "|")
    assert max(off.values()) < ROUNDING


@pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="takes half a minute; set DUALLOOP_LONG=1")
def test_with_frozen_weights_in_bfloat16_all_strategies_agree_bit_for_bit(case: Callable[..., Case]) -> None:
    """With one process they agree up to bfloat16's rounding only, which depends on how a batch is divided."""
    half = ("model.dtype=bfloat16", "train.precision=bf16")
    cases = [case(strategy, 2, "global", updates=3, overrides=half) for strategy in ("ddp", "fsdp2", "deepspeed")]
    on_ranks(2, cases)
    first, *others = map(result, cases)
    assert [distance(first, other) for other in others] == [0.0, 0.0]


def test_zero_tests_itself_and_skips_what_is_not_finite() -> None:
    start_ranks(2, check_zero)


def test_launch_must_fit(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"launch\.processes=2 needs launch\.strategy=ddp"):
        runner.run(tiny("launch.processes=2"), Registry(), quiet=True)
    with pytest.raises(UserError, match=r"fsdp2 no process holds the whole model: set checkpoint\.export=false, then evaluate or export"):
        runner.run(tiny("launch={strategy: fsdp2, processes: 2}", "checkpoint.export=true"), Registry(), quiet=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"launch\.processes=2, but 4 started; set launch\.processes=4"):
        runner.run(tiny("launch={strategy: ddp, processes: 2}"), Registry(), quiet=True)
