"""What was measured, on disk: each process adds to a part of its own, one line a unit; a whole set becomes one file.

``FOLDER/part-000.jsonl`` holds ``{"unit": 3, "items": [...]}`` in each line. A line counts when it is whole, so that a unit is
there or is not. When no unit is missing, the items go to ``FOLDER/items.jsonl``, one line each, and the parts go away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.contracts import Item, UserError
from core.engine.evaluation import strict, write_whole


def claim(folder: Path, protocol: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Makes ``folder`` that of ``protocol``, or finds it to be. Raises ``UserError`` where it is of another.

    Keys with dots in ``free`` may differ.
    """
    file = folder / "protocol.json"
    new = plain(protocol)
    if file.is_file():
        then = json.loads(file.read_text(encoding="utf-8"))
        old_leaves, new_leaves = dict(_leaves(then, ())), dict(_leaves(new, ()))
        different = [key for key in sorted(old_leaves | new_leaves) if key not in free and old_leaves.get(key) != new_leaves.get(key)]
        if different:
            changes = ", ".join(f"{key} was {old_leaves.get(key)!r}, is {new_leaves.get(key)!r}" for key in different[:3])
            raise UserError(f"{folder} holds another evaluation: {changes}; choose another --out, or replace it with --overwrite")
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and holds no evaluation; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(new, indent=1, ensure_ascii=False) + "\n")


def plain(values: Mapping[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(strict(values)))


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield ".".join(path), value


def missing(folder: Path, units: int) -> list[int]:
    """The units that are not there yet. Raises ``UserError`` for a damaged part, or one of a larger set."""
    if (folder / "items.jsonl").is_file():
        return []
    done = _units(folder)
    if beyond := [unit for unit in done if unit >= units]:
        raise UserError(f"{folder} holds unit {min(beyond)} of a set of {units}; replace it with --overwrite")
    return [unit for unit in range(units) if unit not in done]


def _units(folder: Path) -> dict[int, list[Item]]:
    found: dict[int, list[Item]] = {}
    for file in sorted(folder.glob("part-*.jsonl")):
        for number, line in enumerate(_whole_lines(file), start=1):
            try:
                row = json.loads(line)
                unit, items = row["unit"], row["items"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}:{number} is damaged ({error}); replace the evaluation with --overwrite") from None
            if unit in found:
                raise UserError(f"{file}:{number} measures unit {unit} a second time; let one command at a time write to {folder}")
            found[unit] = items
    return found


def _whole_lines(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was cut off while it was written


@contextmanager
def adding(folder: Path, rank: int) -> Iterator[Callable[[int, list[Item]], None]]:
    """Gives a function that adds a unit to the part of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"part-{rank:03d}.jsonl"
    whole = sum(len(line) + 1 for line in _whole_lines(file)) if file.is_file() else 0
    with open(file, "ab") as stream:
        stream.truncate(whole)

        def add(unit: int, items: list[Item]) -> None:
            stream.write(json.dumps({"unit": unit, "items": items}, allow_nan=False).encode() + b"\n")
            stream.flush()

        yield add


def merge(folder: Path, units: int) -> list[Item]:
    """All items by unit, however they were shared; written as one file the first time. Raises ``UserError`` where one is missing."""
    file = folder / "items.jsonl"
    if not file.is_file():
        found = _units(folder)
        if lost := sorted(set(range(units)) - set(found)):
            raise UserError(f"{folder}: {len(lost)} of {units} units were not measured, such as {lost[0]}; the same command goes on")
        lines = [json.dumps(item, ensure_ascii=False) for unit in range(units) for item in found[unit]]
        write_whole(file, "".join(line + "\n" for line in lines))
    for part in folder.glob("part-*.jsonl"):
        part.unlink()
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
