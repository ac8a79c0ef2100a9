"""``sa2va`` against a tiny published checkpoint and what upstream's own code computed with it in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import copy, states
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from core.commands.ask import main
from core.contracts import Tokens, UserError
from plugins.models.sa2va import ask
from plugins.models.sa2va.backends.internvl_pictures import tile_grid, tiles_of
from plugins.models.sa2va.components import Group, Lora, load
from plugins.models.sa2va.generation import Generated
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.pixels import normalize, square
from plugins.models.sa2va.preparation import grid_cells
from plugins.models.sa2va.prompts import DESCRIBE, SEGMENT, describe_turn, question_turn, segment_turn
from plugins.models.sa2va.published.folder import stored_tensors
from plugins.models.sa2va.published.keys import is_memory

REFERENCE = Path(__file__).parents[1] / "fixtures" / "sa2va_reference"
CHECKPOINT = REFERENCE / "tiny_sa2va_hf"
CASES = json.loads((REFERENCE / "goldens" / "meta.json").read_text())["cases"]


@pytest.fixture(scope="module")
def model() -> Sa2va:
    return load(checkpoint=CHECKPOINT).eval()


def golden(case: int) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    inputs = np.load(REFERENCE / "goldens" / f"case{case}_inputs_u8.npz")
    return load_file(REFERENCE / "goldens" / f"case{case}_core.safetensors"), dict(inputs)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max().clamp_min(1.0)


@pytest.mark.parametrize("case", [0, 1])
def test_preparation_is_exact(case: int) -> None:
    expected, inputs = golden(case)
    tiles = tiles_of(inputs["image"], 448)
    assert np.array_equal(tiles.transpose(0, 2, 3, 1), inputs["tiles"])
    assert np.array_equal(square(inputs["image"], 1024).transpose(1, 2, 0), inputs["sam_image"])
    pixels = normalize(torch.from_numpy(tiles), torch.float32)
    assert torch.equal(pixels[:, :, ::16, ::16], expected["prep.pixel_values.sub"])
    if "regions" in inputs:
        ours = np.stack([grid_cells(region.astype(bool), (16, 16)) for region in inputs["regions"]])
        assert np.array_equal(ours, expected["vp.prompt_masks"].bool().numpy())


@pytest.mark.parametrize(("width", "height", "grid"), [(320, 320, (1, 1)), (300, 600, (1, 2)), (640, 427, (3, 2))])
def test_tiles_are_upstreams(width: int, height: int, grid: tuple[int, int]) -> None:
    assert tile_grid(width, height, 448) == grid


@torch.no_grad()
@pytest.mark.parametrize("case", [0, 1])
def test_features_states_and_masks(model: Sa2va, case: int) -> None:
    expected, inputs = golden(case)
    backend = model.network.backend
    features = backend.tile_features(torch.from_numpy(tiles_of(inputs["image"], 448)))
    fpn = model.network.sam_features(torch.from_numpy(square(inputs["image"], 1024))[None])
    assert not model.network.sam2.vision_encoder.neck.position_encoding(
        fpn[0].shape, fpn[0].device, fpn[0].dtype
    ).numel()  # nobody reads them
    close(backend.projector(features)[:, ::16], expected["vision.features.sub"])

    ids = expected["llm.input_ids"][0]
    last, image = backend.projector(features)[-1], backend.projector(features).flatten(0, 1)
    regions = [last[cells.bool().flatten()] for cells in expected.get("vp.prompt_masks", torch.zeros(0, 16, 16))]
    embeds = model.embed(ids).masked_scatter((ids == model.image_token)[:, None], torch.cat([image, *regions]))
    hidden = states(model, embeds[None])[0]
    close(hidden[expected["llm.text_positions"]], expected["llm.last_hidden_state.text"])
    logits = model.network.llm.lm_head(hidden)
    close(logits[expected["llm.text_positions"]], expected["llm.logits.text"])
    close(F.cross_entropy(logits[:-1], expected["llm.labels"][0, 1:], ignore_index=-100), expected["llm.loss"])
    for level, features in enumerate(fpn):
        step = features.shape[-1] // 8
        close(features[..., ::step, ::step], expected[f"sam.fpn.{level}.core"])
    embedding = model.network.text_hidden_fcs(hidden[ids == model.seg_token])
    close(embedding, expected["seg.embeddings"])
    masks, ious = model.network.masks(fpn, torch.zeros(len(embedding), dtype=torch.long), embedding)
    for k in range(len(embedding)):
        close(masks[k], expected[f"sam.seg{k}.low_res_mask"][0, 0])
        close(ious[k], expected[f"sam.seg{k}.ious"].max())
    height, width = inputs["image"].shape[:2]
    theirs = torch.cat([expected[f"sam.seg{k}.low_res_mask"][0] for k in range(len(embedding))])
    assert torch.equal(model.network.final_mask(masks, height, width), model.network.final_mask(theirs, height, width))


@pytest.mark.parametrize("case", [0, 1])
def test_answers_are_upstreams_and_masks_those_of_exact_constants(model: Sa2va, case: int) -> None:
    """Generated text equal, and no pixel differs from upstream's low-resolution masks at the picture's size."""
    expected, inputs = golden(case)
    regions = inputs["regions"].astype(bool) if "regions" in inputs else None
    answer = model.predict(inputs["image"], CASES[case]["text"], regions, max_new_tokens=32, newlines=2)
    assert answer.text + "<|end|>" == CASES[case]["prediction"]
    assert len(answer.masks) == len(CASES[case]["mask_pixels"])
    for k, mask in enumerate(answer.masks):
        theirs = model.network.final_mask(expected[f"sam.seg{k}.low_res_mask"][0], *inputs["image"].shape[:2])[0]
        assert int((torch.from_numpy(mask) != theirs).sum()) == 0


@pytest.mark.parametrize("case", [0, 1])
def test_the_command_line_writes_upstreams_mask(case: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``ask --upstream``: every pixel, with two regions, too. One newline fewer, or exact constants, and the masks are others."""
    regions = golden(case)[1].get("regions", np.zeros((0, 1, 1), np.uint8))
    options = ["--out", str(tmp_path / "masks"), "--upstream", "--max-new-tokens", "32", "--json"]
    for number, region in enumerate(regions):
        Image.fromarray(region.astype(bool)).save(tmp_path / f"{number}.png")
        options += ["--region", str(tmp_path / f"{number}.png")]
    picture = REFERENCE / "goldens" / f"image{case}.png"
    assert main([str(CHECKPOINT), str(picture), CASES[case]["text"], *options]) == 0
    told = json.loads(capsys.readouterr().out)["answers"][0]
    assert told["text"] + "<|end|>" == CASES[case]["prediction"]
    mask = np.asarray(Image.open(told["files"][0][0]))
    theirs = np.load(REFERENCE / "goldens" / f"case{case}_e2e_masks.npz")
    assert np.array_equal(mask, theirs[theirs.files[0]].squeeze().astype(bool))
    assert told["shares"] == [[mask.mean()]]


