"""Pre-extracted SA-V pairs: ``**/masklet_data_*.npz`` with frame1, mask1, frame2, mask2 of one object.

Frames are float32 [H, W, 3] in 0..255 and **BGR** in the known exports, masks float32 of 0 and 255; uint8, bool, 0..1
and channels-first are accepted. The npz holds no video id, so pairs of one video cannot be kept together.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from core.contracts import BadSample, Count, Region, StoredPicture, UserError
from core.pixels import MAX_PIXELS
from plugins.datasets import _recognize
from plugins.datasets._index import STAMPED, existing_folder, spread
from plugins.datasets._listing import listing

_KEYS = ("frame1", "mask1", "frame2", "mask2")


class SavPairs:
    """Two frames of one object; ids are paths relative to ``root``. ``image2`` is None where both frames are equal."""

    recognizes = staticmethod(_recognize.sav_pairs)

    def __init__(self, *, root: Path, channel_order: Literal["bgr", "rgb"] = "bgr", max_samples: Count | None = None) -> None:
        """``max_samples`` files spread over the sorted list. Raises ``UserError`` where there is none."""
        if channel_order not in ("bgr", "rgb"):
            raise ValueError(f"channel_order must be bgr or rgb, not {channel_order}.")
        self.root = existing_folder(root, "sav.pairs", "masklet_data_*.npz")
        self._reverse = channel_order == "bgr"
        self._files = listing("sav.pairs", self.root, "masklet_data_", ".npz")
        if not self._files.count("name"):
            raise UserError(f"sav.pairs: there is no masklet_data_*.npz under {self.root}; check root.")
        self._chosen = spread(self._files.count("name"), max_samples)

    def its_files(self) -> list[Path]:
        """Of many files some, spread over all."""
        return [self.root / self._files.text("name", row) for row in spread(self._files.count("name"), STAMPED // 10)]  # they hold pictures

    def picture_files(self) -> Iterator[StoredPicture]:
        """A file with its two frames counts as one picture."""
        return (StoredPicture(self.root / self._files.text("name", row)) for row in self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Region:
        name = self._files.text("name", self._chosen[index])
        arrays = _load(self.root / name, name)
        image, image2 = (self._image(arrays[key], key, name) for key in ("frame1", "frame2"))  # [H, W, 3]
        mask = _mask(arrays["mask1"], image.shape[:2], "mask1", name)  # [H, W]
        mask2 = _mask(arrays["mask2"], image2.shape[:2], "mask2", name)
        if np.array_equal(image, image2):  # a known fault of one extractor: the second frame is a copy
            return Region(id=name, image=image, mask=mask)
        return Region(id=name, image=image, mask=mask, image2=image2, mask2=mask2)

    def _image(self, array: np.ndarray, key: str, sample: str) -> np.ndarray:
        if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
            array = array.transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
        if array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise BadSample("damaged npz", sample, f"{key} has the shape {array.shape}")
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise BadSample("damaged npz", sample, f"{key} holds NaN or infinity")
            array = np.rint(array * 255 if array.max() <= 1 else array)
        elif array.dtype.kind not in "ui":
            raise BadSample("damaged npz", sample, f"{key} has the type {array.dtype}")
        array = np.clip(array, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(array[:, :, ::-1] if self._reverse else array)


def _mask(array: np.ndarray, shape: tuple[int, ...], key: str, sample: str) -> np.ndarray:
    """[H, W] bool of a mask of any numeric type, 0 and 1 or 0 and 255, with or without an axis of length one."""
    if array.dtype.kind not in "fuib" or array.size != shape[0] * shape[1] or array.squeeze().shape != tuple(n for n in shape if n > 1):
        raise BadSample("damaged npz", sample, f"{key} has the shape {array.shape} beside a frame of {shape}")
    array = array.reshape(shape)
    mask = array > (127 if array.dtype.kind != "b" and array.max() > 1 else 0.5)  # [H, W]
    if not mask.any():
        raise BadSample("empty mask", sample, key)
    return mask


def _load(path: Path, sample: str) -> dict[str, np.ndarray]:
    """The four arrays, nothing unpickled; sizes are checked before anything is allocated."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for key in _KEYS:
                member = f"{key}.npy"
                stored = archive.getinfo(member).file_size
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read_header(file)
                claimed = dtype.itemsize
                for side in shape:
                    claimed *= side
                if dtype.hasobject or claimed > min(stored, 3 * 8 * MAX_PIXELS):
                    raise BadSample("damaged npz", sample, f"{key} claims {shape} {dtype} in {stored} bytes")
                with archive.open(member) as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    except KeyError as fault:
        raise BadSample("damaged npz", sample, f"no array {key}") from fault
    except FileNotFoundError as fault:
        raise BadSample("missing npz", sample, str(path)) from fault
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as fault:
        raise BadSample("damaged npz", sample, str(fault)) from fault
    return arrays
