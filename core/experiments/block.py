"""A report inside a page of documentation: two comments around it tie it to the experiment's file, its recipes, its base and its text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from core.contracts import UserError
from core.experiments.definition import Experiment

_BLOCK = re.compile(
    r"<!-- report of (?P<name>\S+): recipes (?P<recipes>\w+), base (?P<base>\w+), text (?P<text>\w+) -->\n"
    r"(?P<inner>.*?)<!-- end of report -->",
    re.DOTALL,
)


def block(experiment: Experiment, recipes: str, base: str, inner: str) -> str:
    """The report between its comments."""
    inner = inner.rstrip("\n") + "\n\n"
    return f"<!-- report of {experiment.name}: recipes {recipes}, base {base}, text {_digest(inner)} -->\n{inner}<!-- end of report -->\n"


def _digest(text: str) -> str:
    """Of what is said, without white space at the ends of lines; a figure may lie in another folder."""
    lines = [re.sub(r"!\[(.*?)\]\([^)]*\)", r"![\1]", line).rstrip() for line in text.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def faults_of_page(page: Path, experiment: Experiment, recipes: str, base: str) -> list[str]:
    """A sentence for each way in which the experiment's reports in a page are not those of the file, recipes and base of now.

    Raises ``UserError`` where the page cannot be read or has no report of the experiment.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page} cannot be read: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'}") from error
    found: Sequence[re.Match[str]] = [one for one in _BLOCK.finditer(text) if one["name"] == experiment.name]
    if not found:
        raise UserError(f"{page}: it holds no report of {experiment.name}; copy report.md into it, with the two comments around it")
    faults = []
    for one in found:
        where = f"{page}:{text.count(chr(10), 0, one.start()) + 1}"
        if one["recipes"] != recipes:
            faults.append(f"{where}: the table was made by other recipes ({one['recipes']}) than {experiment.file} has now ({recipes})")
        if one["base"] != base:
            faults.append(f"{where}: the table was made with another base ({one['base']}) than the present one ({base})")
        if _digest(one["inner"]) != one["text"]:
            faults.append(f"{where}: the table was changed by hand after it was made")
    return faults
