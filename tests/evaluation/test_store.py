from __future__ import annotations

import json

import pytest

from core.contracts import UserError
from core.evaluation import store


def items(unit, count=2):
    return [{"unit": unit, "id": f"{unit}/{n}", "score": 0.1 * unit} for n in range(count)]


def add(folder, rank, *units):
    with store.adding(folder, rank) as put:
        for unit in units:
            put(unit, items(unit))


def test_parts_become_one_file_in_the_order_of_units(tmp_path):
    add(tmp_path, 1, 3, 1)
    add(tmp_path, 0, 0, 2)
    assert store.missing(tmp_path, 6) == [4, 5]
    add(tmp_path, 0, 5, 4)
    merged = store.merge(tmp_path, 6)
    assert merged == [item for unit in range(6) for item in items(unit)]
    assert [file.name for file in tmp_path.iterdir()] == ["items.jsonl"]
    assert store.missing(tmp_path, 6) == []
    assert store.merge(tmp_path, 6) == merged


def test_a_line_cut_off_in_the_middle_is_measured_again(tmp_path):
    add(tmp_path, 0, 0, 1)
    part = tmp_path / "part-000.jsonl"
    part.write_bytes(part.read_bytes()[:-9])
    assert store.missing(tmp_path, 3) == [1, 2]
    add(tmp_path, 0, 1, 2)
    assert store.merge(tmp_path, 3) == [item for unit in range(3) for item in items(unit)]


def test_nothing_is_lost_or_counted_twice(tmp_path):
    add(tmp_path, 0, 0, 1)
    with pytest.raises(UserError, match=r"2 of 4 units were not measured, such as 2"):
        store.merge(tmp_path, 4)
    add(tmp_path, 1, 1)
    with pytest.raises(UserError, match=r"part-001.jsonl:1 measures unit 1 a second time"):
        store.merge(tmp_path, 2)
    assert not (tmp_path / "items.jsonl").exists()


def test_damage_and_parts_of_another_set_are_told(tmp_path):
    add(tmp_path, 0, 0, 7)
    with pytest.raises(UserError, match="holds unit 7 of a set of 5"):
        store.missing(tmp_path, 5)
    (tmp_path / "part-001.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match=r"part-001.jsonl:1 is damaged"):
        store.missing(tmp_path, 9)


def test_a_folder_belongs_to_one_protocol(tmp_path):
    folder = tmp_path / "refcoco"
    protocol = {"checkpoint": {"sha256": "ab"}, "protocol": {"max_samples": 10, "data": {"split": "val"}}}
    store.claim(folder, protocol)
    store.claim(folder, json.loads(json.dumps(protocol)))
    other = {"checkpoint": {"sha256": "cd"}, "protocol": {"max_samples": 10, "data": {"split": "testA"}}}
    with pytest.raises(UserError, match=r"checkpoint.sha256 was 'ab', is 'cd', protocol.data.split was 'val', is 'testA'.*--overwrite"):
        store.claim(folder, other)
    store.claim(folder, other, {"checkpoint.sha256", "protocol.data.split"})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds no evaluation"):
        store.claim(foreign, protocol)
