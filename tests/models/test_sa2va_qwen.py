"""Sa2VA on Qwen2.5-VL and Qwen3-VL beyond what upstream has computed: training, regions, bounds, files, faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.contracts import BadSample, LossTerms, Region, RegionBatch, UserError
from core.engine.noise import RunNoise
from plugins.loops.caption_mask_caption import CaptionMaskCaption
from plugins.loops.mask_caption_mask import MaskCaptionMask
from plugins.loops.region_to_words import RegionToWords
from plugins.losses.bce_dice import BceDice
from plugins.losses.caption_ce import CaptionCe
from plugins.models.sa2va.backends.qwen_pictures import LEAST, MOST, NativePictures, patches_of, sides
from plugins.models.sa2va.components import Lora, load, load_legacy
from plugins.models.sa2va.generation import greedy
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.verify import _wrong_tensors
from plugins.samplers.st_gumbel_topk import StGumbelTopk
from plugins.teachers.ema import Ema

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
SIDES = [(96, 160), (150, 90)]
TEXTS = ["red cup", "the dog on the left"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(small_qwen: Callable[[str], Path], family: str) -> Sa2va:
    """With adapters that are moved: they start at zero, and then half of them has no gradient."""
    torch.manual_seed(1)  # the adapters' first weights: with some, loop 2 finds no mask, and then the decoder has no gradient
    model = load(checkpoint=small_qwen(family), lora=Lora(r=4, alpha=8, dropout=0.0)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in model.trainable()["lora"]:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def batch_of(model: Sa2va) -> RegionBatch:
    samples = []
    for number, shape in enumerate(SIDES):
        mask = np.zeros(shape, bool)
        mask[10:70, 20 + number : 80] = True
        image = np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)
        samples.append(model.preparation(Region(str(number), image, mask, TEXTS[number])))
    return model.preparation.collate(samples)


def reached(model: Sa2va, terms: LossTerms) -> dict[str, float]:
    sum(term.weight * term.total / term.count for term in terms.terms.values()).backward()
    return {group: sum(float(p.grad.norm()) for _, p in members if p.grad is not None) for group, members in model.trainable().items()}


def test_both_loops_reach_the_four_groups(model: Sa2va) -> None:
    batch, teacher = batch_of(model), Ema(decay=0.9)
    teacher.start(model.trainable())
    losses = {"mask": BceDice(points=64), "answer": CaptionCe()}
    first = MaskCaptionMask(sampler=StGumbelTopk(k=16), losses=losses, caption_length=4)
    second = CaptionMaskCaption(losses={"caption": CaptionCe(), "answer": CaptionCe()}, caption_length=4, mask_gradient="straight_through")
    for loop in (first, second):
        with model.computing(training=True):
            terms = loop(model, teacher, batch, RunNoise(0, 0))
        assert terms.metrics.get("empty_masks", (0.0, 1))[0] == 0
        norms = reached(model, terms)
        assert set(norms) == {"projector", "text_hidden_fcs", "lora", "sam2_decoder"}
        assert all(0 < norm < float("inf") for norm in norms.values()), norms
        model.zero_grad()
    assert not any(parameter.requires_grad for name, parameter in model.network.named_parameters() if name.startswith("vision."))


@torch.no_grad()
def test_regions_are_the_pictures_own_tokens_numbered_as_text(model: Sa2va, family: str) -> None:
    batch = batch_of(model)
    vision = model.encode(batch)
    shown, prompts = model.sequences.shown(vision, batch.view1), model.sequences.describe(vision, batch.view1, batch.cells)
    for picture, prompt, cells, grid in zip(shown, prompts, batch.cells, batch.grids, strict=True):
        text = model.text.ids(model.text.turn.before + "<|vision_start|>")
        count, chosen = grid[0] * grid[1], cells.flatten()
        start, n = len(text), int(chosen.sum())
        inside = prompt.positions[:, start : start + count]
        assert torch.equal(prompt.embeddings[start : start + count], picture.tokens)
        assert inside[0].unique().tolist() == [start]
        assert inside[1:].amin(1).tolist() == [start, start]
        assert inside[1:].amax(1).tolist() == [start + grid[0] - 1, start + grid[1] - 1]
        behind = prompt.positions[:, start + count :]
        assert torch.equal(behind, (start + max(grid) + torch.arange(behind.shape[1])).expand(3, -1))
        vp = model.text.ids("<vp>")[0]
        ids = torch.tensor(model.text.ids("\nThere are 1 part regions in the picture: region1<vp>"))
        at = start + count + 1 + len(ids)  # behind <|vision_end|>
        assert ids[-1] == vp
        assert torch.equal(prompt.embeddings[at : at + n], picture.tokens[chosen])
        if family == "qwen3_vl":
            assert prompt.deep.shape == (len(prompt), 3, 64)
            assert torch.equal(prompt.deep[at : at + n], picture.deep[chosen])
            assert torch.equal(prompt.deep[start : start + count], picture.deep)
            rest = torch.ones(len(prompt), dtype=torch.bool)
            rest[start : start + count] = rest[at : at + n] = False
            assert not prompt.deep[rest].any()
        else:
            assert prompt.deep is None


@torch.no_grad()
def test_a_gate_weighs_a_regions_tokens_and_their_deeper_features(model: Sa2va, family: str) -> None:
    batch = batch_of(model)
    vision = model.encode(batch)
    plain, half = (
        model.sequences.describe(vision, batch.view1, batch.cells, [torch.full(cells.shape, share) for cells in batch.cells])
        for share in (1.0, 0.5)
    )
    for one, other, cells in zip(plain, half, batch.cells, strict=True):
        changed = (one.embeddings != other.embeddings).any(1)
        assert int(changed.sum()) == int(cells.sum())
        torch.testing.assert_close(other.embeddings[changed], one.embeddings[changed] / 2)
        if family == "qwen3_vl":
            assert torch.equal((one.deep != other.deep).flatten(1).any(1), changed)
            torch.testing.assert_close(other.deep[changed], one.deep[changed] / 2)


@torch.no_grad()
def test_generation_gives_the_states_of_reading_at_once(model: Sa2va, family: str) -> None:
    batch = batch_of(model)
    prompts = model.sequences.describe(model.encode(batch), batch.view1, batch.cells)

    def read(row: int, ids: list[int]) -> tuple[Tensor, Tensor]:
        states = model.sequences.read([prompts[row].followed_by(model.embed(torch.tensor(ids, dtype=torch.long)))])
        return states.last[0, len(prompts[row]) - 1 :], states.seg[0, len(prompts[row]) :]

    found = greedy(model.network.backend, prompts, 4, lambda ids: False)
    for row, ids in enumerate(found.ids):
        last, seg = read(row, ids[:-1])
        assert model.network.backend.head(last).argmax(-1).tolist() == ids
        torch.testing.assert_close(found.states[row], seg, rtol=1e-4, atol=1e-4)
        assert torch.allclose(last[1:], seg) == (family == "qwen2_5_vl")  # of Qwen3-VL it is the state before the final norm


def test_training_has_no_system_prompt_and_questions_have_the_templates(model: Sa2va, family: str) -> None:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" if family == "qwen2_5_vl" else ""
    assert model.text.turn.before == "<|im_start|>user\n"
    assert model.text.asked.before == system + "<|im_start|>user\n"
    assert model.text.asked.between == model.text.turn.between == "<|im_end|>\n<|im_start|>assistant\n"
    assert (model.text.turn.marks.joint, model.text.asked.marks.joint) == ("\n", "")


def test_a_chat_template_that_cannot_be_followed_is_refused(small_qwen: Callable[[str], Path], tmp_path: Path) -> None:
    for name, template, message in (
        ("damaged", "{% for", "chat template cannot be applied"),
        ("foreign", "{{ messages[0]['role'] }}", r"does not write a picture as <\|vision_start\|><\|image_pad\|><\|vision_end\|>"),
    ):
        folder = shutil.copytree(small_qwen("qwen3_vl"), tmp_path / name)
        (folder / "chat_template.jinja").write_text(template)
        with pytest.raises(UserError, match=message):
            load(checkpoint=folder)


def test_questions_about_pictures_regions_and_videos(model: Sa2va) -> None:
    image, mask = np.zeros((60, 90, 3), np.uint8), np.zeros((60, 90), bool)
    mask[10:40, 10:50] = True
    [answer] = model.predict(image, ["a red square"], 4)
    assert answer.mask is None or answer.mask.shape == mask.shape
    assert isinstance(model.predict(image, "What is region1?", mask[None], max_new_tokens=3).text, str)
    assert isinstance(model.predict([image] * 2, "What is it?", max_new_tokens=3).text, str)


# ------------------------------------------------------------------------------------------ pictures


def test_sides_are_upstreams() -> None:
    """Numbers of qwen_vl_utils and of the processor, both with upstream's bounds."""
    assert sides(300, 336, 32, LEAST, MOST) == (608, 672)
    assert sides(840, 616, 28, LEAST, MOST) == (840, 616)
    assert sides(3000, 4000, 28, LEAST, MOST) == (1092, 1456)
    assert sides(1, 1, 32, LEAST, MOST) == (640, 640)
    assert sides(10, 2000, 32, LEAST, MOST) == (64, 8960)
    with pytest.raises(UserError, match=r"a picture of 2010 x 10 pixels is too narrow: .* 1 : 200; crop it"):
        sides(10, 2010, 32, LEAST, MOST)


