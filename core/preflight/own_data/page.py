"""One HTML page of pictures with their masks and captions, and of what could not be used; it needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from core.contracts import BadSample, LeftOut

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 1rem; align-items: start }
figure { margin: 0; padding: .6rem; border: 1px solid #8884; border-radius: .5rem; overflow-wrap: anywhere }
figure img { max-width: 100%; display: block; margin: 0 auto .3rem }
.id, .facts { font-size: .8rem; opacity: .7 } .hint { color: #c60; font-weight: 600 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8884; overflow-wrap: anywhere }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #8884; border-radius: .5rem }
"""


@dataclass(frozen=True)
class Shown:
    """A sample on the page."""

    id: str
    pictures: Sequence[Image.Image]  # with their masks drawn; two of a sample with a second view
    texts: Sequence[str]
    facts: str
    hint: str = ""


def write_page(
    path: Path, title: str, shown: Sequence[Shown], bad: Sequence[BadSample], left: Sequence[LeftOut], count: int, read: int, recipe: str
) -> None:
    """Writes the page to ``path``, whole or not at all."""
    reasons = "".join(f"<tr><td>{escape(one.reason)}<td>{escape(one.sample)}<td>{escape(one.detail)}" for one in bad)
    for one in left:
        named = "; ".join(f"{sample} {detail}".strip() for sample, detail in one.examples[:20])
        reasons += f"<tr><td>{escape(str(one))}<td>{escape(named)}{' ...' if one.count > 20 else ''}<td>left out before any sample is read"
    table = f"<table><tr><th>reason<th>sample<th>detail{reasons}</table>" if reasons else "<p>None."
    body = f"""<h1>{escape(title)}</h1>
<p>{count:,} regions; {read:,} read, {len(bad):,} of them bad; {len(shown):,} shown.
<h2>Bad samples and what is left out</h2>{table}
<h2>Samples</h2><div class="grid">{"".join(map(_figure, shown))}</div>
<h2>A recipe that reads it</h2><pre>{escape(recipe)}</pre>"""
    text = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style><body>{body}</html>'
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    beside.replace(path)


def _figure(sample: Shown) -> str:
    pictures = "".join(f'<img alt="" src="{_address(picture)}">' for picture in sample.pictures)
    texts = "<br>".join(map(escape, sample.texts)) or "<i>no caption</i>"
    hint = f'<div class="hint">{escape(sample.hint)}</div>' if sample.hint else ""
    below = f'<div class="id">{escape(sample.id)}</div><div class="facts">{escape(sample.facts)}</div>'
    return f"<figure>{pictures}<div>{texts}</div>{hint}{below}</figure>"


def _address(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
