"""The synthetic world, read back by the real readers and compared with the drawings."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contracts import Region
from plugins.datasets import dam
from plugins.datasets._refs import load_refs
from plugins.datasets.openimages import OpenImages
from plugins.datasets.refcoco import Refcoco
from plugins.datasets.sa1b import Sa1b
from plugins.datasets.sav_pairs import SavPairs
from plugins.datasets.shapes import corpus, drawings, words, write_world
from plugins.datasets.shapes.__main__ import main
from plugins.datasets.shapes.described import write_refcoco
from plugins.datasets.shapes.grammar import COLOURS, Words, ambiguous, caption, expressions, phrase
from plugins.datasets.shapes.scene import draw, rasterise
from plugins.datasets.shapes.world import SOURCES

DAM = {"SAV": dam.sav, "COCOStuff": dam.cocostuff, "LVIS": dam.lvis, "Mapillary": dam.mapillary, "OpenImages": dam.openimages}
DAM |= {"PACO": dam.paco}


def regions(dataset: Any) -> list[Region]:
    return [dataset[index] for index in range(len(dataset))]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def close(image: np.ndarray, drawn: np.ndarray) -> bool:
    """Whether a picture is the drawn one, up to JPEG."""
    return image.dtype == np.uint8 and float(np.abs(image.astype(float) - drawn).mean()) < 3


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(world: Path, settings: dict[str, int], tmp_path: Path) -> None:
    write_world(tmp_path / "again", **settings)
    assert digest(tmp_path / "again") == digest(world)
    write_world(tmp_path / "other", **{**settings, "seed": settings["seed"] + 1})
    other = digest(tmp_path / "other")
    assert not set(other.values()) & {value for name, value in digest(world).items() if not name.endswith("descriptions.csv")}


def test_no_picture_is_in_two_sources(world: Path, settings: dict[str, int]) -> None:
    seen = [hashlib.sha256(drawing.images[0]).hexdigest() for source in SOURCES for drawing in drawings(source, **settings)]
    assert len(seen) == len(set(seen))
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in world.rglob("*.jpg")]
    assert len(files) == len(set(files))
    held_out = {hashlib.sha256(region.image).hexdigest() for split in ("val", "testA") for region in regions(_refcoco(world, split))}
    trained = {hashlib.sha256(region.image).hexdigest() for region in regions(_refcoco(world, "train"))}
    for factory in DAM.values():
        trained |= {hashlib.sha256(region.image).hexdigest() for region in regions(factory(root=world / "dam"))}
    for factory in (dam.lvis, dam.cocostuff):
        held_out |= {hashlib.sha256(region.image).hexdigest() for region in regions(factory(root=world / "dam_val"))}
    assert held_out
    assert not held_out & trained


def _refcoco(world: Path, split: Any) -> Refcoco:
    return Refcoco(root=world / "ref_seg", split=split)


def test_pairs(world: Path, settings: dict[str, int]) -> None:
    read = regions(SavPairs(root=world / "sav"))
    drawn = list(drawings("sav", **settings))
    assert len(read) == len(drawn)
    for region, drawing in zip(read, drawn, strict=True):
        np.testing.assert_array_equal(region.image, drawing.images[0])
        np.testing.assert_array_equal(region.image2, drawing.images[1])
        np.testing.assert_array_equal(region.mask, drawing.masks[0][0])
        np.testing.assert_array_equal(region.mask2, drawing.masks[1][0])
        assert region.caption is None


def test_sa1b(world: Path, settings: dict[str, int]) -> None:
    read = regions(Sa1b(root=world / "sa1b"))
    drawn = [(drawing.images[0], mask) for drawing in drawings("sa1b", **settings) for mask in drawing.masks[0]]
    for region, (image, mask) in zip(read, drawn, strict=True):
        assert close(region.image, image)
        np.testing.assert_array_equal(region.mask, mask)


def test_openimages(world: Path, settings: dict[str, int]) -> None:
    read = regions(OpenImages(root=world / "openimages", caption="class_name"))
    drawn = [
        (drawing.images[0], mask, thing.words.shape)
        for drawing in drawings("openimages", **settings)
        for mask, thing in zip(drawing.masks[0], drawing.things, strict=True)
    ]
    for region, (image, mask, shape) in zip(read, drawn, strict=True):
        assert close(region.image, image)
        assert region.mask.shape == mask.shape
        assert iou(region.mask, mask) > 0.85  # the mask was drawn at another resolution
        assert region.caption == shape.title()


@pytest.mark.parametrize("split", ["train", "val", "testA"])
def test_refcoco(world: Path, settings: dict[str, int], split: str) -> None:
    dataset = _refcoco(world, split)
    read = regions(dataset)
    groups = dataset.images()
    assert sorted(index for group in groups for index in group) == list(range(len(read)))
    drawn = list(drawings(f"refcoco/{split}", **settings))
    assert len(groups) == len(drawn)
    for group, drawing in zip(groups, drawn, strict=True):
        named = {phrase(thing.words): mask for thing, mask in zip(drawing.things, drawing.masks[0], strict=True)}
        target = None
        for index in group:
            region = read[index]
            assert close(region.image, drawing.images[0])
            target = named.get(region.caption or "", target)  # the full phrase comes first, a short one follows it
            assert target is not None
            assert iou(region.mask, target) > 0.97
            assert target is named[_only_fit(region.caption or "", drawing)]
    if split == "val":
        assert len(read) >= 100


def _only_fit(text: str, drawing: Any) -> str:
    """The full phrase of the one thing that the text fits; an independent reading of the grammar."""
    said = set(text.removeprefix("the ").replace("on the ", "").replace("at the ", "").replace("in the ", "").split())
    fits = []
    for thing in drawing.things:
        dx, dy = thing.x - 0.5, thing.y - 0.5
        true = {thing.words.size, thing.words.colour, thing.words.shape}
        true |= {"left"} if dx < 0 else {"right"}
        true |= {"top"} if dy < 0 else {"bottom"}
        true |= {"middle"} if max(abs(dx), abs(dy)) < 0.14 else set()
        if said <= true:
            fits.append(thing)
    # "left" said of a thing may loosely fit one near the middle line: the nearest fit to what was said must be clear
    clear = [thing for thing in fits if len(fits) == 1 or thing.words.position in said]
    assert len(clear) == 1, (text, [phrase(thing.words) for thing in fits])
    return phrase(clear[0].words)


@pytest.mark.parametrize("source", [source for source in SOURCES if source.startswith("dam")])
def test_dam(world: Path, settings: dict[str, int], source: str) -> None:
    folder, split = source.split("/")
    read = regions(DAM[split](root=world / folder))
    drawn = []
    for drawing in drawings(source, **settings):
        if split == "SAV":
            areas = [of_frame[0].sum() for of_frame in drawing.masks]
            best = areas.index(max(areas))
            drawn.append((drawing.images[best], drawing.masks[best][0], drawing.things[0]))
        else:
            drawn += [(drawing.images[0], mask, thing) for mask, thing in zip(drawing.masks[0], drawing.things, strict=True)]
    for region, (image, mask, thing) in zip(read, drawn, strict=True):
        assert close(region.image, image)
        np.testing.assert_array_equal(region.mask, mask)
        assert region.caption == caption(thing.words)
        assert region.image2 is None


def test_every_thing_is_large_enough_to_see() -> None:
    for drawing in drawings("refcoco/val", pictures=40, seed=5, size=128):
        assert 2 <= len(drawing.things) <= 4
        assert min(mask.sum() for mask in drawing.masks[0]) >= 80


def test_a_world_of_things_alike_has_one_colour_in_each_picture(tmp_path: Path) -> None:
    assert main([str(tmp_path / "world"), "--pictures", "60", "--seed", "3", "--size", "64", "--alike"]) == 0
    colours: dict[str, set[str]] = {}
    for region in regions(_refcoco(tmp_path / "world", "train")):
        assert region.caption is not None
        colours.setdefault(hashlib.sha256(region.image).hexdigest(), set()).update(set(region.caption.split()) & set(COLOURS))
    assert len(colours) > 20
    assert {len(found) for found in colours.values()} == {1}
    with pytest.raises(FileExistsError, match="other settings"):
        write_world(tmp_path / "world", pictures=60, seed=3, size=64)


def test_masks_are_what_is_visible_and_covered_things_are_not_referred_to(tmp_path: Path) -> None:
    covered = next(
        drawing
        for drawing in (draw((0, index), 64) for index in range(1000))
        if any((rasterise(thing.outline(64), 64) != mask).any() for thing, mask in zip(drawing.things, drawing.masks[0], strict=True))
    )
    assert np.sum(covered.masks[0], axis=0).max() == 1  # no pixel belongs to two things
    write_refcoco(tmp_path / "refcoco", {"val": [covered]}, np.random.default_rng(0))
    refs = load_refs(tmp_path / "refcoco" / "refs(unc).p", "test")
    assert 0 < len(refs) < len(covered.things)


def test_ids_are_unique_and_readers_survive_pickling(world: Path) -> None:
    for dataset in (SavPairs(root=world / "sav"), Sa1b(root=world / "sa1b"), OpenImages(root=world / "openimages"), _refcoco(world, "val")):
        copy = pickle.loads(pickle.dumps(dataset))
        ids = [region.id for region in regions(copy)]
        assert len(ids) == len(set(ids)) == len(dataset)
        assert ids == [region.id for region in regions(dataset)]
    copy = pickle.loads(pickle.dumps(dam.sav(root=world / "dam")))
    assert copy[0].id.startswith("sav/")


def test_max_samples_is_a_spread_sample_of_the_whole(world: Path) -> None:
    for build in (
        lambda most: SavPairs(root=world / "sav", max_samples=most),
        lambda most: Sa1b(root=world / "sa1b", max_samples=most),
        lambda most: OpenImages(root=world / "openimages", max_samples=most),
        lambda most: Refcoco(root=world / "ref_seg", split="val", max_samples=most),
        lambda most: dam.lvis(root=world / "dam", max_samples=most),
    ):
        everything = [region.id for region in regions(build(None))]
        few = [region.id for region in regions(build(2))]
        assert len(few) == 2
        assert set(few) <= set(everything)
        assert few == [region.id for region in regions(build(2))]
        assert everything.index(few[1]) >= len(everything) // 2 - 1


def test_phrases_fit_one_thing_only() -> None:
    left = Words.at("large", "red", "circle", 0.2, 0.5)
    right = Words.at("large", "red", "circle", 0.8, 0.5)
    rng = np.random.default_rng(0)
    assert expressions(0, [left, right], rng)[0] == "large red circle on the left"
    assert expressions(0, [left, right], rng)[1].removeprefix("the ") == "red circle on the left"
    assert ambiguous([left, Words.at("large", "red", "circle", 0.3, 0.2)])
    assert not ambiguous([left, right])
    assert Words.at("large", "red", "circle", 0.3, 0.3).position == ""  # neither left nor top is plainly meant


def test_the_corpus_speaks_the_language(world: Path) -> None:
    texts = corpus(500, 1)
    assert len(texts) == 500
    assert set(" ".join(texts).split()) == set(words())
    assert texts == corpus(500, 1)
    assert len(words()) < 60
    assert set((world / "corpus.txt").read_text().split()) == set(words())


def test_an_existing_world_is_kept_and_another_folder_never_overwritten(world: Path, settings: dict[str, int], tmp_path: Path) -> None:
    lines: list[str] = []
    before = digest(world)
    write_world(world, **settings, progress=lines.append)
    assert lines == [f"{world}: already there"]
    assert digest(world) == before
    with pytest.raises(FileExistsError, match="other settings"):
        write_world(world, **{**settings, "seed": 9})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="no shapes world"):
        write_world(tmp_path / "mine", **settings)


def test_chosen_sources_are_as_in_the_whole_world_and_others_stay_away(world: Path, settings: dict[str, int], tmp_path: Path) -> None:
    write_world(tmp_path / "some", **settings, only=["dam/LVIS", "sa1b"])
    whole, some = digest(world), digest(tmp_path / "some")
    assert {name.split("/")[0] for name in some} == {"dam", "sa1b", "corpus.txt", "world.json"}
    assert {name: value for name, value in some.items() if name != "world.json"}.items() <= whole.items()
    with pytest.raises(FileExistsError, match="other settings"):
        write_world(tmp_path / "some", **settings)
    with pytest.raises(ValueError, match="there is no source 'damn'"):
        write_world(tmp_path / "none", **settings, only=["damn"])


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, settings: dict[str, int]) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", **settings, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "w"), "--pictures", "10", "--size", "64"]
    assert main(arguments) == 0
    assert "refcoco/val" in capsys.readouterr().out
    assert json.loads((tmp_path / "w" / "world.json").read_text())["settings"]["pictures"] == 10
    assert main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    assert main([*arguments, "--seed", "7"]) == 2
    assert "other settings" in capsys.readouterr().err
