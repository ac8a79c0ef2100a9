"""What the components tell without being built, and what reading their signatures costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import CHECKPOINT

from core.contracts import ReadsFiles, TellsFacts
from core.registry import Registry
from plugins.models.sa2va.components import Lora, load, load_legacy, scratch
from plugins.models.sa2va.model import Origin
from plugins.models.sa2va.published.scratch import begin_with_waves

READ = """
import sys
from core.registry import Registry
for name in ("sa2va", "sa2va.scratch", "sa2va.legacy"):
    assert Registry().get("models", name).parameters
print(*({"torch", "torchvision", "transformers", "peft", "safetensors", "numpy"} & set(sys.modules)))
"""


def test_signatures_are_read_without_torch_and_transformers() -> None:
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_loaders_processes_need_no_transformers() -> None:
    code = "import sys, plugins.models.sa2va.preparation as one, plugins.models.sa2va.backends.internvl_pictures as other"
    code += "; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_which_keys_a_path_of_the_users_fills(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    (tmp_path / "run.pth").touch()
    paths = [CHECKPOINT, tmp_path / "adapter", tmp_path / "run.pth", tmp_path, tmp_path / "gone.pth"]
    assert [load.reads(path, None) for path in paths] == [{"checkpoint": CHECKPOINT}, None, None, None, None]
    both = [{"file": path, "checkpoint": CHECKPOINT} for path in paths]
    assert [load_legacy.reads(path, CHECKPOINT) for path in paths] == [None, both[1], both[2], None, None]
    assert [load_legacy.reads(path, None) for path in paths] == [None] * 5
    assert not isinstance(scratch, ReadsFiles)


def test_facts_are_told_without_building() -> None:
    told = Registry().get("models", "sa2va").object.facts(checkpoint=CHECKPOINT, lora=Lora(r=4))
    model = load(checkpoint=CHECKPOINT, lora=Lora(r=4))
    assert told["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert not isinstance(scratch, TellsFacts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_over_a_base_knows_the_bases_values(dtype: str, tmp_path: Path) -> None:
    trained = load(checkpoint=CHECKPOINT, lora=Lora(r=4))
    with torch.no_grad():
        for members in trained.trainable().values():
            for _, parameter in members:
                parameter.add_(0.1)
    trained.save_legacy(tmp_path / "run.pth")
    model = load_legacy(file=tmp_path / "run.pth", checkpoint=CHECKPOINT, dtype=dtype)
    assert isinstance(model.origin, Origin)
    assert not isinstance(trained.origin, Origin)
    values = model.origin.base_values()
    base = {name: p for members in load(checkpoint=CHECKPOINT).trainable().values() for name, p in members}
    assert values.keys() == {f"{group}/{name}" for group, members in model.trainable().items() for name, _ in members}
    for key, value in values.items():
        group, name = key.split("/", 1)
        assert value.dtype == torch.float32
        assert torch.equal(value, torch.zeros_like(value) if group == "lora" else base[name]), key


def test_a_fresh_vision_tower_tells_places_from_the_start() -> None:
    patches, positions = torch.nn.Conv2d(3, 64, 8, 8), torch.nn.Parameter(torch.zeros(1, 1 + 16 * 16, 64))
    torch.manual_seed(0)
    with torch.no_grad():
        begin_with_waves(patches, positions)
    line = (torch.arange(16) + 0.5) / 16 - 0.5
    down, across = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))  # [256] each
    code = positions[0, 1:].detach()
    for wanted in (across, down, across.abs(), down.abs()):  # "on the left", "at the top", "in the middle"
        fitted = code @ torch.linalg.lstsq(code, wanted[:, None]).solution
        assert (fitted[:, 0] - wanted).abs().max() < 0.05
    even, edge = torch.full((3, 8, 8), 1.0), torch.ones(3, 8, 8).cumsum(2) - 4.5
    strength = [patches(picture[None]).detach().norm() for picture in (even / even.norm(), edge / edge.norm())]
    assert strength[1] > 3 * strength[0]  # an even patch, a picture's strongest part, is damped
