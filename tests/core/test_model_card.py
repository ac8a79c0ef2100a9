"""The card that an export gets: what a hub reads in its head, and what a run has recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.checkpoints.model_card import Export, write_card

RECIPE = {
    "name": "tiny",
    "seed": 3,
    "model": {"use": "sa2va", "checkpoint": "/home/somebody/models/Sa2VA-1B"},
    "loops": {"loop1": {"tasks": {"pseudo": {"use": "mask_caption_mask"}}}},
    "gradient": {"use": "pcgrad_orthogonal"},
    "optimizer": {"use": "adamw", "lr": 5e-5},
    "train": {"updates": 120, "batch_size": 8, "accumulate": 2},
}
MADE_OF = {
    "versions": {"dualloop": "0.1.0", "torch": "2.9"},
    "commit": "0123456789ab",
    "contents": {"model.checkpoint": {"model.safetensors": {"sha256": "f" * 64}, "config.json": {"sha256": "0" * 64}}},
    "paths": {"model.checkpoint": ["Sa2VA-1B", "/home/somebody/models/Sa2VA-1B"]},
    "components": {"loops.loop1.tasks.pseudo.data.lvis": {"target": "plugins.datasets.dam:Lvis"}},
    "sources": {"loops.loop1.tasks.pseudo.data.lvis": {"samples": 4321}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-1"
    (folder / "checkpoints" / "update-000120").mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "made_of.json").write_text(json.dumps(MADE_OF))
    (folder / "result.json").write_text(json.dumps({"after": {"referring": {"cIoU": 0.7, "n_bad": 0}}}))
    return folder


def card_of(run: Path, value: float, update: str = "update-000120") -> None:
    folder = run / "evaluation" / update / "referring"
    folder.mkdir(parents=True)
    results = {name: {"cIoU": {"value": value, "interval": [value - 0.1, value + 0.1]}} for name in ("referring", "referring:lora")}
    (folder / "card.json").write_text(json.dumps({"results": results}))


def written(tmp_path: Path, export: Export, base_card: str = "") -> str:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    if base_card:
        (out / "README.md").write_text(base_card)
    return write_card(out, export).read_text()


def test_the_head_is_what_hubs_read(run, tmp_path):
    base_card = "---\nlicense: apache-2.0\nlicense_link: LICENSE\nlanguage: en\n---\n# Sa2VA\nlicense: none of this\n"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "LICENSE").write_text("text")
    text = written(tmp_path, Export("mine", Path("/x/Sa2VA-1B"), run=run, update=120, component="sa2va"), base_card)
    head = text.split("---\n")[1]
    assert head.splitlines()[:3] == ["license: apache-2.0", "license_link: LICENSE", 'base_model: "Sa2VA-1B"']
    assert "- sa2va" in head.splitlines()
    assert (tmp_path / "out" / "README.base.md").read_text() == base_card
    assert "The base's card says `apache-2.0`; its LICENSE is in this folder." in text


def test_what_the_run_has_recorded(run, tmp_path):
    text = written(tmp_path, Export("mine", Path("/home/somebody/models/Sa2VA-1B"), run=run, update=120))
    assert "of the run `tiny-1`, update 120" in text
    assert f"model.safetensors: sha256 `{'f' * 64}`" in text
    assert "- loop1: pseudo (`mask_caption_mask`)" in text
    assert "commit 0123456789ab" in text
    assert "`loops.loop1.tasks.pseudo.data.lvis` (plugins.datasets.dam:Lvis): 4321 samples" in text
    assert "/home/somebody" not in text, "a card that goes to a hub names no folders of this machine"
    assert "The base's card names no licence." in text
    assert "license" not in text.split("---")[1]


def test_metrics_are_of_just_these_weights(run, tmp_path):
    assert "| referring | cIoU | 0.7000 |" in written(tmp_path, Export("mine", None, run=run, update=120)), "as the run measured itself"
    for other in (Export("m", None, run=run, update=60), Export("m", None, groups="lora", run=run, update=120)):
        assert "have not been measured" in written(tmp_path, other)
    assert "have not been measured" in written(tmp_path, Export("m", None, weights="teacher", run=run, update=120))
    card_of(run, 0.6)
    card_of(run, 0.5, "update-000120-teacher")
    assert "| referring | cIoU | 0.6000 [0.5000, 0.7000] |" in written(tmp_path, Export("m", None, run=run, update=120))
    assert "| referring | cIoU | 0.6000 [0.5000, 0.7000] |" in written(tmp_path, Export("m", None, groups="lora", run=run, update=120))
    assert "0.5000 [0.4000, 0.6000]" in written(tmp_path, Export("m", None, weights="teacher", run=run, update=120))


def test_a_training_file_knows_less(tmp_path):
    base = tmp_path / "Sa2VA-1B"
    base.mkdir()
    (base / "config.json").write_text("{}")
    text = written(tmp_path, Export("mine", base))
    assert "- Sa2VA-1B: sha256 `" in text
    assert "## Training" not in text
    assert "Not recorded." in text