@pytest.mark.parametrize(("tiles", "bounds"), [(12, (LEAST, MOST)), (4, (LEAST, 4 * 448 * 448)), (1, (448 * 448, 448 * 448))])
def test_max_tiles_bounds_the_pixels(tiles: int, bounds: tuple[int, int], small_qwen: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(small_qwen("qwen3_vl"), tmp_path / "published")
    config = json.loads((folder / "config.json").read_text())
    del config["picture_pixels"]
    (folder / "config.json").write_text(json.dumps(config))
    facts = load.facts(checkpoint=folder, max_tiles=tiles)
    pictures = facts["preparation"].pictures
    assert (pictures.least, pictures.most) == bounds
    patches, grid = pictures.picture(np.zeros((2000, 3000, 3), np.uint8))
    assert len(patches) == 4 * grid[0] * grid[1]
    assert patches.size <= 3 * bounds[1]


def test_patches_of_a_block_stand_together() -> None:
    image = np.arange(8 * 12 * 3, dtype=np.int64).reshape(8, 12, 3).astype(np.uint8)
    patches = patches_of(image, 2, 2)
    assert patches.shape == (24, 3, 2, 2)
    for number, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2), (0, 4), (0, 6)]):
        assert np.array_equal(patches[number], image[row : row + 2, column : column + 2].transpose(2, 0, 1))


