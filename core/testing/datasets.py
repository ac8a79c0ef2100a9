"""The contract kit of data sets."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.contracts import BadSample, Dataset, Draws, GroupsByPicture, Region, UserError
from core.testing._offers import check_offers

_SOUND: dict[type, Path] = {}  # kit -> its source; a fixture of the class's scope could not be an instance's method


class DatasetKit:
    """Give ``write`` (a small sound source, at least two regions) and ``make`` (the data set on it).

    ``empty`` makes a source without a region; by default it is an empty folder. ``empty_masks``: whether a region may have an
    empty mask, as phrases without a target have.
    """

    empty_masks = False

    def write(self, root: Path) -> None:
        """Writes a small sound source into the folder ``root``, which exists."""
        raise NotImplementedError

    def make(self, root: Path) -> Dataset:
        raise NotImplementedError

    def empty(self, root: Path) -> None:
        """Writes a source without any region into the folder ``root``, which exists."""

    @pytest.fixture
    def sound(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A sound source, written once for the class; tests that change it copy it first."""
        kit = type(self)
        if kit not in _SOUND:
            root = tmp_path_factory.mktemp("sound")
            self.write(root)
            _SOUND[kit] = root
        return _SOUND[kit]

    def test_offers_are_declared_whole(self, sound: Path) -> None:
        check_offers(self.make(sound), "datasets")

    def test_is_a_finite_indexable_source(self, sound: Path) -> None:
        data = self.make(sound)
        assert isinstance(data, Dataset)
        assert len(data) >= 2, "write() must give at least two regions"

    def test_regions_have_the_shapes_and_types_of_the_contract(self, sound: Path) -> None:
        data = self.make(sound)
        for index in range(len(data)):
            check_region(data[index], self.empty_masks)

    def test_ids_are_unique(self, sound: Path) -> None:
        data = self.make(sound)
        ids = [data[index].id for index in range(len(data))]
        assert len(set(ids)) == len(ids), "two regions have one id"

    def test_reads_the_same_again_in_any_order_and_after_a_pickle(self, sound: Path) -> None:
        """A loader's worker gets a pickled copy and asks for any index first; the plan counts on equal answers."""
        first, second = self.make(sound), self.make(sound)
        expected = [first[index] for index in range(len(first))]
        assert len(second) == len(expected)
        for source in (second, pickle.loads(pickle.dumps(second))):
            for index in reversed(range(len(expected))):
                same_region(source[index], expected[index])

    def test_draws_depend_on_the_generator_alone(self, sound: Path) -> None:
        """Training asks ``draw`` with a generator made of (seed, epoch, source, index): any process must see the same sample."""
        data = self.make(sound)
        if not isinstance(data, Draws):
            pytest.skip("no draw(): the data set draws nothing")
        first = [data.draw(index, np.random.default_rng(index)) for index in range(len(data))]
        for index, region in enumerate(first):
            check_region(region, self.empty_masks)
            assert region.id == data[index].id, "a drawn sample keeps the id of its index"
        copy = pickle.loads(pickle.dumps(data))
        for index in reversed(range(len(first))):
            same_region(copy.draw(index, np.random.default_rng(index)), first[index])

    def test_images_groups_every_index_once(self, sound: Path) -> None:
        data = self.make(sound)
        if not isinstance(data, GroupsByPicture):
            pytest.skip("no images(): regions are not grouped by picture")
        assert sorted(index for group in data.images() for index in group) == list(range(len(data)))

    def test_a_missing_root_is_one_clear_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            self.make(tmp_path / "absent")
        assert str(tmp_path / "absent") in str(caught.value), "the message must name the folder"
        assert "\n" not in str(caught.value)

    def test_an_empty_source_is_one_clear_sentence(self, tmp_path: Path) -> None:
        self.empty(tmp_path)
        with pytest.raises(UserError) as caught:
            self.make(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("fault", ["cut in half", "emptied", "rubbish", "missing"])
    def test_a_damaged_file_gives_bad_samples_or_a_user_error(self, sound: Path, tmp_path: Path, fault: str) -> None:
        """One file of each kind (by suffix) is damaged in turn; nothing but BadSample and UserError may come out."""
        by_suffix = {path.suffix: path for path in sorted(sound.rglob("*"), reverse=True) if path.is_file()}
        for path in by_suffix.values():
            copy = tmp_path / f"damaged{path.suffix or '.none'}"
            shutil.copytree(sound, copy)
            FAULTS[fault](copy / path.relative_to(sound))
            for region in self._readable(copy):
                check_region(region, self.empty_masks)

    def test_a_pictures_damage_is_met_when_it_is_read_not_before(self, sound: Path, tmp_path: Path) -> None:
        """Building an index must not open a million pictures, and one bad picture must not lose the others."""
        pictures = sorted(path for path in sound.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if len(pictures) < 2:
            pytest.skip("no loose picture files")
        copy = tmp_path / "copy"
        shutil.copytree(sound, copy)
        (copy / pictures[0].relative_to(sound)).write_bytes(b"\xff\xd8rubbish")
        assert len(self.make(copy)) == len(self.make(sound))
        assert self._readable(copy), "one damaged picture spoils every region"

    def _readable(self, root: Path) -> list[Region]:
        try:
            data = self.make(root)
        except UserError:
            return []
        regions = []
        for index in range(len(data)):
            with suppress(BadSample, UserError):
                regions.append(data[index])
        return regions


FAULTS: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "rubbish": lambda path: path.write_bytes(b"\x00\xff{[<" * 50),
    "missing": Path.unlink,
}


def check_region(region: Region, empty_masks: bool = False) -> None:
    """Types, shapes and pairing of one region."""
    assert isinstance(region, Region)
    assert isinstance(region.id, str)
    assert region.id
    views = [(region.image, region.mask)]
    assert (region.image2 is None) == (region.mask2 is None), "image2 and mask2 come together"
    if region.image2 is not None and region.mask2 is not None:
        views.append((region.image2, region.mask2))
    for image, mask in views:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3, "RGB"
        assert mask.dtype == np.bool_
        assert mask.shape == image.shape[:2]
        assert mask.any() or empty_masks, "an empty mask is a BadSample"
    assert region.caption is None or region.caption.strip(), "a blank caption is None or a BadSample"
    assert not isinstance(region.captions, str), "captions is a list of texts"
    assert all(isinstance(text, str) and text.strip() for text in region.captions), "a blank caption is left out or a BadSample"
    assert not (region.captions and region.caption), "caption for one text, captions for several"
    assert region.category is None or region.category.strip(), "a region without a category has None"
    assert all(isinstance(name, str) for name in region.extra), "extra is a mapping of names"
    try:
        pickle.dumps(region.extra)
    except (pickle.PicklingError, AttributeError, TypeError) as fault:
        raise AssertionError(f"extra comes from a loader's worker and must be picklable: {fault}") from fault


def same_region(a: Region, b: Region) -> None:
    """Equal in every field, pixel by pixel."""
    assert (a.id, a.caption, list(a.captions), a.category) == (b.id, b.caption, list(b.captions), b.category)
    for name in ("image", "mask", "image2", "mask2"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), f"{name} of {a.id} differs"
    np.testing.assert_equal(_plain(a.extra), _plain(b.extra), err_msg=f"extra of {a.id} differs")


def _plain(extra: Mapping[str, Any]) -> dict[str, Any]:
    """With tensors as arrays, which can be compared as one."""
    import torch

    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in extra.items()}
