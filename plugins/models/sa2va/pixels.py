"""Pictures resized and normalised as upstream does it: PIL's default (bicubic) filter, aspect not kept, RGB.

Pictures stay uint8 until they reach the device; ``normalize`` gives upstream's float32 tensor exactly. With ``fast`` they are
resized by torch's vectorised kernel for the same filter: quicker (``docs/data.md``); some values are 1 or 2 of 255 off.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, for both encoders


def resized(image: np.ndarray, width: int, height: int, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [height, width, 3] uint8."""
    if not fast:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]  # [1, 3, H, W], channels last
    return F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()


def square(image: np.ndarray, size: int, fast: bool = False) -> np.ndarray:
    """[H, W, 3] uint8 -> [3, size, size] uint8."""
    return np.ascontiguousarray(resized(image, size, size, fast).transpose(2, 0, 1))


def normalize(pictures: Tensor, dtype: torch.dtype, constants: torch.dtype = torch.float32) -> Tensor:
    """[n, 3, S, S] uint8 -> the same in ``dtype``, computed in float32 with mean and std rounded to ``constants``."""
    mean = torch.tensor(MEAN, device=pictures.device).to(constants).float()[:, None, None]
    std = torch.tensor(STD, device=pictures.device).to(constants).float()[:, None, None]
    return ((pictures.float() / 255 - mean) / std).to(dtype)
