"""Videos as Sa2VA-i does them, and SAM 2.1 in SAM 2.0's place: the choices of a recipe, and what is computed."""

from __future__ import annotations

import json
import shutil
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from native_video import SIDE, WIDTH, own_video_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from core.contracts import UserError
from plugins.models.sa2va import ask, tracking
from plugins.models.sa2va.components import Sizes, load, scratch
from plugins.models.sa2va.generation import Generated
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network, Sa2vaConfig
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.keys import is_memory
from plugins.models.sa2va.published.memory import SAM21_ONLY, memory_shapes
from plugins.models.sa2va.published.sam2_file import DECODER
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.published.tables import GROUND
from plugins.models.sa2va.replace_sam2 import main as replace_main
from plugins.models.sa2va.tracking import Memory, Original, _recall, _remember, _Remembered, track
from plugins.models.sa2va.video import Video

LARGE = 16 * SIDE
SMALL = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=1, sam_size=64, sam_width=WIDTH, hiera_width=8)


def config_of(sam21: bool) -> Sa2vaConfig:
    sizes = Sizes(vision_width=16, vision_layers=1, llm_width=16, llm_layers=1, sam_size=LARGE, sam_width=WIDTH, hiera_width=8)
    config = published_config(sizes, vocabulary=32, eos=0, template="qwen_chat")
    config["sam2_config"]["memory"] = {"num_layers": 2, "dim_feedforward": 32, "mem_dim": 64}
    return parse_config(config, sam21=sam21)


@pytest.fixture(scope="module")
def parts() -> tuple[Network, Memory, Sam2MaskDecoder]:
    """With the memory of SAM 2.1, which has everything that SAM 2.0's has."""
    torch.manual_seed(0)
    config = config_of(sam21=True)
    network, memory = Network(config), Memory(config)
    decoder = Sam2MaskDecoder(network.sam2.config.mask_decoder_config)
    for module in (network, memory, decoder):
        for name, parameter in module.named_parameters():
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=1.0 if "temporal" in name else 0.1)
        module.eval().requires_grad_(False)
    return network, memory, decoder


# ------------------------------------------------------------------------------------------ which frames


@pytest.mark.parametrize(
    ("frames", "count", "seen"),
    [
        ("first", 3, [0, 1, 2]),
        ("first", 9, [0, 1, 2, 3, 4]),
        ("uniform", 1, [0]),
        ("uniform", 3, [0, 1, 2]),
        ("uniform", 5, [0, 1, 2, 3, 4]),
        ("uniform", 12, [0, 2, 5, 8, 11]),
        ("uniform", 200, [0, 49, 99, 149, 199]),
    ],
)
def test_the_frames_that_are_seen(frames, count: int, seen: list[int]) -> None:
    assert Video(frames).seen(count) == seen
    if frames == "uniform":  # as Sa2VA-i spreads them
        assert seen == sorted(set(np.linspace(0, count - 1, 5, dtype=int).tolist()))


# ------------------------------------------------------------------------------------------ what is computed


@torch.no_grad()
@pytest.mark.parametrize("sam21", [False, True])
@pytest.mark.parametrize("frame", [1, 4, 9, 27])
def test_recalled_features_with_spread_prompts_are_transformers_own(parts, frame: int, sam21: bool, monkeypatch) -> None:
    """Prompted frames before and after this one, tracked ones in between, with and without SAM 2.1's pointers in time."""
    network, memory, _ = parts
    monkeypatch.setattr(memory, "sam21", sam21)
    count, generator = 32, torch.Generator().manual_seed(frame)
    seen = Video("uniform").seen(count)
    video = own_video_model(network.config, memory, sam21)

    def remembered(number: int) -> _Remembered:
        features = torch.randn(SIDE * SIDE, 1, 64, generator=generator).bfloat16()
        return _Remembered(features, torch.randn(1, WIDTH, generator=generator), number)

    frames = {number: remembered(number) for number in {*range(frame), *seen}}
    place = memory.memory_encoder.position_encoding((1, 64, SIDE, SIDE), "cpu", torch.float32).flatten(2).permute(2, 0, 1)
    outputs = {
        number: {"maskmem_features": one.features, "maskmem_pos_enc": place, "object_pointer": one.pointer}
        for number, one in frames.items()
    }
    stored = {
        "cond_frame_outputs": {number: outputs[number] for number in seen},
        "non_cond_frame_outputs": {number: out for number, out in outputs.items() if number not in seen},
    }
    monkeypatch.setattr(video.config, "max_cond_frame_num", -1)  # as Sa2VA has it
    coarse = torch.randn(1, WIDTH, SIDE, SIDE, generator=generator)
    theirs = video._prepare_memory_conditioned_features(
        inference_session=SimpleNamespace(output_dict_per_obj={0: stored}, dtype=torch.float32),
        frame_idx=frame,
        obj_idx=0,
        is_initial_conditioning_frame=False,
        current_vision_features=coarse.flatten(2).permute(2, 0, 1),
        current_vision_positional_embeddings=network.sam_positions(coarse.shape, "cpu", torch.float32).flatten(2).permute(2, 0, 1),
        num_total_frames=count,
    )
    prompted = [frames[number] for number in seen]
    tracked = deque((None if number in seen else frames[number] for number in range(frame)), maxlen=15)
    ours = _recall(network, memory, coarse, prompted, tracked, frame, count)
    assert torch.allclose(ours, theirs, atol=1e-5)
    late = _recall(network, memory, coarse, prompted, tracked, frame + 1, count)
    assert torch.allclose(late, theirs, atol=1e-5) == (not sam21)  # how long ago a frame was counts in SAM 2.1 alone


