from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import ImageFile

from core.contracts import BadSample, UserError
from core.pixels import MAX_PIXELS
from plugins.datasets import _tar
from plugins.datasets._index import spread
from plugins.datasets._json import read_json
from plugins.datasets._pictures import Pictures


def test_a_spread_sample_is_not_the_head() -> None:
    chosen = spread(1000, 10)
    assert [index // 100 for index in chosen] == list(range(10))
    assert chosen == spread(1000, 10)
    assert chosen != spread(1000, 10, seed=1)


def test_the_whole_index_where_it_is_small() -> None:
    assert [*spread(3, None)] == [*spread(3, 3)] == [*spread(3, 50)] == [0, 1, 2]
    with pytest.raises(ValueError, match="max_samples"):
        spread(3, 0)


def _tar_of(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            (path.parent / "one").write_bytes(content)
            tar.add(path.parent / "one", name)


def test_members_are_found_again_after_the_tar_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _tar_of(path, {"./x.jpg": b"old"})
    assert _tar.read(path, "x.jpg", "s") == b"old"
    _tar_of(path, {"pad": b"y" * 5000, "x.jpg": b"newer" * 3000})
    assert _tar.read(path, "x.jpg", "s") == b"newer" * 3000


def test_faults_of_a_tar_are_bad_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with pytest.raises(BadSample, match="missing tar"):
        _tar.read(path, "x", "s")
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(BadSample, match="damaged tar"):
        _tar.read(path, "x", "s")
    _tar_of(path, {"x.jpg": b"z" * 4000})
    with pytest.raises(BadSample, match="missing member"):
        _tar.read(path, "y.jpg", "s")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadSample, match="damaged tar"):
        _tar.read(path, "x.jpg", "s")


def test_links_devices_and_names_that_lead_out_are_no_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    kinds = {
        "link.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "device.jpg": tarfile.CHRTYPE,
        "pipe.jpg": tarfile.FIFOTYPE,
        "folder.jpg": tarfile.DIRTYPE,
    }
    outside = ("../out.jpg", "/etc/passwd", "a/../../out.jpg", "./../out.jpg")
    with tarfile.open(path, "w") as tar:
        for name in ("in.jpg", *outside):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    assert [*_tar.members(path, "s").beginning("")] == ["in.jpg"]
    assert _tar.read(path, "in.jpg", "s") == b"abc"
    for name in (*outside, *kinds, "etc/passwd", "out.jpg"):
        with pytest.raises(BadSample, match="missing member"):
            _tar.read(path, name, "s")


def test_a_member_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # sparse: only the headers take room
        entry = tarfile.TarInfo("x.jpg")
        entry.size = _tar.MAX_MEMBER + 1
        file.write(entry.tobuf())
        file.truncate(file.tell() + -(-entry.size // 512) * 512 + 1024)
    with pytest.raises(BadSample, match="member too large"):
        _tar.read(path, "x.jpg", "s")


def _png(width: int, height: int) -> bytes:
    """A picture that claims to be so large, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 13_000, 60_000, 2**31 - 1])
def test_decompression_bombs_are_refused_before_anything_is_decoded(tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    assert side**2 > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(_png(side, side))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    pictures = Pictures("test", max_pixels=MAX_PIXELS)
    for read in (pictures.picture, pictures.mask):
        with pytest.raises(BadSample, match="too large") as fault:
            read(tmp_path / "bomb.png", "s")
        assert "more than 100,000,000 pixels" in str(fault.value)
        assert "raise max_pixels" in str(fault.value)


def test_json_nested_too_deep_is_refused_with_its_name(tmp_path: Path) -> None:
    for text in ("[" * 200_000, json.dumps({"a": 1})[:-1] + ', "b": ' + "[" * 200_000 + "]" * 200_000 + "}"):
        (tmp_path / "deep.json").write_text(text)
        with pytest.raises(UserError, match=r"deep\.json cannot be read as JSON"):
            read_json(tmp_path / "deep.json", "test")
