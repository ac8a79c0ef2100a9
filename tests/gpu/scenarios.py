"""Everything a run does, on fake CUDA at the fixture's size: run by ``test_fake_cuda.py`` in a process of its own.

``python scenarios.py FAMILY [NAME ...]``: on the reference checkpoint of a family, these scenarios or all.
Prints a line of JSON for each scenario: its name and what it found, or its error.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import fakedevice  # noqa: E402

fakedevice.load()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from fakecuda import FakeCuda, WrongDevice, WrongType  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from standin import Built, Phases, faults, short_generation, to_fake, trainer_of, watch_update  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from core.contracts import Region  # noqa: E402
from core.engine import checkpoint  # noqa: E402
from core.engine.evaluation import evaluate  # noqa: E402
from core.engine.parallel.blocks import recompute  # noqa: E402
from core.engine.progress import Progress  # noqa: E402
from core.recipe import load as load_recipe  # noqa: E402
from core.registry import Registry  # noqa: E402
from plugins.evaluators.refcoco import RefcocoEvaluator  # noqa: E402
from plugins.evaluators.region_caption import RegionCaption  # noqa: E402
from plugins.models.sa2va.components import load  # noqa: E402
from plugins.models.sa2va.groups import PUBLISHED_GROUPS, Lora  # noqa: E402
from plugins.schedules.alternate import Alternate  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
CHECKPOINTS = {"internvl2_5": FIXTURES / "sa2va_reference" / "tiny_sa2va_hf"}
CHECKPOINTS |= {family: FIXTURES / "families" / family / "tiny" for family in ("internvl3", "internlm2", "qwen2_5_vl", "qwen3_vl")}
SHORT = "{caption_length: 8, sampler: {k: 64}}"
SETTINGS = [
    "train={batch_size: 2, accumulate: 1}",
    "model={max_tiles: 1, lora: {r: 4}}",
    f"loops.loop1.tasks={{pseudo: {SHORT}, referring: {{caption_length: 8}}}}",
    "loops.loop2.tasks.cycle.caption_length=8",
]
WAITS = 260  # of an update of both loops with batches of 2, outside generation
BYTES = 0.5 * 2**30  # its peak
TEXT = "the red circle"
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (90, 120, 3), dtype=np.uint8)
MASK = np.zeros((90, 120), dtype=bool)
MASK[20:60, 30:90] = True


def shallow(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint with one layer of the language model and one of the picture encoder: a third of the kernels."""
    made = folder / "checkpoint"
    shutil.copytree(checkpoint, made)
    config = json.loads((made / "config.json").read_text())
    for part in ("llm_config", "text_config", "vision_config"):
        for key in ("num_hidden_layers", "depth"):
            if key in config.get(part, {}):
                config[part][key] = 1
    vision = config["vision_config"]
    vision |= {key: [0] for key in ("deepstack_visual_indexes", "fullatt_block_indexes") if key in vision}
    if "text_config" in config:
        config["text_config"].pop("layer_types", None)
        config["picture_pixels"] = [224 * 224] * 2
    (made / "config.json").write_text(json.dumps(config))
    deeper = re.compile(r".*(vision_model\.encoder\.layers|language_model\.(model\.)?layers|visual\.blocks|deepstack_merger_list)\.[1-9]")
    tensors = load_file(made / "model.safetensors")
    save_file({key: tensor for key, tensor in tensors.items() if not deeper.match(key)}, made / "model.safetensors", {"format": "pt"})
    return made


