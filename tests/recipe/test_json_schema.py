"""The schema for editors takes what recipes may hold: the shipped ones, and keys that the engine puts beside a component's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.recipe import json_schema
from core.recipe.source import override, read
from core.registry import Registry

ROOT = Path(__file__).parents[2]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
ENDS = {"minimum": float.__ge__, "maximum": float.__le__, "exclusiveMinimum": float.__gt__, "exclusiveMaximum": float.__lt__}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(json_schema(Registry()), allow_nan=False))  # it is strict JSON


def wrong(value: Any, schema: Any, top: Any, where: str = "") -> Iterator[str]:
    """What is wrong with a value, by the part of JSON Schema that recipes' schema uses."""
    if "$ref" in schema:
        yield from wrong(value, top["$defs"][schema["$ref"].rpartition("/")[2]], top, where)
    if "if" in schema:
        yield from wrong(value, schema["else" if list(wrong(value, schema["if"], top, where)) else "then"], top, where)
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{where}: no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{where}: not {schema['const']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: not like {schema['pattern']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (f"{where}: {name}" for name, holds in ENDS.items() if name in schema and not holds(float(value), float(schema[name])))
    for name, least in (("anyOf", None), ("oneOf", 1)):
        if choices := schema.get(name):
            fits = sum(not list(wrong(value, choice, top, where)) for choice in choices)
            if fits != least and not (least is None and fits):
                yield f"{where}: fits {fits} of {name}"
    if isinstance(value, dict):
        yield from (f"{where}: lacks {name}" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            known = schema.get("properties", {}).get(name, schema.get("additionalProperties", True))
            if known is False:
                yield f"{where}.{name}: unknown"
            elif isinstance(known, dict):
                yield from wrong(inner, known, top, f"{where}.{name}")
    if isinstance(value, list):
        for item in value:
            yield from wrong(item, schema.get("items", {}), top, f"{where}[]")


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_recipes_fit(schema: dict[str, Any], file: Path) -> None:
    assert list(wrong(yaml.safe_load(file.read_text(encoding="utf-8")), schema, schema)) == []


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("{base: x.yaml, train: {batch_size: 8}, model: {checkpoint: y}}", True),
        ("{base: x.yaml, train: {batch_sise: 8}}", False),
        ("{base: x.yaml, train: {batch_size: 0}}", False),
        ("{base: x.yaml, model: {chekpoint: y}}", False),
        ("{base: x.yaml, loops: {loop1: {tasks: {pseudo: {token_mask_ratio: 0.5, sampler: {k: 4}}}}}}", True),
        ("{base: x.yaml, loops: {loop1: {tasks: {pseudo: {token_mask_ratio: 1.5}}}}}", False),
        ("{base: x.yaml, tran: {}}", False),
        ("{train: {batch_size: 8}}", False),
    ],
)
def test_a_recipe_that_builds_on_another_names_some_keys(schema: dict[str, Any], text: str, fits: bool) -> None:
    assert (not list(wrong(yaml.safe_load(text), schema, schema))) == fits


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ("gradient={use: pcgrad_orthogonal, anchor: loop1, by: task, own_weights: surgery}", True),
        ("gradient={use: pcgrad_orthogonal, anchor: loop1, by: update}", False),
        ("loops.loop1.tasks.referring.data.refcoco.weight=2", True),
        ("loops.loop1.tasks.referring.data.refcoco.weight=-2", False),
        ("loops.loop1.tasks.referring.data=null", False),
        ("loops.loop2.weight={from: 0, to: 0.5, over: 9}", True),
        ("loops.loop2.weight={from: 0, to: 0.5}", False),
        ("loops.loop1.tasks.pseudo.sampler.temperature={from: 2, to: 0.5, over: 9, shape: cosine}", True),
        ("loops.loop1.tasks.pseudo.sampler.temperature={from: 2, to: 0, over: 9}", False),
        ("optimizer.lr={from: 2, to: 1, over: 9}", False),
        ("teacher.decay=1", False),
        ("teacher.decay=0.5", True),
        ("checkpoint.best=referring/cIoU", True),
    ],
)
def test_what_stands_beside_a_components_own_keys(schema: dict[str, Any], given: str, fits: bool) -> None:
    source = read(ROOT / "recipes" / "dual_loop_tiny.yaml")
    override(source, given)
    assert (not list(wrong(source.values, schema, schema))) is fits, list(wrong(source.values, schema, schema))
