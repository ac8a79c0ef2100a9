"""Loading streams a checkpoint: no second copy of the weights is ever in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import copy, published_shapes, write_shards

MEASURE = """
import json, sys
from pathlib import Path
from plugins.models.sa2va.model import load

def resident(field):
    return 1024 * int(dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())[field].split()[0])

ratios = {}
load(checkpoint=Path(sys.argv[1]))  # what is imported on first use is not counted
for dtype, folder in zip(sys.argv[2::2], sys.argv[3::2]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present
    before = resident("VmRSS")
    model = load(checkpoint=Path(folder), dtype=dtype, train=["text_hidden_fcs"])
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    ratios[Path(folder).name] = (weights, (resident("VmHWM") - before) / weights)
    del model
print(json.dumps(ratios))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux' /proc")
def test_loading_peaks_at_most_a_fifth_above_the_weights(tmp_path: Path) -> None:
    """Shards in the three published types, 180 to 360 MB; the peak is that of a process of its own."""
    arguments = [str(copy(tmp_path / "small"))]
    for stored, loaded in (("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")):
        folder = copy(tmp_path / stored, ("model.safetensors",))
        config = json.loads((folder / "config.json").read_text())
        config["llm_config"] |= {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {key: torch.full(shape, 0.01, dtype=getattr(torch, stored)) for key, shape in published_shapes(config).items()}
        write_shards(folder, tensors, 3)
        arguments += [loaded, str(folder)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ratios = json.loads(done.stdout.splitlines()[-1])
    assert ratios["float32"][0] > 300e6
    assert {name: ratio for name, (_, ratio) in ratios.items() if ratio > 1.2} == {}
