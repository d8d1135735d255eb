"""Photographs in: any size, mode and bit depth, upright, with the focal length that their EXIF tells."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffusion_suite.core.errors import InputError

SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
})  # fmt: skip
"""Endings of the pictures that are read."""

RGB = NDArray[np.uint8]
LARGEST = 1 << 30
_BITS = (8, 10, 12, 14, 16, 32)
_FOCAL_35MM = 0xA405
_EXIF = 0x8769
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
_DIAGONAL_35MM = math.hypot(36, 24)


@dataclass(frozen=True)
class Picture:
    """A picture as it is seen.

    Attributes:
        rgb: (height, width, 3), 8 bit; what is transparent is white.
        focal: focal length in pixels that the EXIF data tell, or None.
    """

    rgb: RGB
    focal: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def read_picture(path: str | Path) -> Picture:
    """Read a picture, turned as its EXIF orientation says.

    Grey, palette, alpha, CMYK and Lab pictures become RGB. Whole numbers of more than 8 bits span the fewest
    bits (10, 12, 14 or 16) that hold the greatest; other numbers span 0 to 1, or to their greatest.

    Raises:
        InputError: the file is missing, damaged, no picture, or too large (2^30 pixels).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist", "check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty", "fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _open(path)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} does not fit in memory", "make it smaller") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as a picture ({reason[:120]})", "fetch it again, or convert it to PNG"
        ) from error


def _open(path: Path) -> Picture:
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Image.UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff"):
            return Picture(_tiff(path))
        raise InputError(f"{path} is no picture", "give a PNG, JPEG, TIFF or WebP file") from None
    with image:
        if image.width * image.height > LARGEST:
            raise _too_large(path)
        focal = _focal(image)
        if _has_deep_colours(image):
            return Picture(_tiff(path), focal)
        turned = ImageOps.exif_transpose(image)
        return Picture(_rgb(turned), focal)


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} has more than 2^30 pixels", "make it smaller, or cut it into pieces")


def _rgb(image: Image.Image) -> RGB:
    if image.mode.startswith(("I", "F")):
        return stretched(np.asarray(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, seen).convert("RGB"))
    return np.array(image.convert("RGB"))


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether it is a TIFF of more than 8 bits a colour, of which Pillow reads some wrongly."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _tiff(path: Path) -> RGB:
    """Colour TIFF of more than 8 bits, or of floats."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if math.prod(page.shape) > 4 * LARGEST:
            raise _too_large(path)
        array = page.asarray()
        planar = array.ndim == 3 and page.axes.startswith("S")
        orientation = page.tags.get(_ORIENTATION)
    upright = Image.fromarray(stretched(np.moveaxis(array, 0, -1) if planar else array))
    if orientation is not None:
        upright.getexif()[_ORIENTATION] = int(orientation.value)
    return np.array(ImageOps.exif_transpose(upright))


def stretched(array: NDArray[Any]) -> RGB:
    """Numbers of any type as 8-bit RGB.

    Args:
        array: (height, width) or (height, width, channels); the first three channels are taken of three or
            more, the first of fewer. NaN becomes 0.

    Raises:
        InputError: another shape, or complex numbers.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "buif":
        raise InputError(f"an array of shape {array.shape} and type {array.dtype} is no picture")
    array = array[..., :3] if array.shape[-1] >= 3 else array[..., :1]
    values = np.nan_to_num(array.astype(np.float32), posinf=0.0, neginf=0.0).clip(0)
    highest = float(values.max(initial=0))
    if array.dtype.kind == "f":
        top = max(1.0, highest)
    else:
        top = next(2.0**bits - 1 for bits in _BITS if highest < 2.0**bits) if array.dtype != bool else 1.0
    levels = (values * (255 / top)).round().astype(np.uint8)
    return np.broadcast_to(levels, (*levels.shape[:2], 3)).copy()


def _focal(image: Image.Image) -> float | None:
    """Focal length in pixels by its 35 mm equivalent, which refers to the diagonal of 36 x 24 mm."""
    try:
        equivalent = float(image.getexif().get_ifd(_EXIF).get(_FOCAL_35MM, 0))
    except (TypeError, ValueError, ZeroDivisionError, OSError):
        return None
    if not (math.isfinite(equivalent) and equivalent > 0):
        return None
    return equivalent / _DIAGONAL_35MM * math.hypot(image.width, image.height)
