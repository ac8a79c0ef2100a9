"""Masks through a video: the memory against transformers' own, and prompted frames against still pictures."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import CHECKPOINT, copy
from native_video import SIDE, WIDTH, own_video_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from core.asking.looking import read_visual
from core.contracts import UserError
from plugins.models.sa2va import ask
from plugins.models.sa2va.components import Sizes, load, scratch
from plugins.models.sa2va.generation import Generated
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.network import Network, Sa2vaConfig
from plugins.models.sa2va.pixels import square
from plugins.models.sa2va.prompts import question_turn
from plugins.models.sa2va.published.config import parse_config
from plugins.models.sa2va.published.memory import memory_shapes, native_name
from plugins.models.sa2va.published.scratch_config import published_config
from plugins.models.sa2va.tracking import PROMPTED, Memory, _recall, _remember, _Remembered, track


def small_config() -> Sa2vaConfig:
    sizes = Sizes(vision_width=16, vision_layers=1, llm_width=16, llm_layers=1, sam_size=16 * SIDE, sam_width=WIDTH, hiera_width=8)
    config = published_config(sizes, vocabulary=32, eos=0, template="qwen_chat")
    config["sam2_config"]["memory"] = {"num_layers": 2, "dim_feedforward": 32, "mem_dim": 64}
    return parse_config(config)


@pytest.fixture(scope="module")
def parts() -> tuple[Network, Memory]:
    torch.manual_seed(0)
    network, memory = Network(small_config()), Memory(small_config())
    for name, parameter in [*network.named_parameters(), *memory.named_parameters()]:
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=1.0 if "temporal" in name else 0.1)
    return network.eval().requires_grad_(False), memory.eval().requires_grad_(False)


def test_every_memory_tensor_has_a_module() -> None:
    config = small_config()
    names = {native_name(key): shape for key, shape in memory_shapes(config.published).items()}
    unused = {None}  # no_mem_pos_enc, mask_downsample: for other kinds of prompt
    assert {name: tuple(tensor.shape) for name, tensor in Memory(config).state_dict().items()} == {
        name: shape for name, shape in names.items() if name not in unused
    }


@torch.no_grad()
@pytest.mark.parametrize("frame", [5, 6, 9, 14, 30])
def test_recalled_features_are_those_of_transformers_own_video_model(parts: tuple[Network, Memory], frame: int) -> None:
    network, memory = parts
    config, generator = network.config, torch.Generator().manual_seed(frame)
    video = own_video_model(config, memory, sam21=False)

    def remembered() -> _Remembered:
        features = torch.randn(SIDE * SIDE, 1, 64, generator=generator).bfloat16()
        return _Remembered(features, torch.randn(1, WIDTH, generator=generator))

    frames = {number: remembered() for number in range(frame)}
    place = memory.memory_encoder.position_encoding((1, 64, SIDE, SIDE), "cpu", torch.float32).flatten(2).permute(2, 0, 1)
    outputs = {
        number: {"maskmem_features": one.features, "maskmem_pos_enc": place, "object_pointer": one.pointer}
        for number, one in frames.items()
    }
    stored = {
        "cond_frame_outputs": {number: out for number, out in outputs.items() if number < PROMPTED},
        "non_cond_frame_outputs": {number: out for number, out in outputs.items() if number >= PROMPTED},
    }
    coarse = torch.randn(1, WIDTH, SIDE, SIDE, generator=generator)
    position = network.sam_positions(coarse.shape, "cpu", torch.float32)
    theirs = video._prepare_memory_conditioned_features(
        inference_session=SimpleNamespace(output_dict_per_obj={0: stored}, dtype=torch.float32),
        frame_idx=frame,
        obj_idx=0,
        is_initial_conditioning_frame=False,
        current_vision_features=coarse.flatten(2).permute(2, 0, 1),
        current_vision_positional_embeddings=position.flatten(2).permute(2, 0, 1),
        num_total_frames=frame + 3,
    )
    tracked = deque((frames[number] for number in range(PROMPTED, frame)), maxlen=15)
    ours = _recall(network, memory, coarse, [frames[number] for number in range(PROMPTED)], tracked)
    assert torch.allclose(ours, theirs, atol=1e-5)
    if frame > PROMPTED + 1:  # where a tracked frame stands in time shows in the result
        tracked.reverse()
        assert not torch.allclose(
            _recall(network, memory, coarse, [frames[number] for number in range(PROMPTED)], tracked), theirs, atol=1e-4
        )


@torch.no_grad()
def test_what_is_remembered_is_what_transformers_encodes(parts: tuple[Network, Memory]) -> None:
    """Probabilities times 20 minus 10; the pointer of an invisible object is the fixed one."""
    network, memory = parts
    coarse, score = torch.randn(2, WIDTH, SIDE, SIDE), torch.tensor([[1.0], [-1.0]])
    decoded = SimpleNamespace(logits=3 * torch.randn(2, 4 * SIDE, 4 * SIDE), token=torch.randn(2, WIDTH), score=score)
    one = _remember(network, memory, coarse, decoded)
    large = F.interpolate(decoded.logits[:, None], (16 * SIDE, 16 * SIDE), mode="bilinear", align_corners=False)
    features = memory.memory_encoder(coarse, large.sigmoid() * 20 - 10)[0]
    assert torch.equal(one.features.float(), features.flatten(2).permute(2, 0, 1).bfloat16().float())
    assert torch.allclose(one.pointer[0], memory.object_pointer_proj(decoded.token[:1])[0], atol=1e-4)
    assert torch.equal(one.pointer[1], memory.no_object_pointer[0])


@torch.no_grad()
def test_objects_do_not_touch_each_other_and_prompted_frames_are_still_pictures(parts: tuple[Network, Memory]) -> None:
    network, memory = parts
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randint(0, 256, (1, 3, 16 * SIDE, 16 * SIDE), generator=generator, dtype=torch.uint8) for _ in range(8)]
    prompts = torch.randn(2, WIDTH, generator=generator)
    both = list(track(network, memory, pictures, prompts))
    for k in range(2):
        alone = list(track(network, memory, pictures, prompts[k : k + 1]))
        assert all(torch.allclose(pair[k], one[0], atol=1e-4) for pair, one in zip(both, alone, strict=True))
    for picture, logits in list(zip(pictures, both, strict=True))[:PROMPTED]:
        still, _ = network.masks(network.sam_features(picture), torch.zeros(2, dtype=torch.long), prompts)
        assert torch.allclose(still, logits, atol=1e-4)
    # what a later frame shows depends on the earlier ones
    other = list(track(network, memory, [pictures[1], *pictures[1:]], prompts))
    assert not torch.allclose(other[6], both[6], atol=1e-4)


@pytest.fixture(scope="module")
def model() -> Sa2va:
    return load(checkpoint=CHECKPOINT).eval()


@torch.no_grad()
def test_the_pointer_of_an_unseen_object_is_upstreams(model: Sa2va) -> None:
    golden = load_file(CHECKPOINT.parent / "goldens" / "case0_core.safetensors")
    image = np.load(CHECKPOINT.parent / "goldens" / "case0_inputs_u8.npz")["image"]
    network, memory = model.network, model.memory()
    fpn = network.sam_features(torch.from_numpy(square(image, 1024))[None])
    decoder, coarse = network.sam2.mask_decoder, fpn[2] + network.sam2.no_memory_embedding.view(1, -1, 1, 1)
    decoded = network.decode(decoder.conv_s0(fpn[0]), decoder.conv_s1(fpn[1]), coarse, golden["seg.embeddings"])
    assert torch.allclose(decoded.score, golden["sam.seg0.object_score_logits"], atol=1e-5)
    assert torch.allclose(_remember(network, memory, fpn[2], decoded).pointer, golden["sam.seg0.obj_ptr"], atol=1e-5)


@pytest.fixture
def small(tmp_path: Path, world: Path) -> Sa2va:
    """An untrained small model in a folder that has a video memory."""
    sizes = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=1, sam_size=64, sam_width=WIDTH, hiera_width=8)
    folder, generator = tmp_path / "small", torch.Generator().manual_seed(0)
    scratch(folder=folder, corpus=world / "corpus.txt", train=["projector"], sizes=sizes)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    config["sam2_config"]["memory"] = {"num_layers": 2, "dim_feedforward": 32, "mem_dim": 64}
    (folder / "config.json").write_text(json.dumps(config))
    tensors |= {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in memory_shapes(config).items()}
    save_file(tensors, folder / "model.safetensors")
    return load(checkpoint=folder, max_tiles=1).eval()


def test_a_video_gets_a_mask_for_each_frame(small: Sa2va, monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model sees five frames; the first five masks are those of still pictures, the others are tracked."""
    ids, prompts = small.text.ids("Sure, [SEG] and [SEG]."), []

    def given(backend, heads, length, ended):
        prompts.append(heads[0])
        return Generated([ids], [torch.randn(len(ids), 32, generator=torch.Generator().manual_seed(3))])

    monkeypatch.setattr(ask, "greedy", given)
    frames = np.random.default_rng(0).integers(0, 256, (8, 40, 56, 3), dtype=np.uint8)
    answer = small.predict(frames, "<image>\nPlease segment both.")
    assert answer.text == "Sure, [SEG] and [SEG]."
    assert [mask.shape for mask in answer.masks] == [(8, 40, 56)] * 2
    assert {mask.dtype for mask in answer.masks} == {np.dtype(bool)}
    question = small.text.ids(question_turn(small.text.turn, [16] * 5, "Please segment both.", None, 1))
    assert len(prompts[0]) == len(question)
    for number in range(PROMPTED):
        still = small.predict(frames[number], "Please segment both.")
        for mask, one in zip(answer.masks, still.masks, strict=True):
            assert np.array_equal(mask[number], one)
    other = small.predict([frames[1], *frames[1:]], "Please segment both.")
    assert np.array_equal(answer.masks[0][1:5], other.masks[0][1:5])


