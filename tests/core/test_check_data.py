"""``core.check --data``: what one's own data is taken for, the page and the recipe that are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.commands.check import main
from core.commands.run import main as run
from core.contracts import Recognizes
from core.preflight.own_data.guesses import guesses
from core.registry import Registry


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two good lines, a mask of two objects, a mask that may be inverted, a missing picture."""
    folder = tmp_path / "my <data>"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (90, 120, 60)).save(folder / "a.jpg", exif=exif)  # its masks fit the stored pixels alone
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 5:20] = 255
    Image.fromarray(mask).save(folder / "m.png")
    Image.fromarray(255 - mask).save(folder / "turned.png")
    two = np.zeros((30, 40), np.uint8)
    two[2:9, 2:9], two[20:28, 20:28] = 1, 2
    Image.fromarray(two).save(folder / "two.png")
    rows = [{"image": "a.jpg", "mask": "m.png", "caption": "a <b> 图"}, {"image": "a.jpg", "mask": "m.png", "caption": "again"}]
    rows += [{"image": "a.jpg", "mask": "two.png"}, {"image": "a.jpg", "mask": "turned.png", "caption": "most of it"}]
    rows += [{"image": "gone.jpg", "mask": "m.png", "caption": "nothing"}]
    (folder / "regions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_folder_of_ones_own(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["--data", str(own), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for part in (
        "folder_regions: lines of JSON",
        "masks hold several objects: 6 regions",
        "1 x missing picture",
        "are they inverted?",
        "5 x masks that fit the picture only as it is stored",
        "3 of 6 have one",
    ):
        assert part in said, part
    page = (out / "data.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 5
    assert page.count("missing picture") == 1
    assert "a &lt;b&gt; 图" in page
    assert "<b>" not in page
    assert 'src="http' not in page
    assert run([str(out / "recipe.yaml"), "--check"]) == 0
    assert "use: referring_segmentation" in (out / "recipe.yaml").read_text()


def test_as_json_and_without_captions(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (own / "regions.jsonl").read_text().splitlines()][:3]
    (own / "regions.jsonl").write_text("\n".join(json.dumps({key: line[key] for key in ("image", "mask")}) for line in lines))
    assert main(["--data", str(own / "regions.jsonl"), "--out", str(tmp_path / "out"), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert any(finding["subject"] == "captions" and finding["text"] == "0 of 4 have one" for finding in findings)
    assert run([str(tmp_path / "out" / "recipe.yaml"), "--check"]) == 0
    assert "use: mask_caption_mask" in (tmp_path / "out" / "recipe.yaml").read_text()


def test_what_nobody_reads_and_what_is_all_bad(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for path, part in ((tmp_path / "empty", "is nothing that"), (tmp_path / "none", "there is no such file or folder")):
        assert main(["--data", str(path), "--out", str(tmp_path / "out")]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (own / "a.jpg").unlink()
    assert main(["--data", str(own), "--out", str(tmp_path / "out")]) == 1
    for wrong in ([], [str(own), "--data", str(own)]):
        with pytest.raises(SystemExit):
            main(wrong)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("sa1b", "sa1b"), ("sav", "sav.pairs"), ("openimages", "openimages"), ("ref_seg", "refcoco"), ("dam/LVIS", "dam.lvis")],
)
def test_every_source_of_the_world_is_known_and_opens(small_world: Path, folder: str, name: str) -> None:
    found = guesses(small_world / folder, Registry())
    assert found[0].name == name
    assert len(found[0].open())


def test_coco_files_find_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train2017/a b.jpg")
    square = {"id": 1, "image_id": 1, "category_id": 1, "area": 16, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    content = {"images": [{"id": 1, "file_name": "a b.jpg", "width": 8, "height": 8}], "annotations": [square], "categories": []}
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "annotations/instances_train2017.json"):
        found = guesses(path, Registry())
        assert found[0].name == "coco_regions"
        assert found[0].open()[0].mask.sum() == 16


def test_readers_tell_what_they_recognize() -> None:
    registry = Registry()
    asked = {entry.name for entry in registry.list("datasets") if isinstance(registry.get("datasets", entry.name).object, Recognizes)}
    assert {"folder_regions", "coco_regions", "sa1b", "sav", "sav.pairs", "openimages", "refcoco", "dam.sam"} <= asked
    assert "augment" not in asked


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from plugins.datasets.shapes import write_world

    root = tmp_path_factory.mktemp("world") / "w"
    write_world(root, pictures=10, seed=2, size=64)
    return root
