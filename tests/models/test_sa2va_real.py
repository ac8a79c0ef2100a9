"""The published sizes without their weights, shards, training files, upstream's rounded constants, and mixed precision."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.contracts import UserError
from plugins.models.sa2va.components import Lora, load, load_legacy
from plugins.models.sa2va.network import Network
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.memory import memory_shapes

FIXTURES = Path(__file__).parents[1] / "fixtures"
REFERENCE = FIXTURES / "sa2va_reference"
CHECKPOINT = REFERENCE / "tiny_sa2va_hf"
VISION = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 448,
    "norm_type": "layer_norm",
    "qkv_bias": True,
    "qk_normalization": False,
}
QWEN = {
    "1B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864},
    "4B": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008},
}


def needed(size: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for line in (FIXTURES / "sa2va_real_sizes.txt").read_text().splitlines()[1:]:
        name, sides = line.split()
        if name[2:3] == ":":
            if not name.startswith(size):
                continue
            name = name[3:]
        span = re.search(r"\{(\d+)-(\d+)\}", name)
        for number in range(int(span[1]), int(span[2]) + 1) if span else [0]:
            shapes[name.replace(span[0], str(number)) if span else name] = tuple(map(int, sides.split("x")))
    return shapes


@pytest.mark.parametrize("size", ["1B", "4B"])
def test_the_published_sizes_have_every_name_and_shape(size: str) -> None:
    published = {"llm_config": {**QWEN[size], "vocab_size": 151674}, "vision_config": VISION, "force_image_size": 448, "ps_version": "v2"}
    with torch.device("meta"):
        network = Network(parse_config(published))
    native, layout = network.state_dict(), network.config.layout
    ours: dict[str, tuple[int, ...]] = dict(memory_shapes(published))
    for name, tensor in native.items():
        for key in layout.names(name, tensor.shape[0] if tensor.ndim else 0):
            kind, shape = layout.place(key).kind, tuple(tensor.shape)
            ours[key] = {"split": (3 * shape[0], *shape[1:]), "row": (1, *shape[1:])}.get(kind, shape)
    assert ours == needed(size)


def copy(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    shutil.copytree(CHECKPOINT, folder)
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


def test_shards_are_read_by_their_index_and_a_truncated_one_is_refused(tmp_path: Path) -> None:
    tensors, folder = dict(stored_tensors(CHECKPOINT)), copy(tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": keys[i::2] for i in range(2)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    state, whole = load(checkpoint=folder).state_dict(), load(checkpoint=CHECKPOINT).state_dict()
    assert all(torch.equal(state[name], whole[name]) for name in whole)
    last = folder / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors: damaged"):
        load(checkpoint=folder)
    last.unlink()
    with pytest.raises(UserError, match="missing model-00002"):
        load(checkpoint=folder)


def test_video_memory_must_be_there_unless_the_config_has_none(tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in stored_tensors(CHECKPOINT) if "no_obj_ptr" not in key}
    folder = copy(tmp_path / "a", tensors)
    with pytest.raises(UserError, match=r"1 missing: grounding_encoder\.sam2_model\.no_obj_ptr"):
        load(checkpoint=folder)
    config = json.loads((folder / "config.json").read_text())
    config["sam2_config"]["memory"] = None
    (folder / "config.json").write_text(json.dumps(config))
    load(checkpoint=folder)


def legacy(tmp_path: Path, **changed: torch.Tensor) -> tuple[Path, dict[str, torch.Tensor]]:
    """A training file as upstream's trainer writes it, and the published tensors that it amounts to."""
    generator = torch.Generator().manual_seed(0)
    base, state, merged = dict(stored_tensors(CHECKPOINT)), {}, {}
    for key, tensor in base.items():
        name = key if key.startswith(("text_hidden", "grounding")) else f"mllm.model.{key}"
        if key.startswith(("mlp1.", "text_hidden_fcs.")) or "sam_mask_decoder" in key:
            merged[key] = tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
            state[f"module.{name}"] = merged[key]
        elif re.search(r"layers\.\d+\.(self_attn|mlp)\.\w+\.weight", key) and key.startswith("language_model"):
            a, b = torch.randn(4, tensor.shape[1], generator=generator), 0.01 * torch.randn(tensor.shape[0], 4, generator=generator)
            stem = "module." + name.replace("language_model.", "language_model.base_model.model.").removesuffix(".weight")
            state |= {f"{stem}.lora_A.default.weight": a, f"{stem}.lora_B.default.weight": b, f"{stem}.base_layer.weight": tensor}
            merged[key] = tensor + 8 / 4 * b @ a
        elif "embed_tokens" in key:
            state[f"module.{name}"] = tensor + 1  # spoilt by training: must not be taken
        elif key.endswith("g_weight"):
            state[f"module.{name}".replace("g_weight", "gamma")] = tensor
    file = tmp_path / "iter_10.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": state | changed}, file)
    return file, base | merged


