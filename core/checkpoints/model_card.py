"""The model card of an export: ``README.md`` as model hubs read it, from what the run has recorded about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoints.hashes import sha256
from core.engine.evaluation import write_whole
from core.engine.which_run import MADE_OF, read
from core.installed.versions import versions

CARD, BASE_CARD = "README.md", "README.base.md"
_LICENCE = re.compile(r"^(license|license_name|license_link): *(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Export:
    """What was exported. ``run`` and ``update`` are None of a training file."""

    name: str
    base: Path | None
    groups: str = "full"
    weights: str = "trained"
    run: Path | None = None
    update: int | None = None
    component: str = ""  # the model's, as recipes call it


def write_card(folder: Path, export: Export) -> Path:
    """Writes ``CARD`` into the finished ``folder``; the base's own, which the export has copied, becomes ``BASE_CARD``."""
    card = folder / CARD
    copied = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    text = "\n".join([*_front(copied or _text_of(export.base), export), "", *_body(folder, export, copied)])
    if card.is_file():
        card.replace(folder / BASE_CARD)
    write_whole(card, text.rstrip("\n") + "\n")
    return card


def _text_of(base: Path | None) -> str:
    file = base / CARD if base is not None else None
    return file.read_text(encoding="utf-8", errors="replace") if file is not None and file.is_file() else ""


def _licence(base_card: str) -> dict[str, str]:
    """What the base's card says of its licence in its head: ``license``, ``license_name``, ``license_link``."""
    head = re.match(r"---\r?\n(.*?)\r?\n---", base_card, re.DOTALL)
    return dict(_LICENCE.findall(head[1].replace("\r", ""))) if head else {}


def _front(base_card: str, export: Export) -> list[str]:
    lines = [f"{key}: {value}" for key, value in _licence(base_card).items()]
    if export.base is not None:
        lines.append(f"base_model: {json.dumps(export.base.name, ensure_ascii=False)}")
    tags = ["dualloop", *([export.component] if export.component else []), "image-segmentation", "image-to-text"]
    return ["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"]


