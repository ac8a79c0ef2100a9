"""A mask stored as a picture: which pixels are the object's, or which objects one file holds.

Object is what is opaque and not black. A file may hold several objects as numbers of a palette (VOC, DAVIS), grey levels or colours; 0 or
black is the background, and 255 of a palette or VOC's void colour belongs to nobody. What cannot be told is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from core.pixels.files import MAX_PIXELS, Source, Tell, Unreadable, named, opened, silent
from core.pixels.turning import Orientation, back, orientation_of, turned, turns_itself

Label: TypeAlias = int | str  # a palette's or grey level's number, or a colour as "#rrggbb"
#: ``auto``: looks; ``binary``: everything not black is one object; ``index``: each number or colour is an object of its own.
MaskKind: TypeAlias = Literal["auto", "binary", "index"]

_VOID = 255
_VOID_COLOUR = 0xE0E0C0  # (224, 224, 192), VOC's void, number 255 of its palette
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
_NEAR = 40  # grey levels by which a lossy file may miss black and white
_FLAT = 0.25  # share of pixels equal to their neighbours from which values are objects' numbers; the edge of one soft mask is no such area
_FEW = 32  # values that may be objects though none of them has an area
_SMALL = 64  # numbers of objects below it are counted from 1: 255 beside them is void, not one more grey


@dataclass(frozen=True)
class _Drawn:
    values: np.ndarray  # [H, W] whole numbers: 0 is background
    colours: bool = False  # 0xRRGGBB
    palette: bool = False  # numbers of a palette
    one: bool = False  # values are one object, whatever they are
    void: bool = False  # 255 is nobody's


def mask_of(
    source: Source,
    *,
    label: Label | None = None,
    kind: MaskKind = "auto",
    orientation: Orientation = "shown",
    limit: int = MAX_PIXELS,
    tell: Tell = silent,
) -> np.ndarray:
    """[H, W] bool, of its own size; with ``label`` the pixels of one object. Raises ``Unreadable``, also where it holds several."""
    drawn = _read(source, kind if label is None else "index", orientation, limit, tell)
    if label is not None:
        return drawn.values == _number(label, drawn)
    found = _objects(drawn, kind, source)
    if found is None:
        return drawn.values != 0
    if len(found) > 1:
        text = f"it holds {len(found)} objects ({', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''})"
        raise Unreadable(
            "several objects in one", named(source, f"{text}; name one with label, or set masks: index, or masks: binary for all as one")
        )
    return drawn.values == (_number(found[0], drawn) if found else -1)


def labels_of(source: Source, *, kind: MaskKind = "auto", limit: int = MAX_PIXELS) -> list[Label] | None:
    """The objects that a file holds, in order; None for a mask of one object. Raises ``Unreadable``."""
    with opened(source, limit) as picture:
        if kind == "binary" or picture.mode == "1":
            return None
    return _objects(_read(source, kind, "stored", limit, silent), kind, source)


def _number(label: Label, drawn: _Drawn) -> int:
    """The value that a label stands for; the colour of a grey picture is its level."""
    if isinstance(label, int):
        return label
    code = int(label[1:], 16)
    return code if drawn.colours or len(set(code.to_bytes(3, "big"))) > 1 else code & 0xFF


def _read(source: Source, kind: MaskKind, orientation: Orientation, limit: int, tell: Tell) -> _Drawn:
    with opened(source, limit) as picture:
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise Unreadable("several pages in one", named(source, "save the pages as files of their own"))
        stored_as = orientation_of(picture, tell)
        drawn = _drawn(picture, kind, source, tell)
        turn = stored_as if orientation == "shown" else 1
        if turns_itself(picture):
            turn = 1 if orientation == "shown" else back(stored_as)
    return _Drawn(turned(drawn.values, turn), drawn.colours, drawn.palette, drawn.one, drawn.void) if turn != 1 else drawn


def _drawn(picture: Image.Image, kind: MaskKind, source: Source, tell: Tell) -> _Drawn:
    if picture.mode == "1" and "transparency" not in picture.info:
        return _Drawn(np.asarray(picture), one=True)
    opaque = _opaque(picture)
    if picture.format in _LOSSY and opaque is None and (thresholded := _thresholded(picture, kind, source, tell)) is not None:
        return _Drawn(thresholded, one=True)
    if picture.mode in ("P", "PA"):
        return _of_palette(picture, opaque, kind, source)
    if picture.mode in ("1", "L", "LA", "La", "I", "F") or picture.mode.startswith("I;"):
        grey = np.asarray(picture.getchannel(0) if picture.mode in ("LA", "La") else picture)
        if grey.dtype.kind == "f" and not np.isfinite(grey).all():
            raise Unreadable("damaged", named(source, "it holds values that are no numbers"))
        drawn = _Drawn(grey if grey.dtype.kind != "f" else grey != 0, one=grey.dtype.kind in "fb")
    else:
        rgb = np.asarray(picture.convert("RGBA" if opaque is not None else "RGB"))[..., :3].astype(np.int32)
        codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]  # [H, W]
        level = rgb[..., 0] if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all() else None
        drawn = _Drawn(codes if level is None else level, colours=level is None)
    return drawn if opaque is None else _cut_out(drawn, opaque)


def _opaque(picture: Image.Image) -> np.ndarray | None:
    """[H, W] bool of what shows; None where everything does."""
    if picture.mode not in ("LA", "La", "RGBA", "RGBa", "PA") and "transparency" not in picture.info:
        return None
    alpha = np.asarray(picture.getchannel("A") if picture.mode.endswith(("A", "a")) else picture.convert("RGBA").getchannel("A"))
    opaque: np.ndarray = alpha >= 128
    return None if opaque.all() else opaque


def _cut_out(drawn: _Drawn, opaque: np.ndarray) -> _Drawn:
    """Colours where they tell more than the outline: an object that is cut out has one, black or many, and is all that is opaque."""
    values = np.where(opaque, drawn.values, 0)
    found = np.unique(values[values != 0])
    if len(found) == 0 or (len(found) > 1 and _flat(values, found[:0]) < _FLAT):
        return _Drawn(opaque, one=True)
    return _Drawn(values, drawn.colours, one=drawn.one)


def _of_palette(picture: Image.Image, opaque: np.ndarray | None, kind: MaskKind, source: Source) -> _Drawn:
    numbers = np.asarray(picture if picture.mode == "P" else picture.getchannel("P"))  # [H, W] uint8
    table = np.zeros((256, 3), np.int32)
    given = np.array(picture.getpalette("RGB") or [], np.int32).reshape(-1, 3)
    table[: len(given)] = given
    used = np.flatnonzero(np.bincount(numbers[opaque] if opaque is not None else numbers.ravel(), minlength=256))
    codes = table[:, 0] << 16 | table[:, 1] << 8 | table[:, 2]  # [256]
    void = codes[_VOID] == _VOID_COLOUR
    grey = (table[used, 0] == table[used, 1]).all() and (table[used, 0] == table[used, 2]).all()
    if kind == "auto" and grey and not np.array_equal(table[used, 0], used):  # a mask in grey that a program has packed into a palette
        levels = _Drawn(table[numbers, 0])
        return levels if opaque is None else _cut_out(levels, opaque)
    if kind == "binary":
        values, one = (codes != 0)[numbers], True
    elif kind == "index" or codes[0] == 0 or (opaque is not None and 0 not in used):
        values, one = numbers, False
    elif len(used) == 2 and 0 in codes[used]:
        values, one = (codes != 0)[numbers], True
    else:
        text = "number 0 of its palette is not black: set masks: index if 0 is the background all the same, masks: binary if black is"
        raise Unreadable("no background in", named(source, text))
    return _Drawn(np.where(opaque, values, 0) if opaque is not None else values, palette=True, one=one, void=bool(void) or kind == "index")


def _thresholded(picture: Image.Image, kind: MaskKind, source: Source, tell: Tell) -> np.ndarray | None:
    """[H, W] bool of a black and white mask whose edges a lossy format has blurred; None for a file stored without loss."""
    levels = np.asarray(picture.convert("RGB")).max(axis=2)  # [H, W] uint8
    counts = np.bincount(levels.ravel(), minlength=256)
    if (
        picture.format not in ("JPEG", "MPO")
        and np.count_nonzero(counts) <= 8
        and (counts[1 : _NEAR + 1].any() or not counts[-_NEAR:].any())
    ):
        return None  # few values, small numbers among them
    near = counts[: _NEAR + 1].sum() + counts[256 - _NEAR :].sum()
    if kind == "index" or near < 0.9 * levels.size or (levels.max() < 256 - _NEAR and levels.any()):
        text = f"{picture.format} has blurred its values, and they are not black and white (the largest is {levels.max()}); save it as PNG"
        raise Unreadable("blurred", named(source, text))
    tell(f"masks stored as {picture.format}: a pixel is the object's from half of white on")
    thresholded: np.ndarray = levels >= 128
    return thresholded


def _flat(values: np.ndarray, apart: np.ndarray) -> float:
    """Share of the pixels that are set, and not among ``apart``, whose right and lower neighbours have the same value."""
    inner = values[:-1, :-1]
    within = (inner != 0) & ~np.isin(inner, apart)
    same = within & (inner == values[1:, :-1]) & (inner == values[:-1, 1:])
    return float(same.sum() / max(1, within.sum()))


def _objects(drawn: _Drawn, kind: MaskKind, source: Source) -> list[Label] | None:
    """The numbers or colours that stand for an object each; None for one object, that of everything that is set."""
    if drawn.one:
        return None
    values = drawn.values
    found, counts = _counted(values)
    background, keep = bool((found == 0).any()), found != 0
    found, counts = found[keep], counts[keep]
    if kind == "index":
        return _labels(found[found != (_VOID_COLOUR if drawn.colours else _VOID)], drawn)
    if kind == "binary" or len(found) <= 1:
        return None
    top = int(counts.argmax())
    if not drawn.palette and _flat(values, found[top : top + 1]) < _FLAT:
        if (drawn.colours or found[top] >= 128) and 2 * counts[top] >= counts.sum():
            return None  # one object with a soft edge
        if len(found) > _FEW:
            text = f"{len(found)} values without a clear object; set masks: binary for all that is not black"
            raise Unreadable("no clear object in", named(source, text))
    void = _VOID_COLOUR if drawn.colours else _VOID
    objects = found[found != void]
    if not background and not drawn.void:
        text = f"{len(found)} values and none of them 0 or black; set masks: index, or masks: binary for all as one"
        raise Unreadable("no background in", named(source, text))
    if len(objects) < len(found) and not drawn.void and not drawn.colours and (len(objects) == 1 or objects.max() >= _SMALL):
        shown = ", ".join(map(str, found[:5]))
        text = f"its values are {shown}: set masks: index if 255 is nobody's, masks: binary if all is one object"
        raise Unreadable("several objects in one", named(source, text))
    return _labels(objects, drawn)


def _counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values that occur, how often)."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        found = np.flatnonzero(counts)
        return found, counts[found]
    return np.unique(values, return_counts=True)


def _labels(found: np.ndarray, drawn: _Drawn) -> list[Label]:
    return [f"#{int(one):06x}" if drawn.colours else int(one) for one in found]


def check_label(value: object) -> Label:
    """What a table gives as a label. Raises ``ValueError`` with what it may be."""
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and len(value) == 7 and value[0] == "#" and all(one in "0123456789abcdefABCDEF" for one in value[1:]):
        return value.lower()
    raise ValueError(f'label is a number above 0 or a colour such as "#ff0000", not {value!r}')