def test_a_training_file_becomes_a_published_folder(tmp_path: Path) -> None:
    from core.commands import convert

    file, expected = legacy(tmp_path)
    out = tmp_path / "out"
    assert convert.main([str(file), str(out), "--base", str(CHECKPOINT), "--lora-alpha", "8", "--verify"]) == 0
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.allclose(stored[key], tensor, atol=1e-6), key


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_training_files_are_read_plain_or_wrapped_with_or_without_ddps_prefix(prefix: str, wrapped: bool, tmp_path: Path) -> None:
    """Also in torch's file format of old, which cannot be mapped into memory."""
    file, _ = legacy(tmp_path)
    state = {prefix + key.removeprefix("module."): tensor for key, tensor in torch.load(file, weights_only=True)["state_dict"].items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state} if wrapped else state, file, _use_new_zipfile_serialization=wrapped)
    model = load_legacy(file=file, checkpoint=CHECKPOINT, lora_alpha=8)
    for name, parameter in model.trainable()["lora"]:
        stored = state[f"{prefix}mllm.model.language_model.base_model.model.{name.removeprefix('llm.')}"]
        assert torch.equal(parameter, stored), name
    assert torch.equal(model.network.projector.linear_1.weight, state[f"{prefix}mllm.model.mlp1.1.weight"])
    assert torch.equal(model.embedding(), load(checkpoint=CHECKPOINT).embedding())  # never taken


def test_foreign_training_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stray"):
        load_legacy(file=legacy(tmp_path, **{"module.mllm.model.stray": torch.zeros(1)})[0], checkpoint=CHECKPOINT)
    other = {"mllm.model.vision_model.encoder.layers.0.ls1": torch.zeros(64)}
    with pytest.raises(UserError, match=r"differ from the base's .*ls1"):
        load_legacy(file=legacy(tmp_path, **other)[0], checkpoint=CHECKPOINT)
    bad = tmp_path / "bad.pth"
    torch.save({"state_dict": {"a": Path("x")}}, bad)
    with pytest.raises(UserError, match="Python objects"):
        load_legacy(file=bad, checkpoint=CHECKPOINT)


@pytest.mark.parametrize("case", [0, 1])
def test_end_to_end_equals_upstream_with_its_rounded_constants(case: int) -> None:
    facts = json.loads((REFERENCE / "goldens" / "meta.json").read_text())["cases"][case]
    inputs = np.load(REFERENCE / "goldens" / f"case{case}_inputs_u8.npz")
    model = load(checkpoint=CHECKPOINT, sam_constants="bfloat16").eval()
    regions = inputs["regions"].astype(bool) if "regions" in inputs else None
    answer = model.predict(inputs["image"], facts["text"], regions, max_new_tokens=32, newlines=2)
    masks = answer.masks
    assert answer.text + "<|end|>" == facts["prediction"]
    theirs = np.load(REFERENCE / "goldens" / f"case{case}_e2e_masks.npz")
    assert len(masks) == len(facts["mask_pixels"])
    for mask, name in zip(masks, theirs.files, strict=True):
        assert int((mask != theirs[name].squeeze().astype(bool)).sum()) == 0


def test_frozen_bfloat16_under_autocast_is_near_float32() -> None:
    image = np.load(REFERENCE / "goldens" / "case0_inputs_u8.npz")["image"]
    losses = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = load(checkpoint=CHECKPOINT, lora=Lora(r=4, dropout=0.0), dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            vision, view = model.look(image), torch.zeros(1, dtype=torch.long)
            phrase = model.phrases(["the red cup"], 8)
            result = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, model.wording(["a"], None))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(result.mask_logits, torch.ones_like(result.mask_logits))
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in model.trainable()["sam2_decoder"] if "conv_s" in n)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