@pytest.mark.parametrize("case", [0, 1])
def test_the_prompt_is_upstreams_token_for_token(model: Sa2va, case: int) -> None:
    expected, inputs = golden(case)
    counts = expected["vp.prompt_masks"].flatten(1).sum(1).tolist() if "vp.prompt_masks" in expected else None
    text = question_turn(model.text.turn, [256 * len(inputs["tiles"])], CASES[case]["text"], counts, 2)
    assert model.text.ids(text) == expected["llm.prompt_ids"][0].tolist()
    if not counts:  # the pieces that training puts together, the phrase between them
        before, after = segment_turn(model.text.turn, 256, *SEGMENT[0])
        pieces = [before, " the red cup", after]
        assert [token for piece in pieces for token in model.text.ids(piece)] == expected["llm.prompt_ids"][0].tolist()
        assert describe_turn(model.text.turn, 256, 3) == question_turn(model.text.turn, [256], DESCRIBE, [3])
    if counts:  # as in training: one newline after the regions
        assert question_turn(model.text.turn, [256], "Q", counts, 1).split("</vp>.")[1].startswith("\nQ")


def test_each_of_several_seg_tokens_gives_its_own_mask(model: Sa2va, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is given; its [SEG] states are those of a forward over prompt and answer.

    What stands after the first [SEG] does not change it, so that its mask is the one that upstream gives for "Sure, [SEG].".
    """
    expected, inputs = golden(0)
    image = inputs["image"]
    ids = model.text.ids("Sure, [SEG] and [SEG], <p> dog </p> [SEG].<|end|>")
    seen = []

    @torch.no_grad()
    def given(backend, heads, length, ended):
        read = model.sequences.read([heads[0].followed_by(model.embed(torch.tensor(ids)))]).last[:, -len(ids) :]  # [1, n, D]
        seen.append(read[0][torch.tensor(ids) == model.seg_token])
        return Generated([ids], list(read))

    monkeypatch.setattr(ask, "greedy", given)
    answer = model.predict(image, CASES[0]["text"])
    assert len(answer.masks) == 3
    theirs = model.network.final_mask(expected["sam.seg0.low_res_mask"][0], *image.shape[:2])[0]
    assert np.array_equal(answer.masks[0], theirs.numpy())
    assert answer.text == "Sure, [SEG] and [SEG], <p> dog </p> [SEG]."
    vision = model.look(image)
    for state, mask in zip(seen[0], answer.masks, strict=True):
        logits = model.masks(vision, torch.zeros(1, dtype=torch.long), model.seg_embedding(state[None]))
        assert np.array_equal(model.network.final_mask(logits, *image.shape[:2])[0].numpy(), mask)
    assert not np.array_equal(answer.masks[0], answer.masks[2])


@torch.no_grad()
def test_prompt_and_teacher_forced_segmentation(model: Sa2va) -> None:
    """The model's own path (prompt pieces, wording, teacher-forced answer) gives upstream's prompt ids and mask."""
    expected, inputs = golden(0)
    tiles, picture = torch.from_numpy(tiles_of(inputs["image"], 448)), torch.from_numpy(square(inputs["image"], 1024))[None]
    vision, view = model.vision(tiles, [len(tiles)], [(16, 16)], picture), torch.zeros(1, dtype=torch.long)
    phrase = model.phrases(["the red cup"], 32)
    wording = model.wording(["a"], None)
    wording.answers = Tokens(expected["llm.answer_ids"], torch.ones_like(expected["llm.answer_ids"], dtype=torch.bool))
    prompt = model.sequences.segment(vision, view, [model.embed(phrase.ids[0])], wording.before, wording.after)[0]
    assert torch.equal(prompt.embeddings[[0, -1]], model.embed(expected["llm.prompt_ids"][0, [0, -1]]))
    assert len(prompt) == expected["llm.prompt_ids"].shape[1]
    result = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, wording)
    close(result.mask_logits[0], expected["sam.seg0.low_res_mask"][0, 0])
    close(result.seg_embedding[0], expected["seg.embeddings"][0])


def test_generation_gives_upstreams_text_and_mask(model: Sa2va) -> None:
    _, inputs = golden(0)
    [prediction] = model.predict(inputs["image"], ["the red cup"], 32)
    assert prediction.text + "<|end|>" == CASES[0]["prediction"]
    upstream = np.load(REFERENCE / "goldens" / "case0_e2e_masks.npz")
    theirs = next(iter(upstream.values())).squeeze().astype(bool)
    assert prediction.mask is not None
    # upstream's inference rounds SAM2's constants to bfloat16, ours are exact: they report 0.31 % of the pixels flipped
    assert (prediction.mask != theirs).mean() < 0.005


def test_batched_generation_equals_one_by_one(model: Sa2va) -> None:
    image = golden(1)[1]["image"]
    phrases = ["the red cup", "a very long phrase about something on the far left of it", "x"]
    together = model.predict(image, phrases, 12)
    for phrase, batched in zip(phrases, together, strict=True):
        [alone] = model.predict(image, [phrase], 12)
        assert alone.text == batched.text


def test_every_published_key_has_one_place_and_its_way_back() -> None:
    network = load(checkpoint=CHECKPOINT).network
    names, layout = dict(network.state_dict()), network.config.layout
    keys = [key for key, _ in stored_tensors(CHECKPOINT) if not is_memory(key)]
    back = [published for name, tensor in names.items() for published in layout.names(name, tensor.shape[0] if tensor.ndim else 0)]
    assert sorted(back) == sorted(keys)
    for key in keys:
        assert all(native in names for native in layout.place(key).natives), key


@pytest.mark.parametrize("loaded", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_round_trip_is_byte_identical(stored: torch.dtype, loaded: str, tmp_path: Path) -> None:
    """Whatever type the frozen weights have in memory; also zeros below zero, under adapters."""
    base, tensors = copy(tmp_path / "base"), {key: tensor.to(stored) for key, tensor in stored_tensors(CHECKPOINT)}
    tensors["language_model.model.layers.0.self_attn.q_proj.weight"][0, :2] = -0.0
    (base / "config.json").write_text((base / "config.json").read_text().replace("\n  ", "\n\t"))
    (base / "modeling_sa2va_chat.py").write_text("# remote code\n")
    save_file(tensors, base / "model.safetensors")
    load(checkpoint=base, lora=Lora(r=4), dtype=loaded).save(tmp_path / "out")
    after = dict(stored_tensors(tmp_path / "out"))
    assert tensors.keys() == after.keys()
    for key, tensor in tensors.items():
        assert torch.equal(tensor.view(torch.uint8), after[key].view(torch.uint8)), key
    files = {file.name: file.read_bytes() for file in base.iterdir() if file.suffix != ".safetensors"}
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir() if f.suffix != ".safetensors"} == files


@pytest.mark.parametrize("train", [None, ["language_model", "lora"]])
def test_trained_weights_survive_export(train: list[Group] | None, tmp_path: Path) -> None:
    """A moved model, LoRA included, gives the same states after export and reload; embeddings and head are the base's."""
    torch.manual_seed(0)
    model = load(checkpoint=CHECKPOINT, lora=Lora(r=4), train=train).eval()
    with torch.no_grad():
        for members in model.trainable().values():
            for _, parameter in members:
                parameter += 0.02 * torch.randn_like(parameter)
    model.save(tmp_path / "out")
    reloaded = load(checkpoint=tmp_path / "out").eval()
    with torch.no_grad():
        embeds = torch.randn(1, 9, 128)
        close(states(reloaded, embeds), states(model, embeds))
    stored = dict(stored_tensors(tmp_path / "out"))
    for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        assert torch.equal(stored[key], dict(stored_tensors(CHECKPOINT))[key])
    changed = stored["language_model.model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(changed, dict(stored_tensors(CHECKPOINT))["language_model.model.layers.0.self_attn.q_proj.weight"])


def test_the_trained_set_is_exactly_the_four_groups() -> None:
    model = load(checkpoint=CHECKPOINT, lora=Lora(r=4))
    assert list(model.trainable()) == ["projector", "text_hidden_fcs", "lora", "sam2_decoder"]
    chosen = {id(parameter) for members in model.trainable().values() for _, parameter in members}
    assert chosen == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad)
    assert not any("embed_tokens" in name or "lm_head" in name for members in model.trainable().values() for name, _ in members)


def test_a_checkpoint_with_wrong_weights_is_refused_with_its_keys(tmp_path: Path) -> None:
    tensors = dict(stored_tensors(CHECKPOINT))
    del tensors["mlp1.1.weight"]
    tensors["language_model.model.layers.7.stray"] = torch.zeros(1)
    tensors["text_hidden_fcs.0.bias"] = torch.zeros(3)
    for file in CHECKPOINT.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load(checkpoint=tmp_path)
    message = str(caught.value)
    assert "1 missing: mlp1.1.weight;" in message
    assert "layers.7.stray" in message
    assert "text_hidden_fcs.0.bias" in message
    with pytest.raises(UserError, match="no such checkpoint folder"):
        load(checkpoint=tmp_path / "nowhere")
