"""Videos as Sa2VA-i does them by a recipe's keys, with SAM2's own file; SAM 2.1 in SAM 2.0's place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from native_video import WIDTH
from safetensors.torch import load_file, save_file

from core.contracts import UserError
from plugins.models.sa2va import ask
from plugins.models.sa2va.components import Sizes, load, scratch
from plugins.models.sa2va.generation import Generated
from plugins.models.sa2va.model import Sa2va
from plugins.models.sa2va.published.keys import is_memory
from plugins.models.sa2va.published.memory import SAM21_ONLY, memory_shapes
from plugins.models.sa2va.published.sam2_file import DECODER
from plugins.models.sa2va.published.tables import GROUND
from plugins.models.sa2va.replace_sam2 import main as replace_main

SMALL = Sizes(tile=64, vision_width=32, vision_layers=1, llm_width=32, llm_layers=1, sam_size=64, sam_width=WIDTH, hiera_width=8)


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
