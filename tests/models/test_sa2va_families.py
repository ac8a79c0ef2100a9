"""Published families beside Sa2VA-1B and -4B, each against what upstream's own code computed with a tiny checkpoint of it in float32."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from core.contracts import UserError
from plugins.models.sa2va.components import Lora, load, load_legacy
from plugins.models.sa2va.generation import captions
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.pixels import normalize, square
from plugins.models.sa2va.preparation import grid_cells
from plugins.models.sa2va.prompts import question_turn, turn_format
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.tokenizer import read_tokenizer
from plugins.models.sa2va.published.verify import _wrong_tensors

FAMILIES = Path(__file__).parents[1] / "fixtures" / "families"
QWEN_VL = ["qwen2_5_vl", "qwen3_vl"]
NAMES = ["internvl3", "internlm2", *QWEN_VL]
CASES = [(family, case) for family in NAMES for case in (0, 1)]


@pytest.fixture(scope="module")
def models() -> dict[str, Sa2va]:
    return {family: load(checkpoint=FAMILIES / family / "tiny").eval() for family in NAMES}


def golden(family: str, case: int) -> tuple[dict[str, Any], dict[str, torch.Tensor], np.ndarray, np.ndarray | None]:
    """What is known of a case, its tensors, its picture, and its regions [n, H, W] bool."""
    folder = FAMILIES / family
    facts = json.loads((folder / "meta.json").read_text())["cases"][str(case)]
    regions = folder / "goldens" / f"case{case}_regions.npz"
    image = np.array(Image.open(FAMILIES / f"{'qwen_' * (family in QWEN_VL)}image{case}.png").convert("RGB"))
    tensors = load_file(folder / "goldens" / f"case{case}.safetensors")
    return facts, tensors, image, np.load(regions)["regions"].astype(bool) if regions.is_file() else None


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max().clamp_min(1.0)


@torch.no_grad()
@pytest.mark.parametrize(("family", "case"), CASES)
def test_the_prompt_is_equal_and_states_are_within_rounding(models: dict[str, Sa2va], family: str, case: int) -> None:
    model, (facts, theirs, image, regions) = models[family], golden(family, case)
    vision, view = model.look(image), torch.zeros(1, dtype=torch.long)
    [shown] = model.sequences.shown(vision, view)
    close(shown.tokens[None].view_as(theirs["vision.features"]), theirs["vision.features"])
    cells = [grid_cells(region, shown.grid) for region in regions] if regions is not None else []
    if cells:
        assert np.array_equal(np.stack(cells), theirs["vp.prompt_masks"].bool().numpy())
    counts = [int(each.sum()) for each in cells] or None
    turn = question_turn(model.text.asked, [len(shown.tokens)], facts["text"], counts, 2)
    assert model.text.ids(turn) == theirs["prompt_ids"].tolist()
    prompt = model.sequences.fill(turn, [shown], [shown.region(torch.from_numpy(each).flatten()) for each in cells])
    read = model.sequences.read([prompt.followed_by(model.embed(theirs["answer_ids"]))])
    last, states = read.last[0], read.seg[0]  # [L, D]
    if family in QWEN_VL:
        close(last[theirs["text_positions"]], theirs["lm_head_input.text"])
        close(states[theirs["text_positions"]], theirs["hidden_states_last.text"])
        assert torch.equal(prompt.positions, theirs["position_ids"][-3:].long())  # of Qwen2.5-VL the first row is for the mask
        assert int(prompt.positions.max()) + 1 - len(prompt) == int(theirs["rope_deltas"])
    else:
        close(states[theirs["text_positions"]], theirs["last_hidden_state.text"])
    logits = F.linear(last, *model.head())
    close(logits[theirs["text_positions"]], theirs["logits.text"])
    close(F.cross_entropy(logits[:-1], theirs["labels"][1:].long(), ignore_index=-100), theirs["loss"])
    embedding = model.seg_embedding(states[theirs["seg.positions"]])
    close(embedding, theirs["seg.embeddings.teacher_forced"])

    pixels = normalize(torch.from_numpy(square(image, 1024))[None], torch.float32)
    close(pixels[..., ::64, ::64], theirs["sam.pixel_values.sub"])
    for level, features in enumerate(vision.fpn([0])):
        step = features.shape[-1] // 8
        close(features[0, :, ::step, ::step], theirs[f"sam.fpn.{level}.sub"])
    masks, ious = model.network.masks(vision.fpn([0]), view, theirs["seg.embeddings"])
    close(masks[0, ::2, ::2], theirs["sam.seg0.low_res_mask.sub"])
    close(ious[0], theirs["sam.seg0.ious"].max())


@torch.no_grad()
@pytest.mark.parametrize(("family", "case"), [(family, case) for family in QWEN_VL for case in (0, 1)])
def test_pictures_and_deeper_features_of_qwen_vl_are_upstreams(models: dict[str, Sa2va], family: str, case: int) -> None:
    model, (facts, theirs, image, _) = models[family], golden(family, case)
    patches, grid = model.preparation.pictures.asked(image)
    assert [1, grid[0] * 2, grid[1] * 2] == facts["grid_thw"]
    taken: list[torch.Tensor] = []
    handle = model.network.vision.patch_embed.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    try:
        [features] = model.network.backend.encode(torch.from_numpy(patches), [len(patches)], [grid])
    finally:
        handle.remove()
    assert hashlib.sha256(taken[0].contiguous().numpy().tobytes()).hexdigest() == facts["pixel_values_sha256"]  # every bit
    assert (features.deep is None) == (family == "qwen2_5_vl")
    for layer in range(0 if features.deep is None else features.deep.shape[1]):
        close(features.deep[::16, layer], theirs[f"vision.deepstack.{layer}.sub"])


@pytest.mark.parametrize("family", QWEN_VL)
def test_qwen_vls_tokenizer_gives_the_ids_and_texts_of_upstreams(models: dict[str, Sa2va], family: str) -> None:
    tokenizer = models[family].tokenizer
    for case in json.loads((FAMILIES / family / "goldens" / "tokenizer_cases.json").read_text())["cases"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids_without_special"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


#: A pixel whose logit is as near to zero as the rounding of float32 sums in another order goes either way.
UNDECIDED = 1e-5


@pytest.mark.parametrize(("family", "case"), CASES)
@pytest.mark.parametrize("constants", ["exact", "bfloat16"])
def test_texts_and_masks_are_upstreams(
    models: dict[str, Sa2va], family: str, case: int, constants: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pixel that is decided, with exact constants as in training and with the rounded ones of upstream's inference."""
    model, (facts, _, image, regions) = models[family], golden(family, case)
    monkeypatch.setattr(model.network, "sam_constants", torch.bfloat16 if constants == "bfloat16" else torch.float32)
    seen, final_mask = [], model.network.final_mask

    def spy(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
        large = F.interpolate(logits[:, None], (1024, 1024), mode="bilinear", align_corners=False)
        seen.append(F.interpolate(large, (height, width), mode="bilinear", align_corners=False)[:, 0].numpy())
        return final_mask(logits, height, width)

    monkeypatch.setattr(model.network, "final_mask", spy)
    answer = model.predict(image, facts["text"], regions, max_new_tokens=24, newlines=2)
    assert answer.text + "<|im_end|>" == facts["prediction"]
    theirs = np.load(FAMILIES / family / "goldens" / f"case{case}_masks.npz")
    assert len(answer.masks) == len(facts["mask_pixels"])
    for number, mask in enumerate(answer.masks):
        other = mask != theirs[f"seg{number}{'_exact_constants' if constants == 'exact' else ''}"][0]
        undecided = np.abs(seen[0][number]) <= UNDECIDED
        assert undecided.sum() < 20  # how many lie so near to 0 is the processor's, too
        assert not (other & ~undecided).any()


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_untouched_round_trip_is_byte_identical(family: str, dtype: str, tmp_path: Path) -> None:
    base = FAMILIES / family / "tiny"
    model = load(checkpoint=base, lora=Lora(r=4), dtype=dtype)
    model.save(tmp_path / "out")
    before, after = dict(stored_tensors(base)), dict(stored_tensors(tmp_path / "out"))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor.view(torch.uint8), after[key].view(torch.uint8)), key
    files = {file.name: file.read_bytes() for file in base.iterdir() if file.suffix != ".safetensors"}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors"} == files