@torch.no_grad()
def test_a_hidden_object_is_marked_in_sam_21(parts) -> None:
    network, memory, _ = parts
    coarse, score = torch.randn(2, WIDTH, SIDE, SIDE), torch.tensor([[1.0], [-1.0]])
    decoded = SimpleNamespace(logits=3 * torch.randn(2, 4 * SIDE, 4 * SIDE), token=torch.randn(2, WIDTH), score=score)
    video = own_video_model(network.config, memory, True)
    large = F.interpolate(decoded.logits[:, None], (LARGE, LARGE), mode="bilinear", align_corners=False)
    ours = _remember(network, memory, coarse, decoded).features
    for k in range(2):
        rows = coarse[k : k + 1].flatten(2).permute(2, 0, 1)
        theirs, _ = video._encode_new_memory(rows, large[k : k + 1], score[None, k : k + 1], False)
        assert torch.allclose(ours[:, k : k + 1].float(), theirs.float(), atol=1e-2)  # bfloat16
    shown = _remember(network, memory, coarse, decoded, torch.tensor([[True], [True]])).features
    assert torch.equal(shown[:, 0], ours[:, 0])
    assert not torch.equal(shown[:, 1], ours[:, 1])


def some_pictures(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, LARGE, LARGE), generator=generator, dtype=torch.uint8) for _ in range(count)]


