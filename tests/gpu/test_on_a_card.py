"""What only a real GPU shows: CUDA_VISIBLE_DEVICES=0 python -m pytest tests/gpu/test_on_a_card.py (without it the tests see no GPU)."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.datasets.shapes import write_world
from plugins.models.sa2va.backend import Prompt
from plugins.models.sa2va.components import Lora, load
from plugins.models.sa2va.generation import captions, greedy
from plugins.models.sa2va.model import Sa2va

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROOT = Path(__file__).parents[2]
ASSET = ROOT / "assets" / "sa2va-shapes"


# ------------------------------------------------------------------------------------------ tokens


def on_the_card(dtype: str) -> Sa2va:
    """A trained model under adapters that change what it writes."""
    torch.manual_seed(0)
    model = load(checkpoint=ASSET, max_tiles=1, lora=Lora(r=4, alpha=8), dtype=dtype)  # type: ignore[arg-type]
    for name, parameter in model.trainable()["lora"]:
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape) / 20
    return model.to("cuda").eval()


@torch.no_grad()
def requests(model: Sa2va) -> list[Prompt]:
    """Of different lengths."""
    draw = torch.Generator().manual_seed(0)
    picture = torch.randint(256, (64, 64, 3), generator=draw, dtype=torch.uint8).numpy()
    vision, view = model.look(picture), torch.zeros(4, dtype=torch.long, device="cuda")
    grid = model.network.config.backend.grid
    cells = [torch.rand(grid, grid, generator=draw).to("cuda") < share for share in (0.1, 0.4, 0.9, 0.2)]
    return model.sequences.describe(vision, view, cells)


def never(ids: list[int]) -> bool:
    return False


def test_the_replayed_graph_writes_the_layers_tokens() -> None:
    """Captured after its first step; a warning would say that it could not be."""
    model = on_the_card("float32")
    with model.computing(training=False), warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts = requests(model)
        backend = model.network.backend
        for length in (1, 2, 3, 40):
            for ended in (never, model.text.ended, lambda ids: ids[-1] % 3 == 0):
                assert captions(backend, prompts, length, ended) == greedy(backend, prompts, length, ended).ids


def test_the_replayed_graph_reads_weights_that_an_update_changed() -> None:
    model = on_the_card("float32")
    with model.computing(training=False):
        prompts, backend = requests(model), model.network.backend
        before = captions(backend, prompts, 24, never)
        for name, parameter in model.trainable()["lora"]:
            if "lora_B" in name:
                parameter.data.neg_()
        after = captions(backend, prompts, 24, never)
        assert after == greedy(backend, prompts, 24, never).ids
    assert after != before


def test_tokens_in_bfloat16_are_near() -> None:
    model = on_the_card("bfloat16")
    with model.computing(training=False):
        prompts = requests(model)
        own, theirs = captions(model.network.backend, prompts, 12, never), greedy(model.network.backend, prompts, 12, never)
    assert sum(a == b for mine, other in zip(own, theirs.ids, strict=True) for a, b in zip(mine, other, strict=True)) > 24


# ------------------------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pictures=200, seed=7)
    return folder


def command(folder: Path, *given: str) -> str:
    done = subprocess.run([sys.executable, "-m", *given], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


SHORT = [
    "train.updates=2",
    "train.batch_size=4",
    "train.accumulate=1",
    "train.evaluate=none",
    "track={wandb: null, tensorboard: null}",
    "checkpoint.every=1",
    "evaluate.caption.text_metrics=[]",
]


def run(folder: Path, world: Path, *given: str) -> Path:
    """The folder of a finished run."""
    before = set(folder.glob("runs/*"))
    command(folder, "core.run", str(ROOT / "recipes" / "dual_loop_tiny.yaml"), f"data.world={world}", *SHORT, *given)
    (made,) = set(folder.glob("runs/*")) - before
    return made


def metrics(made: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]


def test_updates_on_the_card_are_those_of_the_cpu(tmp_path: Path, world: Path) -> None:
    """In float32: the noise of the sampler is drawn on the CPU, and the dropout is left out."""
    given = ["model.lora.dropout=0", "train.precision=fp32", "checkpoint.export=false"]
    cpu = run(tmp_path, world, "launch.device=cpu", *given)
    cuda = run(tmp_path, world, "launch.device=cuda", *given)
    for here, there in zip(metrics(cpu), metrics(cuda), strict=True):
        losses = [key for key in here if key.endswith("loss") and isinstance(here[key], float)]
        assert losses
        for key in losses:
            assert there[key] == pytest.approx(here[key], rel=2e-3), key


@pytest.mark.parametrize("strategy", ["single", "ddp", "deepspeed"])
def test_a_whole_run_in_bfloat16(strategy: str, tmp_path: Path, world: Path) -> None:
    """Evaluation before and after, checkpoints, export, going on, and evaluation of the export."""
    given = [
        "launch.device=auto",
        f"launch.strategy={strategy}",
        "model.dtype=bfloat16",
        "train.precision=bf16",
        "train.activation_checkpointing=true",
        "train.evaluate=before_and_after",
        "evaluate.referring.max_samples=8",
        "evaluate.caption.max_samples=8",
    ]
    made = run(tmp_path, world, *given)
    command(tmp_path, "core.run", "--resume", str(made), "train.updates=3")
    assert len(metrics(made)) >= 3
    result = json.loads((made / "result.json").read_text())
    assert result["after"]["referring"]["n_expressions"] > 0
    command(
        tmp_path,
        "core.evaluate",
        str(made / "export"),
        "--use",
        "refcoco",
        "--data",
        "refcoco",
        f"root={world}/ref_seg",
        "split=val",
        "max_samples=8",
    )
