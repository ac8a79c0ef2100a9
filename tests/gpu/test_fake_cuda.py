"""A run on CUDA tensors that do not exist: wrong devices, wrong types, slow attention, waits and memory are seen without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fakedevice  # noqa: E402

pytestmark = pytest.mark.skipif(fakedevice.missing() is not None, reason=str(fakedevice.missing()))


def scenarios(*given: str) -> dict[str, dict[str, Any]]:
    """What each scenario found, by its name. Torch is changed for good by fake CUDA, so it is a process of its own."""
    command = [sys.executable, str(HERE / "scenarios.py"), *given]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Of every scenario, on InternVL2.5's reference checkpoint."""
    return scenarios("internvl2_5")


def test_a_run_does_on_a_gpu_what_it_does_here(found: dict[str, dict[str, Any]]) -> None:
    """Updates of both loops, samplers, checkpoint, prediction, evaluators, export: nothing raises, waits, or takes too much."""
    assert {name: each["error"] for name, each in found.items() if "error" in each} == {}
    assert {name: each["faults"] for name, each in found.items() if each.get("faults")} == {}
    assert len(found) == 16
    assert found["update"]["attention"] == ["efficient", "flash"]  # rows of unequal length are generated with a mask


ON_A_BACKEND = ("update_of_loop_1", "predict_referring", "predict_region", "predict_video", "export")  # what reaches the backend


@pytest.mark.parametrize("family", ["internlm2", "qwen2_5_vl", "qwen3_vl"])
def test_another_backend_does_on_a_gpu_what_it_does_here(family: str) -> None:
    on_backend = scenarios(family, *ON_A_BACKEND)
    assert {name: each["error"] for name, each in on_backend.items() if "error" in each} == {}
    assert {name: each["faults"] for name, each in on_backend.items() if each.get("faults")} == {}
    assert set(on_backend) == set(ON_A_BACKEND)
    assert on_backend["update_of_loop_1"]["attention"] == ["efficient", "flash"]


@pytest.mark.parametrize(
    ("scenario", "sentence"),
    [
        ("sees_a_cpu_tensor", "add: a CPU tensor [2, 1] with CUDA ones"),
        ("sees_a_cpu_generator", "a generator on cpu for a CUDA tensor"),
        ("sees_a_product_of_two_types", "mm of bfloat16 and float32"),
        ("sees_attention_in_the_math_kernel", "attention in the math kernel (mask)"),
        ("sees_a_peak", "in too large; at most 0.50 are allowed"),
        ("sees_waits", "times for the device outside generation"),
    ],
)
def test_what_would_fail_on_a_gpu_fails_here(scenario: str, sentence: str, found: dict[str, dict[str, Any]]) -> None:
    """Each kind of fault, made on purpose."""
    assert sentence in found[scenario].get("said", "")


@pytest.mark.skipif("DUALLOOP_LONG" not in os.environ, reason="takes minutes for each size; set DUALLOOP_LONG=1")
@pytest.mark.parametrize(
    ("recipe", "size", "most"),
    [("dual_loop_8gpu", "4B", 60), ("dual_loop_8gpu", "1B", 60), ("dual_loop_48gb", "4B", 40), ("dual_loop_24gb", "1B", 19)],
)
def test_the_peak_of_a_recipe_at_its_published_size(recipe: str, size: str, most: float) -> None:
    """One micro-batch of each loop: more of them take no more memory. GiB."""
    file = HERE.parents[1] / "recipes" / f"{recipe}.yaml"
    command = [sys.executable, str(HERE / "counted_memory.py"), size, "train.accumulate=1", "--recipe", str(file)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["peak"] < most
