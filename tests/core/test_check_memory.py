"""Whether an update fits a card is said before anything is loaded, with the keys that make it fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from core.contracts import UserError
from core.engine.memory import BESIDE, GIB, OFFERED, facts_of, largest_batch, need, require_room, tasks
from core.preflight.memory import of_the_host, on_a_gpu
from core.recipe import Recipe, load
from core.registry import Registry

TRAINED, FROZEN, REGION = 10**8, 10**9, GIB  # weights, and what a region takes in a micro-batch


def facts() -> dict[str, Any]:
    """Of a made-up model: a tenth with activations computed again."""
    return {
        "parameters": TRAINED + FROZEN,
        "trained": {"lora": TRAINED},
        "frozen_bytes": 2,
        "working": lambda work: work.regions * len(work.forwards) * REGION // (10 if work.recompute else 1),
        "prepared": lambda work: work.pictures * 10**6,
    }


@pytest.fixture
def recipe() -> Recipe:
    return load("recipes/dual_loop_8gpu.yaml", ["train={batch_size: 16, accumulate: 2, activation_checkpointing: false}"])


def test_the_parts_are_those_of_an_update(recipe: Recipe) -> None:
    found = need(recipe, Registry(), facts())
    fixed = {"weights": 2.0 * FROZEN + 4 * TRAINED, "gradients": 8.0 * TRAINED, "optimizer": 8.0 * TRAINED, "teacher": 4.0 * TRAINED}
    assert found.parts == fixed | {"a micro-batch": 32.0 * GIB}
    assert found.task in ("loops.loop1.tasks.pseudo", "loops.loop2.tasks.cycle")
    sharded = load(recipe.file, ["launch.strategy=deepspeed", "gradient={use: sum, by: task}", "teacher=null"])
    parts = need(sharded, Registry(), facts()).parts
    assert (parts["optimizer"], parts["gradients"]) == (TRAINED, 12.0 * TRAINED)
    assert "pseudo" not in parts
    assert parts["teacher"] == 0


def test_a_teacher_of_its_own_counts_with_all_its_weights(recipe: Recipe) -> None:
    alone = need(recipe, Registry(), facts()).parts["teacher"]
    assert need(recipe, Registry(), facts(), [facts()]).parts["teacher"] == 2.0 * FROZEN + 4 * TRAINED > alone


def test_loops_tell_what_they_call(recipe: Recipe) -> None:
    works = dict(tasks(recipe, Registry()))
    assert works["loops.loop1.tasks.pseudo"].pictures == 32
    assert works["loops.loop1.tasks.referring"].forwards == ("segment",)
    assert works["loops.loop2.tasks.cycle"].pictures == 16
    assert all(work.half and not work.recompute for work in works.values())


def test_a_card_too_small_fails_with_the_keys_that_make_it_fit(recipe: Recipe) -> None:
    registry = Registry()
    [failed] = on_a_gpu(recipe, registry, facts(), [], 24)
    assert failed.status == "fail"
    assert "train.activation_checkpointing=true is enough" in failed.text
    [smaller] = re.findall(r"set train\.batch_size=(\d+) \(the largest that fits\) and train\.accumulate=(\d+)", failed.text)
    room = 24 * OFFERED * GIB
    assert int(smaller[0]) == largest_batch(recipe, registry, facts(), [], room, False)
    assert int(smaller[0]) * int(smaller[1]) >= 32
    for batch, status in ((int(smaller[0]), "pass"), (int(smaller[0]) + 1, "fail")):
        changed = load(recipe.file, [f"train.batch_size={batch}", "train.activation_checkpointing=false"])
        assert [one.status for one in on_a_gpu(changed, registry, facts(), [], 24)] == [status]
    [hopeless] = on_a_gpu(recipe, registry, facts(), [], 4)
    assert "no batch fits" in hopeless.text


def test_without_a_gpu_the_figure_is_told(recipe: Recipe) -> None:
    [found] = on_a_gpu(recipe, Registry(), facts(), [], None)
    assert found.status == "warn"
    assert re.search(r"a card of \d+ GB or more is needed \(--card GB\)", found.text)


def test_a_run_says_it_before_it_loads_the_model(tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, registry = tiny("launch.device=cuda"), Registry()
    needed = need(recipe, registry, facts_of(recipe, registry)).card
    assert needed > BESIDE
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (needed + 1, 0))
    require_room(recipe, registry)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (needed - 1, 0))
    with pytest.raises(UserError, match=r"GiB of GPU memory.*: set train\.batch_size=\d \(the largest that fits\)"):
        require_room(recipe, registry)


def test_loaders_of_a_node_are_counted(recipe: Recipe) -> None:
    [found] = of_the_host(load(recipe.file, ["train.workers=4", "train.prefetch_gib=2"]), Registry(), facts(), 80)
    assert "32 processes load samples on a node (8 x 4)" in found.text
    assert "up to 16.0 GiB of samples are ready or under way, in pinned memory" in found.text
    assert list(of_the_host(load(recipe.file, ["train.workers=0"]), Registry(), facts(), 80)) == []
