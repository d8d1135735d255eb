"""Pictures in: any size, mode and bit depth that Pillow reads become RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import expand_inputs

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
"""Endings of files that are read as pictures."""


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The picture files that a command line names; of a folder, those of its sub-folders too.

    Args:
        inputs: files, folders, globs or manifests, as :func:`core.files.expand_inputs` takes them.

    Raises:
        InputError: when a name leads to nothing, or a file is no picture.
    """
    found: dict[Path, None] = {}
    for name in inputs or [""]:
        if name and Path(name).is_dir():
            inside = sorted(p for p in Path(name).rglob("*") if _is_picture(p, Path(name)))
            if not inside:
                raise InputError(
                    f"folder {name} holds no picture", f"endings read: {', '.join(sorted(SUFFIXES))}"
                )
            found.update(dict.fromkeys(inside))
        else:
            found.update(dict.fromkeys(expand_inputs([name] if name else [], SUFFIXES)))
    return list(found)


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def read_picture(path: str | Path, at_least: int | None = None) -> Tensor:
    """Read a picture: turned upright by its EXIF tag, transparent parts on white, grey as three channels.

    Args:
        path: a file that Pillow reads; of several frames the first is taken. 8 and 16 bits count from 0 to
            the largest value that the type can hold; floating-point pictures must lie in [0, 1].
        at_least: shrink to this shorter side (antialiased) where the picture is larger; None keeps its size.

    Returns:
        (3, height, width), float32 in [0, 1].

    Raises:
        InputError: when the file is missing, damaged, empty or holds values out of range.
    """
    import torch
    from PIL import Image, ImageOps

    path = Path(path)
    try:
        with Image.open(path) as opened:
            if at_least is not None:
                opened.draft(None, (at_least, at_least))
            values = _values(ImageOps.exif_transpose(opened), path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a picture ({error})", "fetch it again, or remove it"
        ) from error
    picture = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
    return picture if at_least is None else shrink(picture, at_least)


def _values(image: Any, path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(height, width, 3), float32 in [0, 1]."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, np.float32)
        if image.mode != "F":
            grey = grey / np.float32(65535)
        if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > 1:
            limits = "65535" if image.mode != "F" else "1"
            raise InputError(f"{path} holds values that are not from 0 to {limits}", "scale it, or remove it")
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)


def shrink(picture: Tensor, shorter_side: int) -> Tensor:
    """Bring the shorter side of (3, height, width) down to a length, antialiased; smaller ones stay."""
    import torch.nn.functional as F

    height, width = picture.shape[-2:]
    scale = shorter_side / min(height, width)
    if scale >= 1:
        return picture
    size = (max(shorter_side, round(height * scale)), max(shorter_side, round(width * scale)))
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
