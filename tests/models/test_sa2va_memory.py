"""Loading streams a checkpoint: no second copy of the weights is ever in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CHECKPOINT, FAMILIES, copy, published_shapes, write_shards

from plugins.models.sa2va.components import load
from plugins.models.sa2va.published import folder
from plugins.models.sa2va.published.folder import stored_tensors

MEASURE = """
import gc, json, sys
from pathlib import Path
from plugins.models.sa2va.components import load_legacy
from plugins.models.sa2va.components import load

def resident(field):
    return 1024 * int(dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())[field].split()[0])

ratios = {}
load(checkpoint=Path(sys.argv[1]))  # what is imported on first use is not counted
load_legacy(file=Path(sys.argv[2]), checkpoint=Path(sys.argv[1]))
for name, dtype, folder, file in zip(*(sys.argv[first::4] for first in (3, 4, 5, 6))):
    gc.collect()  # the model before is in cycles; freed while the next is loaded, it would hide the peak
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present
    before = resident("VmRSS")
    if file:
        model = load_legacy(file=Path(file), checkpoint=Path(folder), dtype=dtype)
    else:
        model = load(checkpoint=Path(folder), dtype=dtype, train=["text_hidden_fcs"])
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    ratios[name] = (weights, (resident("VmHWM") - before) / weights)
    del model
print(json.dumps(ratios))
"""


def legacy_file(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A training file that holds every tensor of the model."""
    torch.save({key if key.startswith(("text_", "grounding_")) else f"mllm.model.{key}": tensors[key] for key in tensors}, file)
    return file


def test_tensors_read_in_pieces_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 78 rows, which end inside of the three parts of a projection of 3 x 64."""
    whole = load(checkpoint=CHECKPOINT).state_dict()
    monkeypatch.setattr(folder, "_MAPPED", 20_000)
    pieces = load(checkpoint=CHECKPOINT).state_dict()
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def wide(place: Path, layers: int, vocabulary: int) -> dict[str, Any]:
    """The ``config.json`` in ``place``, whose language model is changed to one with 1024 numbers for each token."""
    config: dict[str, Any] = json.loads((place / "config.json").read_text())
    llm = config["text_config" if "text_config" in config else "llm_config"]
    llm |= {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}
    llm |= {"num_hidden_layers": layers, "vocab_size": vocabulary}
    if "text_config" in config:
        llm |= {"head_dim": 64, "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True}}
        llm.pop("layer_types", None)
        config["vision_config"]["out_hidden_size"] = 1024
    (place / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux' /proc")
def test_loading_peaks_at_most_a_fifth_above_the_weights(tmp_path: Path) -> None:
    """Shards in the three published types and a training file, 140 to 280 MB; the peak is that of a process of its own.

    In float32, the embeddings alone are half of what is loaded as bfloat16.
    """
    small = copy(tmp_path / "small")
    arguments = [str(small), str(legacy_file(tmp_path / "small.pth", dict(stored_tensors(small))))]
    for base, stored, loaded, layers, vocabulary in (
        (CHECKPOINT, "float32", "float32", 5, 536),
        (CHECKPOINT, "bfloat16", "bfloat16", 6, 536),
        (CHECKPOINT, "float16", "float32", 4, 536),
        (CHECKPOINT, "float32", "bfloat16", 4, 20000),
        (FAMILIES / "qwen2_5_vl" / "tiny", "float32", "bfloat16", 6, 536),
        (FAMILIES / "qwen3_vl" / "tiny", "bfloat16", "float32", 4, 536),
    ):
        place = copy(tmp_path / f"{base.parent.name}-{stored}-{loaded}", ("model.safetensors",), base)
        config = wide(place, layers, vocabulary)
        tensors = {key: torch.full(shape, 0.01, dtype=getattr(torch, stored)) for key, shape in published_shapes(config).items()}
        write_shards(place, tensors, 3)
        arguments += [place.name, loaded, str(place), ""]
        if stored == "bfloat16" and base == CHECKPOINT:
            arguments += ["legacy", "float32", str(place), str(legacy_file(tmp_path / "large.pth", tensors))]
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back to the system, and is not there for the next
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], env=returned, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ratios = json.loads(done.stdout.splitlines()[-1])
    print(ratios)
    assert len(ratios) == 7
    assert min(weights for weights, _ in ratios.values()) > 100e6
    assert {name: ratio for name, (_, ratio) in ratios.items() if not 0.9 < ratio <= 1.2} == {}