class Two:
    """A data set of two regions."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Region:
        return Region(f"r{index}", IMAGE, MASK, TEXT)


class Session:
    """One fake model with its trainer, shared by all scenarios in their order."""

    def __init__(self, mode: FakeCuda, folder: Path, family: str) -> None:
        self.mode, self.folder = mode, folder
        self.model = load(checkpoint=shallow(CHECKPOINTS[family], folder), lora=Lora(r=4), dtype="bfloat16", max_tiles=1)
        mode.token = self.model.text.seg
        to_fake(self.model, PUBLISHED_GROUPS)
        self.built: Built = trainer_of(load_recipe(ROOT / "recipes" / "dual_loop_8gpu.yaml", SETTINGS), self.model)
        short_generation(self.model, 2)
        self.phases = Phases(mode)
        watch_update(self.phases, self.built)

    def update(self, number: int) -> dict[str, Any]:
        """One update of both loops: its faults, and what it took."""
        self.phases.rows.clear()
        self.mode.waits.clear()
        self.mode.attention.calls.clear()
        self.mode.peak = self.mode.live
        values = self.built.trainer.update(number)
        assert values["optimizer/skipped"] == 0
        kernels = sorted({call.kernel for call in self.mode.attention.calls})
        took = {"peak": self.mode.peak, "waits": self.phases.waits_outside("generate"), "attention": kernels}
        return took | {"faults": faults(self.mode, self.phases, WAITS, BYTES)}


Scenario = Callable[[Session], dict[str, Any]]


# ---------------------------------------------------------------------------------------------- what a run does


def update(session: Session) -> dict[str, Any]:
    return session.update(0)


def checkpoint_and_resume(session: Session) -> dict[str, Any]:
    strategy, trainer = session.built.trainer.strategy, session.built.trainer
    groups, folder = session.model.trainable(), session.folder / "checkpoints"
    saved = checkpoint.save(folder, 1, groups, strategy.stepper.gathered_state(), trainer.teacher, {}, 2)
    state = strategy.stepper.gathered_state()
    checkpoint.load(saved, groups, state, trainer.teacher)
    strategy.stepper.take_state(state)
    devices = {str(value.device) for values in state.values() for value in values.values() if value.dim()}
    assert devices == {"cuda:0"}, devices
    return {}


def samplers(session: Session) -> dict[str, Any]:
    """Every sampler on states of the model, forward and backward."""
    registry, width = Registry(), session.model.embedding().shape[1]
    for name in [entry.name for entry in registry.list("samplers")]:
        sampler = registry.get("samplers", name).object(**({"k": 64} if name == "st_gumbel_topk" else {}))
        states = torch.zeros(2, 4, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        with session.model.computing(True, "bf16"):
            text, _ = sampler(states, session.model.head(), session.model.embedding(), [torch.Generator().manual_seed(i) for i in range(2)])
            text.float().sum().backward()
        assert states.grad is not None
        assert states.grad.device.type == "cuda"
    return {}


def predict_referring(session: Session) -> dict[str, Any]:
    found = session.model.predict(IMAGE, [TEXT, "the blue one on the left"], 4)
    assert all(one.mask is not None and one.mask.shape == MASK.shape for one in found)
    return {}


def predict_region(session: Session) -> dict[str, Any]:
    assert session.model.predict(IMAGE, "Please describe region1.", MASK[None], max_new_tokens=3).text
    return {}


def predict_video(session: Session) -> dict[str, Any]:
    assert session.model.predict([IMAGE] * 3, "Please segment the dog.", max_new_tokens=3).masks
    return {}


def evaluate_refcoco(session: Session) -> dict[str, Any]:
    return {"regions": evaluate("x", RefcocoEvaluator(data=Two(), max_new_tokens=3), session.model, Progress(0, True)).metrics["n_bad"]}


def evaluate_region_caption(session: Session) -> dict[str, Any]:
    evaluator = RegionCaption(data=Two(), max_new_tokens=3, caption_length=8, text_metrics=[])
    return {"regions": evaluate("x", evaluator, session.model, Progress(0, True)).metrics["n_bad"]}


def export(session: Session) -> dict[str, Any]:
    session.model.save(session.folder / "export")
    session.model.save_adapter(session.folder / "adapter")
    return {"files": sorted(path.suffix for path in (session.folder / "export").iterdir() if path.suffix == ".safetensors")}


def update_of_loop_1(session: Session) -> dict[str, Any]:
    """Alone, it reaches all that loop 2 does. It changes the schedule of what follows."""
    session.built.trainer.schedule = Alternate(order=["loop1"])
    return session.update(1)


def update_with_activation_checkpointing(session: Session) -> dict[str, Any]:
    """Of loop 1. Last: it changes the model."""
    recompute(session.model)
    return update_of_loop_1(session)


# ---------------------------------------------------------------------------------------------- what must not go unseen


def _raises(kind: type[BaseException], wrong: Callable[[], Any]) -> dict[str, Any]:
    try:
        wrong()
    except kind as error:
        return {"said": str(error)}
    raise AssertionError("it went unseen")


def sees_a_cpu_tensor(session: Session) -> dict[str, Any]:
    return _raises(WrongDevice, lambda: session.model.embedding()[:2] + torch.zeros(2, 1))


def sees_a_cpu_generator(session: Session) -> dict[str, Any]:
    return _raises(WrongDevice, lambda: torch.rand(3, device="cuda", generator=torch.Generator()))


def sees_a_product_of_two_types(session: Session) -> dict[str, Any]:
    """A bfloat16 layer on float32 numbers, outside ``computing``."""
    weight = session.model.embedding()
    return _raises(WrongType, lambda: F.linear(torch.zeros(2, weight.shape[1], device="cuda"), weight))


def sees_attention_in_the_math_kernel(session: Session) -> dict[str, Any]:
    """A mask with a gradient, in the language model."""
    layer = session.model.network.llm.model.layers[0].self_attn
    plain, session.mode.attention.calls = type(layer).forward, type(session.mode.attention.calls)()
    hidden = torch.zeros(1, 4, session.model.embedding().shape[1], device="cuda")
    mask = torch.zeros(1, 1, 4, 4, device="cuda", requires_grad=True)
    turned = session.model.network.llm.model.rotary_emb(hidden, torch.arange(4, device="cuda")[None])
    with session.model.computing(True, "bf16"):
        plain(layer, hidden, turned, mask)
    return {"said": faults(session.mode, Phases(session.mode), WAITS * 100, BYTES)[0]}


def sees_a_peak(session: Session) -> dict[str, Any]:
    phases = Phases(session.mode)
    with phases.phase("too large"):
        torch.empty(int(BYTES), dtype=torch.uint8, device="cuda")
    return {"said": faults(session.mode, phases, WAITS * 100, BYTES)[-1]}


def sees_waits(session: Session) -> dict[str, Any]:
    session.mode.waits.clear()
    session.mode.peak = session.mode.live
    value = torch.ones((), device="cuda")
    for _ in range(WAITS + 1):
        value.item()
    return {"said": faults(session.mode, Phases(session.mode), WAITS, BYTES)[-1]}


SCENARIOS: list[Scenario] = [
    update,
    checkpoint_and_resume,
    samplers,
    predict_referring,
    predict_region,
    predict_video,
    evaluate_refcoco,
    evaluate_region_caption,
    export,
    sees_a_cpu_tensor,
    sees_a_cpu_generator,
    sees_a_product_of_two_types,
    sees_attention_in_the_math_kernel,
    sees_a_peak,
    sees_waits,
    update_with_activation_checkpointing,
]
ON_REQUEST: list[Scenario] = [update_of_loop_1]  # what another scenario shows too


def main(family: str, *names: str) -> None:
    """``names``: of scenarios; none: all but ``ON_REQUEST``."""
    warnings.filterwarnings("ignore", "no value for")  # made-up indices
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    folder = Path(tempfile.mkdtemp(prefix="fake-cuda-"))
    try:
        mode = FakeCuda()
        with mode:
            session = Session(mode, folder, family)
            for scenario in SCENARIOS if not names else [one for one in ON_REQUEST + SCENARIOS if one.__name__ in names]:
                started = time.process_time()
                try:
                    found = scenario(session)
                except Exception as error:
                    traceback.print_exc()
                    found = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps({"name": scenario.__name__, "seconds": round(time.process_time() - started, 1), **found}), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