def _body(folder: Path, export: Export, copied: str) -> Iterator[str]:
    run = export.run
    made_of, recipe = (read(run / MADE_OF), read(run / "recipe.json")) if run else ({}, {})
    yield f"# {export.name}"
    yield ""
    of = f" of the run `{run.name}`, update {export.update}" if run else ""
    what = "the teacher's slow weights" if export.weights == "teacher" else "the trained weights"
    yield f"Made with dualloop: {what} ({export.groups}){of}, merged into the base's layout."
    yield ""
    yield "## Base"
    yield ""
    yield from _base(export, made_of, copied)
    if recipe:
        yield "## Training"
        yield ""
        yield from _training(recipe, made_of)
    yield "## Data"
    yield ""
    yield from _data(made_of)
    yield "## Results"
    yield ""
    yield from _results(export)
    licence = _licence(copied or _text_of(export.base))
    kept = sorted(file.name for file in folder.iterdir() if file.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")))
    yield "## Licence"
    yield ""
    said = f"The base's card says `{licence['license']}`" if "license" in licence else "The base's card names no licence"
    yield said + (f"; its {', '.join(kept)} {'is' if len(kept) == 1 else 'are'} in this folder." if kept else ".")


def _base(export: Export, made_of: Mapping[str, Any], copied: str) -> Iterator[str]:
    contents: Mapping[str, Any] = made_of.get("contents", {})
    for key, files in contents.items():
        yield f"- `{key}`: {export.base.name if export.base is not None and key.startswith('model') else Path(_place(made_of, key)).name}"
        for name, entry in files.items() if isinstance(files, Mapping) else ():
            if isinstance(entry, Mapping) and name.endswith((".safetensors", ".pth", ".bin")):
                yield f"  - {name}: sha256 `{entry.get('sha256')}`"
    if not contents and export.base is not None:
        yield f"- {export.base.name}: sha256 `{sha256(export.base)}` (of the names and hashes of its weights and JSON files)"
    if not contents and export.base is None:
        yield "- not recorded"
    if copied:
        yield f"- its own card: [{BASE_CARD}]({BASE_CARD})"
    yield ""


def _place(made_of: Mapping[str, Any], key: str) -> str:
    placed = made_of.get("paths", {}).get(key)
    return str(placed[-1]) if isinstance(placed, list) and placed else key


def _training(recipe: Mapping[str, Any], made_of: Mapping[str, Any]) -> Iterator[str]:
    train, optimizer = recipe.get("train") or {}, recipe.get("optimizer") or {}
    for name, loop in (recipe.get("loops") or {}).items():
        tasks = ", ".join(f"{task} (`{one.get('use')}`)" for task, one in (loop.get("tasks") or {}).items())
        yield f"- {name}: {tasks}"
    op, use, rate = (recipe.get("gradient") or {}).get("use"), optimizer.get("use"), optimizer.get("lr")
    yield f"- gradient: `{op}`; optimizer: `{use}`, learning rate {rate}"
    batch = " x ".join(str(train[key]) for key in ("batch_size", "accumulate") if key in train)
    yield f"- {train.get('updates')} updates planned, batch {batch} a process, seed {recipe.get('seed')}"
    kept = made_of.get("versions") or versions()
    commit = f"; commit {made_of['commit']}" if made_of.get("commit") else ""
    yield f"- {', '.join(f'{name} {version}' for name, version in kept.items())}{commit}"
    yield ""
    yield "<details><summary>The whole recipe</summary>"
    yield ""
    yield "```json"
    yield json.dumps(_without_places(recipe), indent=1, ensure_ascii=False)
    yield "```"
    yield ""
    yield "</details>"
    yield ""


def _without_places(value: Any) -> Any:
    """The recipe without the folders of the machine it was trained on: of an absolute path its last part."""
    if isinstance(value, Mapping):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return f".../{Path(value).name}" if isinstance(value, str) and value.startswith(("/", "~")) else value


def _data(made_of: Mapping[str, Any]) -> Iterator[str]:
    sources = {key: stamp for key, stamp in (made_of.get("sources") or {}).items() if isinstance(stamp, Mapping)}
    components: Mapping[str, Any] = made_of.get("components") or {}
    for key, stamp in sources.items():
        target = (components.get(key) or {}).get("target", "")
        yield f"- `{key}`{f' ({target})' if target else ''}: {stamp.get('samples')} samples"
    if not sources:
        yield "Not recorded."
    yield ""


def _results(export: Export) -> Iterator[str]:
    """The result cards of just these weights, or what the run itself measured after training."""
    found: dict[str, Mapping[str, Any]] = {}
    note = ""
    if export.run is not None and export.update is not None:
        teacher = "-teacher" if export.weights == "teacher" else ""
        for file in sorted((export.run / "evaluation").glob(f"update-{export.update:06d}{teacher}/*/card.json")):
            for name, values in (read(file).get("results") or {}).items():
                evaluator, _, variant = name.partition(":")
                if (variant or "full") == export.groups:
                    found[evaluator] = values
        note = "In brackets: 95 % intervals over pictures, drawn with replacement. The result cards in the run folder tell the protocol."
        result = read(export.run / "result.json")
        last = max((int(path.name.removeprefix("update-")) for path in (export.run / "checkpoints").glob("update-[0-9]*")), default=None)
        if not found and export.groups == "full" and not teacher and last == export.update and isinstance(result.get("after"), Mapping):
            found = {name: {metric: {"value": value} for metric, value in values.items()} for name, values in result["after"].items()}
            note = "Measured by the run after training, without intervals; core.evaluate gives these."
    if not found:
        yield "These weights have not been measured: `dualloop evaluate` writes a result card."
        yield ""
        return
    yield from ("| evaluation | metric | value |", "|---|---|---:|")
    for evaluator, values in found.items():
        yield from (f"| {evaluator} | {metric} | {_shown(given)} |" for metric, given in values.items())
    yield from ("", note, "")


def _shown(given: Any) -> str:
    value, ends = (given.get("value"), given.get("interval")) if isinstance(given, Mapping) else (given, None)
    if not isinstance(value, int | float):
        return "–"
    shown = f"{value:.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4f}"
    return shown + (f" [{ends[0]:.4f}, {ends[1]:.4f}]" if isinstance(ends, list) and len(ends) == 2 else "")