def test_bad_videos_are_one_sentence(model: Sa2va, tmp_path: Path) -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(UserError, match="no frames"):
        model.predict([], "Please segment it.")
    with pytest.raises(UserError, match=r"frame 1: .*48 x 32 and 40 x 32"):
        model.predict([image, image[:, :40]], "Please segment it.")
    with pytest.raises(UserError, match="regions are about one picture"):
        model.predict([image, image], "Please segment it.", np.ones((1, 32, 48), bool))
    folder = copy(tmp_path / "still")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"memory": {', '"memory": null, "unused": {'))
    assert '"memory": null' in (folder / "config.json").read_text()
    with pytest.raises(UserError, match="no video memory; give at most 5 frames"):
        load(checkpoint=folder).memory()


def test_videos_and_folders_are_read_as_frames(tmp_path: Path) -> None:
    import av
    from PIL import Image

    frames = [np.full((48, 64, 3), 40 * number, np.uint8) for number in range(4)]
    with av.open(str(tmp_path / "clip.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number:03d}.png")
    for read in (read_visual(tmp_path / "clip.mp4"), read_visual(tmp_path / "frames")):
        assert [frame.shape for frame in read] == [(48, 64, 3)] * 4
        assert all(abs(float(one.mean()) - float(frame.mean())) < 6 for one, frame in zip(read, frames, strict=True))
    assert read_visual(tmp_path / "frames" / "002.png").shape == (48, 64, 3)
