"""Videos as Sa2VA-i does them, and SAM 2.1 in SAM 2.0's place: the choices of a recipe, and what is computed."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from native_video import SIDE, WIDTH, own_video_model
from torch import Tensor
from torch.nn import functional as F
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from plugins.models.sa2va import tracking
from plugins.models.sa2va.components import Sizes
from plugins.models.sa2va.network import Network, Sa2vaConfig
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.tracking import Memory, Original, _recall, _remember, _Remembered, track
from plugins.models.sa2va.video import Video

LARGE = 16 * SIDE


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
        assert torch.allclose(ours[:, k : k + 1].float(), theirs.float(), rtol=2**-7, atol=1e-2)  # bfloat16: one step of it
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
