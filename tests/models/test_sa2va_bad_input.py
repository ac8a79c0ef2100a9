"""What a user can put right is one sentence and exit code 2, and nothing is left half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import CHECKPOINT, copy, write_shards
from PIL import Image

from core.commands import ask, convert
from core.contracts import UserError
from plugins.models.sa2va.components import Lora, load
from plugins.models.sa2va.published.export import save_adapter
from plugins.models.sa2va.published.folder import stored_tensors


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def truncated_shard(folder: Path) -> None:
    tensors = dict(stored_tensors(CHECKPOINT))
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 3)
    last = folder / "model-00003-of-00003.safetensors"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def quantized(folder: Path) -> None:
    tensors = dict(stored_tensors(CHECKPOINT))
    tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"].to(torch.int8)
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 1)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (truncated_shard, "model-00003-of-00003.safetensors: damaged"),
    "empty shard": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: damaged"),
    "no weights": (without("model.safetensors"), "no *.safetensors file"),
    "no tokenizer": (without("tokenizer.json", "vocab.json"), "vocab.json: not found, nor is tokenizer.json"),
    "no merges": (without("tokenizer.json", "merges.txt"), "merges.txt: not found"),
    "no tokenizer_config": (without("tokenizer_config.json"), "tokenizer_config.json: not found"),
    "damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"version"'), "the tokenizer's files cannot be read"),
    "another llm": (
        lambda f: change_config(f, lambda c: c["llm_config"].update(architectures=["LlamaForCausalLM"], model_type="llama")),
        "the language model of this Sa2VAChatModel is LlamaForCausalLM (llama), which is not supported; known are",
    ),
    "another llm by its class": (
        lambda f: change_config(f, lambda c: c["llm_config"].update(architectures=["Phi3ForCausalLM"])),
        "the language model of this Sa2VAChatModel is Phi3ForCausalLM (qwen2), which is not supported",
    ),
    "another model": (
        lambda f: change_config(f, lambda c: c.update(architectures=["LlavaForConditionalGeneration"])),
        "config.json: this is a LlavaForConditionalGeneration, which is not supported; known are Sa2VAChatModel with Q",
    ),
    "rope scaling": (
        lambda f: change_config(f, lambda c: c["llm_config"].update(rope_scaling={"type": "yarn", "factor": 4.0})),
        "rope_scaling is {'type': 'yarn'",
    ),
    "no llm": (lambda f: change_config(f, lambda c: c.pop("llm_config")), "key 'llm_config' is missing"),
    "sam2 without sizes": (lambda f: change_config(f, lambda c: c["sam2_config"].pop("hiera")), "key 'hiera' is missing"),
    "sizes of a wrong type": (
        lambda f: change_config(f, lambda c: c["llm_config"].update(hidden_size="wide")),
        "config.json: not the config",
    ),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json:1: not valid JSON"),
    "config is no object": (lambda f: (f / "config.json").write_text("[]"), "config.json: not the configuration"),
    "config is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "checkpoint: no installed model reads it: it is no published folder",
    ),
    "config is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"), "config.json: cannot be read"),
    "another pixel shuffle": (lambda f: change_config(f, lambda c: c.update(ps_version="v3")), "ps_version 'v3' is not supported"),
    "no grid": (lambda f: change_config(f, lambda c: c.update(downsample_ratio=0)), "has no whole grid at downsample_ratio 0"),
    "half a patch": (lambda f: change_config(f, lambda c: c.update(force_image_size=440)), "a picture of 440 pixels in patches of 14"),
    "sizes that do not fit": (
        lambda f: change_config(f, lambda c: c["llm_config"].update(vocab_size=600)),
        "weights do not fit config.json; 2 of another shape: language_model.lm_head.weight (536, 128) where (600, 128) is expected",
    ),
    "another template": (lambda f: change_config(f, lambda c: c.update(template="vicuna")), "template 'vicuna' is not supported"),
    "quantized": (quantized, "mlp1.1.weight is stored as int8"),
    "index is no index": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "not an index of safetensors files"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_one_sentence(fault: str, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, (damage, message) = copy(tmp_path / "checkpoint"), FAULTS[fault]
    damage(folder)
    before = {file.name for file in tmp_path.iterdir()}
    assert ask.main([str(folder), str(picture), "Please segment it.", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert {file.name for file in tmp_path.iterdir()} == before


def test_arrays_that_are_no_pictures_are_refused() -> None:
    model, image = load(checkpoint=CHECKPOINT), np.zeros((32, 48, 3), np.uint8)
    for bad in (image.astype(np.float32), image[:, :, :2], image[:0]):
        with pytest.raises(UserError, match="no picture"):
            model.predict(bad, "Please segment it.")
    with pytest.raises(UserError, match="question is empty"):
        model.predict(image, " ")
    with pytest.raises(UserError, match=r"masks \(1, 9, 9\) of a picture of 32 x 48"):
        model.predict(image, "Describe region1.", np.ones((1, 9, 9), bool))
    with pytest.raises(UserError, match="region 2 is empty"):
        model.predict(image, "Describe region1.", np.stack([np.ones((32, 48), bool), np.zeros((32, 48), bool)]))


def legacy(file: Path, state: object) -> Path:
    torch.save(state, file)
    return file


def test_a_bad_training_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("no torch file")
    whole = legacy(tmp_path / "whole.pth", {"mllm.model.mlp1.1.weight": torch.zeros(128, 256)})
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-200])
    base = load(checkpoint=CHECKPOINT, lora=Lora(r=2))
    save_adapter(base, tmp_path / "dora")
    settings = tmp_path / "dora" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"use_dora": false', '"use_dora": true'))
    save_adapter(base, tmp_path / "half")
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    save_adapter(base, tmp_path / "gone")
    (tmp_path / "gone" / "adapter_model.safetensors").unlink()
    for source, message in (
        (tmp_path / "text.pth", "text.pth: not a torch file"),
        (tmp_path / "cut.pth", "cut.pth: not a complete torch file"),
        (legacy(tmp_path / "objects.pth", {"state_dict": {"a": Path("x")}}), "it holds Python objects (pathlib"),
        (legacy(tmp_path / "list.pth", [torch.zeros(1)]), "not a dictionary of tensors"),
        (legacy(tmp_path / "other.pth", {"encoder.weight": torch.zeros(1)}), "none of its 1 keys is a trained Sa2VA tensor"),
        (whole, "5 missing although others of their group are there"),
        (tmp_path / "dora", "use_dora True is not supported"),
        (tmp_path / "half", "adapter_model.safetensors: damaged"),
        (tmp_path / "gone", "not found; PEFT's adapters are"),
    ):
        assert convert.main([str(source), str(tmp_path / "out"), "--base", str(CHECKPOINT)]) == 2, source
        error = capsys.readouterr().err.strip()
        assert message in error
        assert "\n" not in error
        assert not [file for file in tmp_path.iterdir() if file.name.startswith("out")]


def test_a_base_that_breaks_off_leaves_no_half_export(tmp_path: Path) -> None:
    folder = copy(tmp_path / "base")
    model = load(checkpoint=folder)
    truncated_shard(folder)
    with pytest.raises(UserError, match="damaged"):
        model.save(tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["base"]
