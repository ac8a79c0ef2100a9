"""What a folder or file of one's own may be, asked of every data set that is installed; and the recipe that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.contracts import Dataset, Recognized, Recognizes, UserError
from core.registry import Component, Registry


@dataclass(frozen=True)
class Guess:
    """One data set that says it could read the path."""

    component: Component
    recognized: Recognized

    @property
    def name(self) -> str:
        return self.component.entry.name

    @property
    def source(self) -> dict[str, Any]:
        """What stands in a recipe."""
        return {"use": self.name} | {key: str(value) if isinstance(value, Path) else value for key, value in self.recognized.keys.items()}

    def open(self) -> Dataset:
        """Raises what the data set raises."""
        dataset: Dataset = self.component.create(**self.recognized.keys)
        return dataset


def guesses(path: Path, registry: Registry) -> list[Guess]:
    """The surest first. Raises ``UserError`` where there is no such path, or nobody knows it."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder.")
    found: list[Guess] = []
    asked: list[str] = []
    for entry in registry.list("datasets"):
        component = registry.get("datasets", entry.name)
        if isinstance(component.object, Recognizes):
            asked.append(entry.name)
            found += [Guess(component, one) for one in component.object.recognizes(path)]
    if not found:
        raise UserError(f"{path} is nothing that {', '.join(asked)} would read; docs/my-data.md shows what each takes.")
    return sorted(found, key=lambda guess: -guess.recognized.sure)


def recipe_text(guess: Guess, captions: bool) -> str:
    """A whole small recipe that trains on it: from captions to masks, or by masks alone where there are none."""
    source = yaml.safe_dump(guess.source, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()
    template = Path(__file__).with_name("captions.yaml" if captions else "masks.yaml")
    return template.read_text(encoding="utf-8").replace("DATA", source)
