"""Finding a picture by the name that a table gives it: exports come from Windows, macOS and the web, and from other folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from core.contracts import BadSample


def named_file(folder: Path, name: str, sample: str, what: str = "picture", unique: bool = False) -> Path:
    """The file of this name in ``folder``, and never one outside it.

    Tried in turn: the name as it is written; with backslashes as slashes; with ``%20`` and the like decoded; each of them with its
    letters composed (NFC) and decomposed (NFD), as macOS and others store them; without a beginning that repeats ``folder``'s own
    name. A URL, or a path of another machine, counts from its first part on; where ``unique`` says that no two names of the table end
    alike, its last part is enough. Raises ``BadSample``: the reason is ``missing {what}``, or that the name leads out of the folder.
    """
    tried = dict[str, None]()
    for reading, parts in _readings(name, folder.name, unique):
        if not parts or any(not part or "\0" in part for part in parts):
            continue
        tried[reading] = None
        if found := _walk(folder, parts):
            return found
    if not tried:
        raise BadSample(f"{what} outside the folder", sample, repr(name[:200]))
    others = list(tried)[1:]
    more = f"; not there either {', '.join(others)}" if others else ""
    web = "; a picture on the web is to be downloaded first" if "://" in name else ""
    raise BadSample(f"missing {what}", sample, f"{folder / name if '://' not in name else name}{more}{web}")


def _readings(name: str, own: str, unique: bool) -> Iterator[tuple[str, list[str]]]:
    """(what was done, the parts of the path), the most literal one first."""
    try:
        web = urlsplit(name).path.lstrip("/") if "://" in name else None
    except ValueError:  # no URL either
        web = None
    forms = {"": name if web is None else web}
    forms["with / for \\"] = forms[""].replace("\\", "/")
    for said in ("", "with / for \\"):
        forms[f"{said}{' and ' if said else ''}with %20 and the like decoded"] = _unquoted(forms[said])
    seen = set[str]()
    for said, form in forms.items():
        if form in seen:
            continue
        seen.add(form)
        parts = [part for part in form.split("/") if part != "."] or [""]
        if ".." in parts:
            continue
        foreign = web is not None or form.startswith("/") or (len(parts[0]) == 2 and parts[0][1] == ":")  # C:
        if not foreign:
            yield said or "as written", parts
        if foreign or own in parts[:-1]:
            kept = [part for part in parts if part and part[1:] != ":"]
            if own in kept[:-1]:
                yield "without what leads to its folder", kept[len(kept) - 1 - kept[-2::-1].index(own) :]
        if foreign:
            kept = [part for part in parts if part and part[1:] != ":"]
            if web is not None:
                yield "below the web's address", kept
            if unique:
                yield "by the last part of its name", kept[-1:]


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _walk(folder: Path, parts: list[str]) -> Path | None:
    """The file below the folder, each part of its path in any form of its letters."""
    try:
        if (here := folder.joinpath(*parts)).is_file():
            return here
        here = folder
        for part in parts:
            forms = dict.fromkeys([part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)])
            if len(forms) == 1 and part.isascii():
                here = here / part
                continue
            found = next((here / form for form in forms if (here / form).exists()), None)
            if found is None:
                return None
            here = found
        return here if here.is_file() else None
    except (OSError, ValueError):  # too long, or no name that a file can have
        return None
