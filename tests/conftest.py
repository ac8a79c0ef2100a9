"""A small world and a small untrained model in the published layout, shared by the tests that run the whole thing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from core.recipe import Recipe, check, load
from core.registry import Registry

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # launch.device=auto is the CPU: what is compared bit for bit is computed there


@pytest.fixture(scope="session", autouse=True)
def _index_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indices of test data go with the tests' folders."""
    os.environ["DUALLOOP_CACHE"] = str(tmp_path_factory.mktemp("indices"))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample files in the real formats, which do not belong to the project."""
    folder = Path(os.environ.get("DUALLOOP_SAMPLES", ROOT.parent / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no sample files at {folder}; set DUALLOOP_SAMPLES")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from plugins.datasets.shapes import write_world

    folder = tmp_path_factory.mktemp("world") / "shapes"
    write_world(folder, pictures=60, seed=3, size=64)
    return folder


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """An untrained model with 4 x 4 image tokens and 16 x 16 masks: two updates take a second."""
    from plugins.models.sa2va.components import Sizes, scratch

    sizes = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=2, sam_size=64, sam_width=32, hiera_width=8)
    folder = tmp_path_factory.mktemp("model") / "small"
    scratch(folder=folder, corpus=world / "corpus.txt", train=["projector"], sizes=sizes)
    return folder


@pytest.fixture(scope="session")
def small_qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the reference checkpoint on Qwen2.5-VL or Qwen3-VL with pictures of 9 to 25 tokens and 32 x 32 masks."""

    @cache
    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp("qwen") / family
        shutil.copytree(ROOT / "tests" / "fixtures" / "families" / family / "tiny", folder)
        config = json.loads((folder / "config.json").read_text())
        config["picture_pixels"] = [96 * 96, 140 * 140]
        config["sam2_config"]["image_size"] = 128
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


TINY = ROOT / "recipes" / "dual_loop_tiny.yaml"


@pytest.fixture(scope="session")
def tiny_in(world: Path, small_checkpoint: Path) -> Callable[..., Recipe]:
    """The shipped main recipe on the small model and world, a few updates long, with runs in ``folder``/runs; takes overrides."""

    def make(folder: Path, *overrides: str, file: Path = TINY) -> Recipe:
        recipe = load(
            file,
            [
                f"data.world={world}",
                f"model.checkpoint={small_checkpoint}",
                "model.lora={r: 4, alpha: 8, dropout: 0.1}",
                f"output={folder / 'runs'}",
                "train={updates: 4, batch_size: 4, accumulate: 1, clip_norm: 1.0}",
                "checkpoint={every: 2, keep: 3}",
                "loops.loop1.tasks.pseudo.caption_length=5",
                "loops.loop1.tasks.pseudo.sampler.k=16",
                "loops.loop1.tasks.pseudo.losses.mask.points=64",
                "loops.loop1.tasks.referring.losses.mask.points=64",
                "train.evaluate=none",
                "checkpoint.export=false",
                "track={wandb: null, tensorboard: null}",
                "evaluate={referring: null, caption: null}",
                *overrides,
            ],
        )
        faults = check(recipe, Registry())
        assert not faults, [str(fault) for fault in faults]
        return recipe

    return make


@pytest.fixture
def tiny(tiny_in: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """Makes the recipe of ``tiny_in`` in the test's own folder."""
    return partial(tiny_in, tmp_path)


@pytest.fixture(scope="session")
def finished(tiny_in: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of ``tiny()``, for tests that only read it; others copy it."""
    from core.engine import runner

    recipe = tiny_in(tmp_path_factory.mktemp("finished"))
    assert runner.run(recipe, Registry(), quiet=True) == 0
    [folder] = Path(recipe.values["output"]).iterdir()
    return folder