@torch.no_grad()
def test_finished_masks_are_the_prompts_of_the_original_decoder(parts, monkeypatch) -> None:
    """Sa2VA-i, step by step: masks at the video's size, SAM2's mask prompt, a pointer of mask 0, memory of the mask as logits."""
    network, memory, original = parts
    size, pictures = (90, 70), some_pictures(1)
    prompts = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2))
    kept: list[_Remembered] = []
    monkeypatch.setattr(tracking, "_remember", lambda *given: kept.append(_remember(*given)) or kept[-1])
    [logits] = track(network, memory, pictures, prompts, [0], Original(original, size))
    fpn = network.sam_features(pictures[0])
    still, _ = network.masks(fpn, torch.zeros(2, dtype=torch.long), prompts)  # by the tuned decoder, without memory
    masks = F.interpolate(still[:, None], size, mode="bilinear", align_corners=False) > 0
    assert masks.any(-1).any(-1).all(), "a mask without a pixel would test nothing"
    large = (F.interpolate(masks.float(), (LARGE, LARGE), mode="bilinear", align_corners=False, antialias=True) >= 0.5).float()
    assert torch.equal(logits, F.interpolate(20 * large - 10, (32, 32), mode="bilinear", align_corners=False, antialias=True)[:, 0])
    # SAM2's own words for the prompt, for one object after the other
    for k in range(2):
        points = torch.zeros(1, 1, 1, 2), -torch.ones(1, 1, 1, dtype=torch.int32)
        sparse, dense = network.sam2.prompt_encoder(*points, None, memory.mask_downsample(large[k : k + 1]))
        assert sparse.shape[2] == 2
        _, _, token, score = original(
            image_embeddings=fpn[2],
            image_positional_embeddings=network.sam2.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[original.conv_s0(fpn[0]), original.conv_s1(fpn[1])],
        )
        expected = memory.object_pointer_proj(token[0, :, 0]) if score > 0 else memory.no_object_pointer
        assert torch.allclose(kept[0].pointer[k], expected[0], atol=1e-4)
        mask = F.interpolate(logits[k][None, None], (LARGE, LARGE), mode="bilinear", align_corners=False)
        features = memory.memory_encoder(fpn[2], mask.sigmoid() * 20 - 10)[0].flatten(2).permute(2, 0, 1)
        assert torch.allclose(kept[0].features[:, k : k + 1].float(), features, atol=1e-2, rtol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("empty", [False, True])
def test_a_mask_prompt_with_a_pixel_is_there_whatever_the_score_says(parts, empty: bool, monkeypatch) -> None:
    """The pointer is that of a hidden object either way; SAM 2.1's memory is told that it is hidden only where the mask is empty."""
    network, memory, original = parts
    kept: list[_Remembered] = []
    monkeypatch.setattr(tracking, "_remember", lambda *given: kept.append(_remember(*given)) or kept[-1])
    plain = Network.decode

    def decode(self, *given):
        decoded = plain(self, *given)
        logits = torch.full_like(decoded.logits, -1.0)
        logits[:, :9] = -1.0 if empty else 1.0
        return replace(decoded, logits=logits, score=torch.full_like(decoded.score, -1.0))

    monkeypatch.setattr(Network, "decode", decode)
    [picture] = some_pictures(1)
    [logits] = track(network, memory, [picture], torch.randn(1, WIDTH), [0], Original(original, (64, 64)))
    assert bool((logits > 0).any()) != empty
    mask = F.interpolate(logits[:, None], (LARGE, LARGE), mode="bilinear", align_corners=False)
    features = memory.memory_encoder(network.sam_features(picture)[2], mask.sigmoid() * 20 - 10)[0]
    features = features + memory.occlusion_spatial_embedding_parameter[:, :, None, None] * empty
    assert torch.allclose(kept[0].features.float(), features.flatten(2).permute(2, 0, 1), atol=1e-2, rtol=1e-2)
    assert torch.allclose(kept[0].pointer, memory.no_object_pointer)


@torch.no_grad()
@pytest.mark.parametrize("way", ["tuned", "original"])
def test_every_frame_is_decoded_by_the_right_decoder(parts, way: str, monkeypatch) -> None:
    """Chosen frames by the tuned one; the others by the one that propagates, and hidden there only if that is SAM2's own."""
    network, memory, decoder = parts
    original = Original(decoder, (64, 64)) if way == "original" else None
    calls: list[tuple[str, bool, bool]] = []  # whose decoder, with a [SEG] embedding, with a mask prompt
    plain = Network.decode

    def decode(self, fine, middle, coarse, embedding, decoder=None, prompt_mask=None):
        who = "tuned" if decoder in (None, network.sam2.mask_decoder) else "original"
        calls.append((who, embedding is not None, prompt_mask is not None))
        decoded = plain(self, fine, middle, coarse, embedding, decoder, prompt_mask)
        return replace(decoded, score=torch.full_like(decoded.score, -1.0))  # believed to be hidden

    monkeypatch.setattr(Network, "decode", decode)
    logits = list(track(network, memory, some_pictures(7), torch.randn(1, WIDTH), [0, 1, 3, 4, 6], original))
    assert len(logits) == 7
    prompts = [("tuned", True, False)] + [("original", False, True)] * (way == "original")
    assert calls == prompts * 5 + [(way, False, False)] * 2
    hidden = [bool((one == tracking.NO_OBJ_SCORE).all()) for one in logits]
    assert hidden == [way == "original" and number in (2, 5) for number in range(7)]


@torch.no_grad()
def test_a_short_video_needs_no_memory(parts) -> None:
    network, _, decoder = parts
    prompts = torch.randn(2, WIDTH)
    assert len(list(track(network, None, some_pictures(3), prompts, [0, 1, 2], Original(decoder, (40, 40))))) == 3


# ------------------------------------------------------------------------------------------ from a recipe's keys to masks


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A folder with an untrained small model and a video memory of SAM 2.0."""
    folder, generator = tmp_path_factory.mktemp("propagation") / "small", torch.Generator().manual_seed(0)
    scratch(folder=folder, corpus=world / "corpus.txt", train=["projector"], sizes=SMALL)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    config["sam2_config"]["memory"] = {"num_layers": 2, "dim_feedforward": 32, "mem_dim": 64}
    (folder / "config.json").write_text(json.dumps(config))
    tensors |= {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in memory_shapes(config).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def sam2_file(folder: Path, out: Path, sam21: bool = False) -> Path:
    """What facebookresearch/sam2 would have published of the SAM 2 in ``folder``, with another mask decoder."""
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(5)
    config = json.loads((folder / "config.json").read_text())
    model = {key: tensor for key, tensor in tensors.items() if key.startswith(GROUND)}
    for key in model:
        if key.startswith(DECODER):
            model[key] = model[key] + 0.2 * torch.randn(model[key].shape, generator=generator)
    if sam21:
        shapes = memory_shapes(config, True)
        model |= {key: torch.randn(shapes[key], generator=generator) for key in SAM21_ONLY}
    named = {key.removeprefix(GROUND).replace(".g_weight", ".gamma"): tensor for key, tensor in model.items()}
    assert any(key.endswith(".gamma") for key in named)
    torch.save({"model": named}, out)
    return out


def answers(model: Sa2va, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the language model say two [SEG]; gives the numbers of pictures that it saw."""
    ids, seen = model.text.ids("Sure, [SEG] and [SEG]."), []
    asked = ask.Asker._frames

    def frames(self, given):
        seen.extend(int(frame[0, 0, 0]) for frame in given)
        return asked(self, given)

    monkeypatch.setattr(ask.Asker, "_frames", frames)
    states = torch.randn(len(ids), 32, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(ask, "greedy", lambda *given: Generated([ids], [states]))
    return seen


def numbered_frames(count: int) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = range(count)
    return frames


def test_the_keys_of_a_recipe_decide(small: Path, tmp_path: Path, monkeypatch) -> None:
    frames, file = numbered_frames(9), sam2_file(small, tmp_path / "sam2.pt")
    found: dict[str, np.ndarray] = {}
    for name, keys in {
        "upstream": {},
        "spread": {"frames": "uniform"},
        "sa2va-i": {"frames": "uniform", "propagate": "original", "sam2": file},
        "base's": {"frames": "uniform", "propagate": "original"},
    }.items():
        with monkeypatch.context() as patched:
            model = load(checkpoint=small, max_tiles=1, **keys).eval()
            seen = answers(model, patched)
            if name == "base's":
                with pytest.warns(UserWarning, match="for the untouched one give SAM2's own file"):
                    found[name] = np.stack(model.predict(frames, "Please segment both.").masks)
            else:
                found[name] = np.stack(model.predict(frames, "Please segment both.").masks)
            assert seen == ([0, 1, 2, 3, 4] if name == "upstream" else [0, 2, 4, 6, 8])
        assert found[name].shape == (2, 9, 40, 56)
        before = load_file(small / "model.safetensors")
        if name == "sa2va-i":
            given = torch.load(file, weights_only=True)["model"]
            key = "sam_mask_decoder.iou_token.weight"
            assert torch.equal(model.original().iou_token.weight, given[key])
            assert torch.equal(model.network.sam2.mask_decoder.iou_token.weight, before[GROUND + key])  # the tuned one is untouched
    chosen = [0, 2, 4, 6, 8]
    assert np.array_equal(found["sa2va-i"][:, chosen], found["base's"][:, chosen])
    assert not np.array_equal(found["sa2va-i"], found["base's"])
    assert not np.array_equal(found["upstream"], found["spread"])


def test_what_does_not_go_together_is_one_sentence(small: Path, tmp_path: Path) -> None:
    file = sam2_file(small, tmp_path / "sam2.pt")
    with pytest.raises(UserError, match="is read for propagate: original alone"):
        load(checkpoint=small, sam2=file)
    with pytest.raises(UserError, match=r"sam2 .*no\.pt is not there"):
        load.check_keys(checkpoint=small, propagate="original", sam2=tmp_path / "no.pt")
    torch.save({"model": {"encoder.weight": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"not SAM2's own file.*it has encoder\.weight"):
        load(checkpoint=small, propagate="original", sam2=tmp_path / "other.pt").original()
    model = torch.load(file, weights_only=True)["model"]
    model["maskmem_tpos_enc"] += 1
    torch.save({"model": model}, tmp_path / "base_plus.pt")
    with pytest.raises(UserError, match="another maskmem_tpos_enc: it is another SAM 2 than the one in"):
        load(checkpoint=small, propagate="original", sam2=tmp_path / "base_plus.pt").original()


# ------------------------------------------------------------------------------------------ SAM 2.1


@pytest.fixture(scope="module")
def newer(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint with SAM 2.1 in SAM 2.0's place, by the command."""
    folder = tmp_path_factory.mktemp("newer")
    out = folder / "sam21"
    assert replace_main([str(small), str(sam2_file(small, folder / "sam2.1.pt", sam21=True)), str(out)]) == 0
    return out


def test_sam_21_is_put_in_place_and_everything_else_is_kept(small: Path, newer: Path, tmp_path: Path, capsys) -> None:
    before, after = load_file(small / "model.safetensors"), load_file(newer / "model.safetensors")
    given = torch.load(newer.parent / "sam2.1.pt", weights_only=True)["model"]
    assert after.keys() - before.keys() == set(SAM21_ONLY)
    assert all(torch.equal(after[key], before[key]) for key in before if not key.startswith(GROUND))
    assert torch.equal(after[GROUND + "sam_mask_decoder.iou_token.weight"], given["sam_mask_decoder.iou_token.weight"])
    assert (newer / "config.json").read_bytes() == (small / "config.json").read_bytes()
    # and back again
    assert replace_main([str(newer), str(sam2_file(small, tmp_path / "sam2.pt")), str(tmp_path / "back")]) == 0
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == before.keys()
    model = {key: value for key, value in given.items() if "conv_s0" not in key}
    torch.save({"model": model}, tmp_path / "half.pt")
    capsys.readouterr()
    assert replace_main([str(small), str(tmp_path / "half.pt"), str(tmp_path / "half")]) == 2
    assert "2 tensors are in one only, such as" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "half").exists()


def test_the_tensors_say_which_sam_it_is(small: Path, newer: Path, tmp_path: Path) -> None:
    assert not load(checkpoint=small).network.config.sam21
    assert load(checkpoint=newer).memory().sam21
    assert load(checkpoint=newer, decoder="sam2.1").network.config.sam21
    with pytest.raises(UserError, match=r"decoder is sam2\.0, but this checkpoint holds SAM 2\.1"):
        load(checkpoint=newer, decoder="sam2.0")
    with pytest.raises(UserError, match=r"decoder is sam2\.1, but this checkpoint holds SAM 2\.0"):
        load(checkpoint=small, decoder="sam2.1")
    tensors = load_file(newer / "model.safetensors")
    half = Path(shutil.copytree(newer, tmp_path / "half"))
    save_file({key: tensor for key, tensor in tensors.items() if "obj_ptr_tpos_proj" not in key}, half / "model.safetensors")
    with pytest.raises(UserError, match=r"2 missing: .*obj_ptr_tpos_proj\.bias"):
        load(checkpoint=half)
    file = sam2_file(small, tmp_path / "sam2.pt")  # SAM 2.0's own file for a checkpoint with SAM 2.1
    with pytest.raises(UserError, match="lacks no_obj_embed_spatial: it is another SAM 2"):
        load(checkpoint=newer, propagate="original", sam2=file).original()


def test_sam_21_is_trained_exported_and_asked(newer: Path, tmp_path: Path, monkeypatch) -> None:
    model = load(checkpoint=newer, max_tiles=1, train=["text_hidden_fcs", "sam2_decoder"])
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    model.save(tmp_path / "untrained")
    before = load_file(newer / "model.safetensors")
    assert all(torch.equal(before[key], tensor) for key, tensor in load_file(tmp_path / "untrained" / "model.safetensors").items())
    with model.computing(training=True):
        vision, view = model.look(image), torch.zeros(1, dtype=torch.long)
        phrase = model.phrases(["the object"], 16)
        logits = model.segment(vision, view, model.embed(phrase.ids), phrase.mask, model.wording(["one"], None)).mask_logits
        logits.square().mean().backward()
    trained = [parameter for members in model.trainable().values() for _, parameter in members]
    torch.optim.SGD(trained, lr=0.1).step()
    model.save(tmp_path / "export")
    assert model.verify(tmp_path / "export") == {"tensors": 0.0, "logits": 0.0, "mask_logits": 0.0, "mask_pixels": 0.0}
    after = load_file(tmp_path / "export" / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith((DECODER, "text_hidden_fcs")) for key in changed)
    assert after.keys() == before.keys()
    assert {row["group"] for row in model.changes(tmp_path / "export")} >= {"sam2_decoder", "video_memory"}
    again = load(checkpoint=tmp_path / "export", max_tiles=1, frames="uniform").eval()
    answers(again, monkeypatch)
    masks = again.predict(numbered_frames(8), "Please segment both.").masks
    assert [mask.shape for mask in masks] == [(8, 40, 56)] * 2
    assert sum(is_memory(key) for key in after) == len(memory_shapes(again.network.config.published, True))


def test_published_sizes_have_the_published_shapes_of_sam_21() -> None:
    shapes = memory_shapes({}, True)
    assert [shapes[key] for key in SAM21_ONLY] == [(1, 64), (64,), (64, 256)]
    assert memory_shapes({}, True).keys() - memory_shapes({}).keys() == set(SAM21_ONLY)