def test_a_question_resizes_twice_and_training_once() -> None:
    pictures, image = NativePictures(16, 2, 1024, MOST), np.random.default_rng(0).integers(0, 256, (130, 200, 3), dtype=np.uint8)
    once, twice = pictures.picture(image), pictures.asked(image)
    assert once[1] == twice[1] == (4, 6)
    assert not np.array_equal(once[0], twice[0])
    assert np.array_equal(pictures.frame(image)[0], twice[0])


def test_a_picture_that_is_too_narrow_is_one_bad_sample(model: Sa2va) -> None:
    image, mask = np.zeros((2, 450, 3), np.uint8), np.ones((2, 450), bool)
    with pytest.raises(BadSample, match="too narrow"):
        model.preparation(Region("7", image, mask, "a line"))
    with pytest.raises(UserError, match="a picture of 450 x 2 pixels is too narrow"):
        model.predict(image, "What is it?")


# ------------------------------------------------------------------------------------------ files


@torch.no_grad()
def test_what_is_trained_survives_export_adapters_and_training_file(model: Sa2va, family: str, tmp_path: Path) -> None:
    base = model.base
    for _, parameter in model.trainable()["projector"]:
        parameter += 0.01
    model.save(tmp_path / "out")
    assert _wrong_tensors(model, base, tmp_path / "out") == 0
    before, after = dict(stored_tensors(base)), dict(stored_tensors(tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all(key.startswith(("model.model.visual.merger.", "model.model.language_model.layers.")) for key in changed)
    assert any(key.endswith("self_attn.q_proj.weight") for key in changed)
    model.save_adapter(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    # as PEFT writes them for the module that upstream's trainer adapts, all of the Qwen-VL
    assert "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in stored
    assert all(key.startswith("base_model.model.model.language_model.layers.") for key in stored)
    model.save_legacy(tmp_path / "trained.pth")
    for file in (tmp_path / "adapter", tmp_path / "trained.pth"):
        again = load_legacy(file=file, checkpoint=base)
        ours, theirs = (dict(each.trainable()["lora"]) for each in (model, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, parameter in again.trainable()["projector"]:
        assert torch.equal(parameter, dict(model.trainable()["projector"])[name])


@pytest.mark.parametrize("prefix", ["mllm.model.", "mllm.model.base_model.model."])
def test_a_training_file_of_upstreams_names(small_qwen: Callable[[str], Path], prefix: str, tmp_path: Path) -> None:
    """With PEFT around the model, and without; adapters as upstream's trainer strips their name."""
    base = small_qwen("qwen3_vl")
    key = "model.visual.merger.linear_fc2.bias"
    whole = {name: tensor for name, tensor in stored_tensors(base) if name.startswith("model.model.visual.merger.")}
    state = {prefix + name.removeprefix("model."): tensor.clone() for name, tensor in whole.items()}
    state[prefix + key] += 1
    torch.save(state, tmp_path / "iter_1.pth")
    model = load_legacy(file=tmp_path / "iter_1.pth", checkpoint=base)
    assert torch.equal(model.network.projector.linear_fc2.bias, whole["model." + key] + 1)


# ------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (None, {"picture_pixels": [100, 50]}, r"picture_pixels \[100, 50\] must be the least and the most pixels"),
        (None, {"picture_pixels": "many"}, "not the configuration of a Sa2VA checkpoint"),
        (None, {"vision_config": None}, "key 'vision_config' is missing"),
        (None, {"text_config": None}, "key 'text_config' is missing"),
        (
            None,
            {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]},
            "this is a Qwen3VLForConditional.*known are",
        ),
        ("text_config", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "text_config.rope_scaling is {'rope_type': 'yarn'"),
        ("text_config", {"rope_theta": None}, "rope_theta"),
        (
            "text_config",
            {"model_type": "qwen3_vl_moe_text"},
            r"language model of this Sa2VAChatModelQwen is .*qwen3_vl_moe_text.*known are",
        ),
        ("vision_config", {"out_hidden_size": 32}, "out_hidden_size 32 is not text_config.hidden_size 64"),
        ("vision_config", {"deepstack_visual_indexes": [1, 9]}, r"deepstack_visual_indexes \[1, 9\] cannot be layers"),
    ],
)
def test_faults_of_a_config_are_told(
    part: str | None, values: dict[str, Any], message: str, small_qwen: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(small_qwen("qwen3_vl"), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (config if part is None else config[part]).update(values)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load(checkpoint=folder)


def test_sliding_windows_are_refused(small_qwen: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(small_qwen("qwen2_5_vl"), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["use_sliding_window"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="use_sliding_window is not supported"):
        load(checkpoint=folder)


def test_words_are_learned_from_a_region_s_own_cells(model: Sa2va) -> None:
    batch = batch_of(model)
    tokens = model.region_tokens(model.encode(batch), batch.view1, batch.cells)
    assert [len(each) for each in tokens] == [int(cells.sum()) for cells in batch.cells]
    term = RegionToWords(caption_length=8)(model, None, batch, RunNoise(0, 0)).terms["words"]
    (term.total / term.count).backward()
    projector = [parameter.grad for _, parameter in model.trainable()["projector"]]
    assert all(grad is not None and grad.isfinite().all() for grad in projector)
    assert any(grad.abs().sum() > 0 for grad in projector if grad is not None)
