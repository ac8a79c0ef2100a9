"""Texts and names as they were written: encodings, escapes, names from other systems."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from core.contracts import BadSample, UserError
from plugins.datasets._build import line_starts
from plugins.datasets._json import Document, read_json, read_object
from plugins.datasets._names import named_file
from plugins.datasets._text import encoding_of, line_of, read_line, read_text, sound, text_encoding

VALUE = {"é": ["é", "e\u0301 杯子 😀 Ã©", {"a": "]"}], "b": [], "d": "}", "n": [1.5, None, True, "\\", '"', "\u2028"]}
CODECS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
MARK = "\ufeff".encode()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_places_in_json_are_those_of_the_values(tmp_path: Path, codec: str, escapes: bool, indent: int | None) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(VALUE, ensure_ascii=escapes, indent=indent).replace("\n", "\r\n").encode(codec))
    document = Document(file, "test")
    data = file.read_bytes()
    places = {key: (begin, end) for key, begin, end in document.members()}
    assert list(places) == list(VALUE)
    for key, value in VALUE.items():
        begin, length = document.span(*places[key])
        assert (
            json.loads(data[begin : begin + length].removeprefix(MARK).decode("utf-8" if "8" in codec else encoding_of(data).codec))
            == value
        )
        if isinstance(value, list):
            assert [one for one, _, _ in document.elements(places[key][0])] == value
    objects = [(one, document.span(begin, end)) for one, begin, end in document.elements(places["é"][0]) if isinstance(one, dict)]
    assert read_object(file, *objects[0][1], "x") == objects[0][0]
    assert read_json(file, "test") == VALUE
    assert json.loads(read_text(file, "test")) == VALUE


def test_an_escape_and_a_raw_letter_are_one_text(tmp_path: Path) -> None:
    """Bytes read as Latin-1 would give Ã© for a raw é and é for the escaped one."""
    (tmp_path / "a.json").write_text('[["caf\\u00e9", "café", "Ã©"]]', encoding="utf-8")
    ((value, _, _),) = Document(tmp_path / "a.json", "test").elements(0)
    assert value == ["café", "café", "Ã©"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": "Gerät"}'.encode("latin1"), "not UTF-8 at byte 10, line 1 .*Windows-1252"),
        ('\n{"a":\n"caf\xe9.png"}'.encode("cp1252"), "line 3"),
        ('{"a": "红色的杯子"}'.encode("gb18030"), "GB18030"),
        (b"\xef\xbb\xbf" + '{"a": "ä"}'.encode("latin1"), "not UTF-8"),
        ('{"a": "x"}'.encode("utf-16")[:-1], "not UTF-16-LE"),
        (b'{"a": "\xed\xa0\xbd"}', "not UTF-8"),  # half of a surrogate pair
        (b"\x1f\x8b\x08\x00", "gzip: unpack it"),
        (b"PK\x03\x04....", "zip archive"),
        (b"<!doctype HTML><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_what_is_not_in_a_known_encoding_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    for read in (Document, read_json, read_text):
        with pytest.raises(UserError, match=rf"a\.json .*{said}"):
            read(tmp_path / "a.json", "test")


def test_a_letter_across_two_blocks_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.datasets._text._BLOCK", 3)
    (tmp_path / "a.json").write_text('["éééé"]', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "test") == ["éééé"]
    (tmp_path / "a.json").write_bytes('["éééé"]'.encode() + b"\xc3")
    with pytest.raises(UserError, match="at byte 12"):
        Document(tmp_path / "a.json", "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected at byte 0"),
        ("{", "Expecting"),
        ('{"a" 1}', "expected at byte 5"),
        ('{"a": 1', "expected"),
        ('{"a": 1,}', "a comma too many"),
        ("{1: 2}", "a key that is no text"),
        ("[]", "expected at byte 0"),
        ('{"a": 1} {"b": 2}', "something follows the end at byte 9"),
        ('{"a": 1,\n"b": 2,\n"\\u0061": 3}', "the key 'a' stands twice, at byte 1 and at line 3"),
    ],
)
def test_faults_of_a_walk_have_a_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        list(Document(tmp_path / "a.json", "test").members())


def test_a_key_twice_in_one_object_is_refused(tmp_path: Path) -> None:
    text = '{"id": 1, "id": 2}'
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadSample, match="'id' stands twice"):
        read_object(tmp_path / "a.json", 0, len(text), "x")
    with pytest.raises(UserError, match="'id' stands twice"):
        read_json(tmp_path / "a.json", "test")


def test_lines_are_of_the_file_s_encoding() -> None:
    utf8, utf16 = encoding_of(b"a,b"), encoding_of("a,b".encode("utf-16-be"))
    assert line_of(MARK + "é".encode(), utf8, "x") == "é"
    assert line_of("é杯".encode("utf-16-be"), utf16, "x") == "é杯"
    with pytest.raises(BadSample, match="UTF-8 has no character e9"):
        line_of(b"caf\xe9", utf8, "x")


def test_half_a_surrogate_pair_is_no_caption() -> None:
    assert sound("a 😀 é", "x") == "a 😀 é"
    with pytest.raises(BadSample, match="damaged text"):
        sound("a \ud83d", "x")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "train2017"
    for name in ("a.png", "sub/b c.png", unicodedata.normalize("NFD", "é/café.png"), "NFC-é.png", "1%20.png", "back\\slash.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "outside.png").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        (".\\a.png", "a.png"),
        ("sub\\b c.png", "sub/b c.png"),
        ("sub/b%20c.png", "sub/b c.png"),
        ("sub%5Cb%20c.png", None),  # decoded once, not taken apart again
        ("sub\\b%20c.png", "sub/b c.png"),
        (unicodedata.normalize("NFC", "é/café.png"), unicodedata.normalize("NFD", "é/café.png")),
        (unicodedata.normalize("NFD", "NFC-é.png"), "NFC-é.png"),
        ("%C3%A9/caf%C3%A9.png", unicodedata.normalize("NFD", "é/café.png")),
        ("1%20.png", "1%20.png"),
        ("back\\slash.png", "back\\slash.png"),
        ("train2017/a.png", "a.png"),
        ("train2017\\sub\\b c.png", "sub/b c.png"),
        ("/data/coco/train2017/a.png", "a.png"),
        ("C:\\coco\\train2017\\a.png", "a.png"),
        ("http://images.cocodataset.org/train2017/a.png", "a.png"),
        ("https://host.org/x/sub/b%20c.png?size=2", None),
        ("https://host.org/sub/b%20c.png?size=2", "sub/b c.png"),
    ],
)
def test_names_from_elsewhere_are_found(pictures: Path, name: str, found: str | None) -> None:
    if found is None:
        with pytest.raises(BadSample, match="missing picture"):
            named_file(pictures, name, "x")
        return
    assert named_file(pictures, name, "x") == pictures / found


def test_the_last_part_of_a_name_is_enough_where_it_is_the_only_one(pictures: Path) -> None:
    for name in ("/home/me/a.png", "D:\\me\\a.png", "s3://bucket/me/a.png"):
        assert named_file(pictures, name, "x", unique=True) == pictures / "a.png"
        with pytest.raises(BadSample):
            named_file(pictures, name, "x")
    with pytest.raises(BadSample, match="missing picture"):
        named_file(pictures, "other/a.png", "x", unique=True)  # a folder that is not there is no other machine's


@pytest.mark.parametrize(
    "name", ["../outside.png", "..\\outside.png", "sub/../../outside.png", "%2e%2e/outside.png", "x/%2e%2e%2foutside.png"]
)
def test_no_name_leads_out_of_the_folder(pictures: Path, name: str) -> None:
    for unique in (True, False):
        with pytest.raises(BadSample):
            named_file(pictures, name, "x", unique=unique)


@pytest.mark.parametrize("name", ["", ".", "/", "\\", "a\0b", "x" * 5000, "http://[", "\ud800.png", "//", "C:", "C:\\"])
def test_names_that_are_none_are_bad_samples(pictures: Path, name: str) -> None:
    for unique in (True, False):
        with pytest.raises(BadSample):
            named_file(pictures, name, "x", unique=unique)


def test_a_missing_picture_says_what_was_tried(pictures: Path) -> None:
    with pytest.raises(BadSample, match=r"missing picture .*train2017/x\\y%20é\.png; not there either with / for \\, with %20"):
        named_file(pictures, "x\\y%20é.png", "s")


def test_json_values_may_be_anything(tmp_path: Path) -> None:
    value: Any = {"id": 2**130, "x": float("inf"), "y": float("nan")}
    text = json.dumps([value])
    (tmp_path / "a.json").write_text(text)
    ((found, begin, end),) = Document(tmp_path / "a.json", "test").elements(0)
    assert found["id"] == 2**130
    assert read_object(tmp_path / "a.json", begin, end - begin, "x")["id"] == 2**130


@pytest.mark.parametrize("codec", CODECS)
def test_lines_end_where_code_units_say_so(tmp_path: Path, codec: str) -> None:
    """U+0A0A and U+4E0A hold a byte 10 in UTF-16."""
    lines = ["head,é\n", "\u0a0a上 a longer line\r\n", "\r\n", "  \n", "the last one"]
    (tmp_path / "a.csv").write_bytes("".join(lines).encode(codec))
    encoding = text_encoding(tmp_path / "a.csv", "test")
    starts = line_starts(tmp_path / "a.csv", encoding.start, encoding.unit)
    found = []
    with (tmp_path / "a.csv").open("rb") as file:
        for start in starts.tolist():
            file.seek(start)
            found.append(line_of(read_line(file, encoding), encoding, "x"))
    assert found == [lines[0], lines[1], lines[4]]