# ------------------------------------------------------------------------------------------ InternVL3


def changed(tmp_path: Path, family: str, **llm: Any) -> Path:
    """A copy of a tiny checkpoint with other keys in ``llm_config``."""
    folder = tmp_path / family
    shutil.copytree(FAMILIES / family / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"] |= llm
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", ["internvl3", "internlm2"])
def test_dynamic_scaling_is_the_identity_up_to_its_length_and_longer_sequences_are_refused(family: str, tmp_path: Path) -> None:
    facts, theirs, image, _ = golden(family, 0)
    length = len(theirs["prompt_ids"]) + len(theirs["generated_ids"]) - 1  # the last token is not read
    model = load(checkpoint=changed(tmp_path, family, max_position_embeddings=length)).eval()
    assert model.predict(image, facts["text"], max_new_tokens=24).text + "<|im_end|>" == facts["prediction"]
    assert model.network.backend.longest == length
    model.network.backend.longest = length - 1
    refused = rf"a sequence of {length} tokens is longer than the {length - 1} of this checkpoint.*dynamic RoPE scaling"
    with pytest.raises(UserError, match=refused):
        model.predict(image, facts["text"], max_new_tokens=24)
    vision, view, cells = model.look(image), torch.zeros(1, dtype=torch.long), [torch.ones(16, 16, dtype=torch.bool)]
    with pytest.raises(UserError, match=rf"tokens is longer than the {length - 1} of this checkpoint"):
        model.caption_states(vision, view, cells, model.tokenize(["a red cup"], 8))
    prompts = model.sequences.describe(vision, view, cells)
    model.network.backend.longest = len(prompts[0]) + 2  # the prompt fits, and two new tokens
    assert len(captions(model.network.backend, prompts, 3, lambda ids: False)[0]) == 3
    with pytest.raises(UserError, match=rf"a sequence of {len(prompts[0]) + 3} tokens is longer"):
        captions(model.network.backend, prompts, 4, lambda ids: False)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling is {'type': 'yarn', 'factor': 4.0}, which is not supported"),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is {'rope_type': 'linear'"),
    ],
)
def test_other_scaling_is_refused(rope: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(checkpoint=changed(tmp_path, "internvl3", **rope))
    assert message in str(caught.value)


def test_a_template_may_be_spelled_with_hyphens() -> None:
    assert turn_format("qwen-chat") == turn_format("qwen_chat")
    with pytest.raises(UserError, match=r"template 'internvl2_5' is not supported; known turn formats are .*internlm2_chat"):
        turn_format("internvl2_5")


# ------------------------------------------------------------------------------------------ InternLM2


def test_internlm2s_tokenizer_gives_the_ids_and_texts_of_upstreams(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(FAMILIES / "internlm2" / "tiny", 440)
    for case in json.loads((FAMILIES / "internlm2" / "goldens" / "tokenizer_cases.json").read_text())["cases"]:
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids_without_special"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]
    folder = changed(tmp_path, "internlm2")
    (folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="the tokenizer's files cannot be read"):
        read_tokenizer(folder, 440)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model: not found"):
        read_tokenizer(folder, 440)


def moved(train: list[Any] | None = None) -> Sa2va:
    """InternLM2 with adapters, all that is trained moved away from the base."""
    generator = torch.Generator().manual_seed(0)
    model = load(checkpoint=FAMILIES / "internlm2" / "tiny", lora=Lora(r=4, alpha=8, dropout=0.0), train=train).eval()
    with torch.no_grad():
        for members in model.trainable().values():
            for _, parameter in members:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
@pytest.mark.parametrize("train", [None, ["language_model", "lora", "embeddings"]])
def test_trained_internlm2_survives_export_under_upstreams_names(train: list[Any] | None, tmp_path: Path) -> None:
    model = moved(train)
    model.save(tmp_path / "out")
    base = dict(stored_tensors(FAMILIES / "internlm2" / "tiny"))
    after = dict(stored_tensors(tmp_path / "out"))
    assert {key: tensor.shape for key, tensor in after.items()} == {key: tensor.shape for key, tensor in base.items()}
    assert not torch.equal(
        after["language_model.model.layers.1.attention.wqkv.weight"], base["language_model.model.layers.1.attention.wqkv.weight"]
    )
    assert _wrong_tensors(model, FAMILIES / "internlm2" / "tiny", tmp_path / "out") == 0
    states, embeddings = [], torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(9).expand(1, 1, -1)
    for each in (model, load(checkpoint=tmp_path / "out").eval()):
        states.append(each.network.backend.forward(embeddings, positions).last)
    assert (states[0] - states[1]).abs().max() < 0.02 * states[0].abs().max()  # the export is bfloat16, as the base is


@torch.no_grad()
def test_internlm2s_adapters_are_those_of_its_fused_matrices(tmp_path: Path) -> None:
    """One A for wqkv, and B's rows grouped as the matrix's are: what PEFT on upstream's own module would write, and reads."""
    model = moved()
    model.save_adapter(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0."
    names = ["attention.wo", "attention.wqkv", *(f"feed_forward.w{number}" for number in (1, 2, 3))]
    assert sorted(key for key in stored if key.startswith(prefix)) == sorted(
        f"{prefix}{name}.lora_{side}.weight" for name in names for side in "AB"
    )
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["w1", "w2", "w3", "wo", "wqkv"]
    model.save(tmp_path / "out")
    base, after = (
        dict(stored_tensors(folder))["language_model.model.layers.0.attention.wqkv.weight"]
        for folder in (FAMILIES / "internlm2" / "tiny", tmp_path / "out")
    )
    a, b = (stored[f"{prefix}attention.wqkv.lora_{side}.weight"] for side in "AB")
    assert torch.equal(after, (base.float() + 2 * b @ a).bfloat16())
    model.save_legacy(tmp_path / "trained.pth")
    for file in (tmp_path / "adapter", tmp_path / "trained.pth"):
        again = load_legacy(file=file, checkpoint=FAMILIES / "internlm2" / "tiny")
        ours, theirs = (dict(each.trainable()["lora"]) for each in (model, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(again.network.projector.linear_1.weight, model.network.projector.linear_1.weight)


def test_the_three_parts_of_wqkv_learn_one_a() -> None:
    model = moved()
    layer = model.network.llm.model.layers[0].self_attn
    a = layer.q_proj.lora_A["default"].weight
    assert layer.k_proj.lora_A["default"].weight is a
    assert layer.v_proj.lora_A["default"].weight is a
    assert sum(parameter is a for _, parameter in model.trainable()["lora"]) == 1
    x = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(2))
    (layer.q_proj(x).sum() + layer.k_proj(x).sum() + layer.v_proj(x).sum()).backward()
    parts = [module.lora_B["default"].weight.sum(0) for module in (layer.q_proj, layer.k_proj, layer.v_proj)]
    torch.testing.assert_close(a.grad, 2 * torch.outer(sum(parts), x.sum((0, 1))))
