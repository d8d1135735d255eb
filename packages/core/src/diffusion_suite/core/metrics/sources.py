"""Where features come from: pictures through an encoder, or files that hold features already.

What an array in a .npy or .npz file means is told by its shape: (d,) features of one item; (n, d) features;
(h, w, c) with 1, 3 or 4 channels one picture, other (n, h, w) grey pictures; (n, h, w, c) and (n, c, h, w)
pictures. Whole numbers count from 0 to the largest value of their type; other pictures lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_suite.core.devices import pick_device
from diffusion_suite.core.encoders.pictures import SUFFIXES, find_pictures, read_picture
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import expand_inputs
from diffusion_suite.core.metrics.config import EvaluateConfig
from diffusion_suite.core.metrics.encode import from_encoder, from_pixels

ARRAYS = frozenset({".npy", ".npz"})
CHANNELS = (1, 3, 4)
PIXELS = "pixels"
FEATURES = "features"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """One set as it was named.

    Attributes:
        name: as typed.
        files: pictures or arrays.
        key: array to read in a .npz file.
        features: whether the files hold features.
    """

    name: str
    files: list[Path]
    key: str | None
    features: bool

    @classmethod
    def find(cls, name: str, key: str | None) -> Source:
        """The files of a folder, file, glob or manifest, and what they hold.

        Raises:
            InputError: nothing is there, or a mixture of pictures and arrays, or of pictures and features.
        """
        files = _files(name)
        kinds = {file: _holds_features(_array(file, key), file) for file in files if _is_array(file)}
        if len(set(kinds.values())) > 1 or (True in kinds.values() and len(kinds) < len(files)):
            raise InputError(f"{name} holds both features and pictures", "keep them in two folders")
        return cls(name, files, key, True in kinds.values())

    def features_of(self) -> Tensor:
        """Features (n, d) of files that hold them.

        Raises:
            InputError: files of unequal widths.
        """
        parts: list[Array] = []
        for file in self.files:
            part = np.atleast_2d(_array(file, self.key))
            if parts and part.shape[1] != parts[0].shape[1]:
                raise InputError(
                    f"{file} has {part.shape[1]} features an item but {self.files[0]} has "
                    f"{parts[0].shape[1]}",
                    "take all from one encoder",
                )
            parts.append(part)
        values = np.concatenate(parts)
        return torch.from_numpy(values.astype(np.float64 if values.dtype == np.float64 else np.float32))

    def pictures(self) -> Iterator[tuple[str, Tensor]]:
        """Each picture with a name for messages: (3, h, w), or (1, h, w) where it is grey, in [0, 1].

        Raises:
            InputError: a file that is damaged, or values out of range.
        """
        for file in self.files:
            if _is_array(file):
                for index, picture in enumerate(_pictures(_array(file, self.key), file)):
                    yield f"{file}[{index}]", picture
            else:
                picture = read_picture(file)
                grey = bool((picture == picture[:1]).all())
                yield str(file), picture[:1] if grey else picture

    def items(self) -> list[Path | Tensor]:
        """Each picture as a cache of features takes it: a file, or values (3, h, w).

        Raises:
            InputError: as `pictures`.
        """
        found: list[Path | Tensor] = []
        for file in self.files:
            arrays = _pictures(_array(file, self.key), file) if _is_array(file) else None
            found += [file] if arrays is None else [picture.expand(3, -1, -1) for picture in arrays]
        return found

    def __len__(self) -> int:
        if self.features:
            return len(self.features_of())
        arrays = [_array(file, self.key) for file in self.files if _is_array(file)]
        return len(self.files) - len(arrays) + sum(_count(array) for array in arrays)


def read_sets(names: Mapping[str, str], config: EvaluateConfig) -> tuple[dict[str, Tensor], str]:
    """Features of each set, on the device, and the name of their encoder.

    Args:
        names: role of a set, ``real`` for one, and the folder, file, glob or manifest that holds it.
        config: encoder, device, batch size.

    Raises:
        InputError: files that are missing, damaged, of unequal sizes or of two kinds, or fewer than 2 items.
    """
    device = pick_device(config.device)
    sources = {role: Source.find(name, config.key) for role, name in names.items()}
    for source in sources.values():
        if source.features != sources["real"].features:
            holds = ["features" if one.features else "pictures" for one in (sources["real"], source)]
            raise InputError(
                f"{sources['real'].name} holds {holds[0]} but {source.name} holds {holds[1]}",
                "give sets of one kind",
            )
        if len(source) < 2:
            raise InputError(f"{source.name} holds a single item, too few for statistics", "give more")
    encoder = config.encoder
    if sources["real"].features:
        found, encoder = {role: source.features_of() for role, source in sources.items()}, FEATURES
    elif encoder == PIXELS:
        found = from_pixels(sources)
    else:
        found, encoder = from_encoder(sources, encoder, config, device)
    for role, values in found.items():
        _check(names[role], values, names["real"], found["real"])
    return {role: values.to(device) for role, values in found.items()}, encoder


def _check(name: str, values: Tensor, first_name: str, first: Tensor) -> None:
    if values.shape[1] != first.shape[1]:
        raise InputError(
            f"{first_name} has {first.shape[1]} features an item but {name} has {values.shape[1]}",
            "take both from one encoder",
        )
    bad = int((~torch.isfinite(values)).any(1).sum())
    if bad:
        raise InputError(
            f"{name}: features of {bad} of {len(values)} items hold NaN or infinity", "leave those items out"
        )


def _files(name: str) -> list[Path]:
    if not Path(name).is_dir():
        return expand_inputs([name], ARRAYS | SUFFIXES)
    inside = sorted(path for path in Path(name).rglob("*") if _is_array(path) and path.is_file())
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    if not shown:
        return find_pictures([name])
    return shown


def _is_array(file: Path) -> bool:
    return file.suffix.lower() in ARRAYS


def _array(file: Path, key: str | None) -> Array:
    """The array in a file, mapped rather than read where that is possible."""
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _numbers(loaded, file)
        with loaded:
            names = list(loaded)
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                said = f"has no array '{key}'" if key is not None else f"holds {len(names)} arrays"
                raise InputError(f"{file} {said}", f"give key= one of {', '.join(names)}")
            return _numbers(loaded[key], file)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{file} cannot be read as an array ({error})", "save it again with numpy.save, numbers only"
        ) from error


def _numbers(array: Array, file: Path) -> Array:
    if array.dtype.kind not in "fiub" or array.size == 0 or not 1 <= array.ndim <= 4:
        raise InputError(
            f"{file} holds an array {array.shape} of {array.dtype}",
            "give features (n, d) or pictures (n, h, w, c) of numbers",
        )
    return array


def _holds_features(array: Array, file: Path) -> bool:
    if array.ndim == 4 and array.shape[3] not in CHANNELS and array.shape[1] not in CHANNELS:
        raise InputError(
            f"{file} holds an array {array.shape}, pictures of neither 1, 3 nor 4 channels",
            "give features (n, d), or pictures (n, h, w, c)",
        )
    return array.ndim < 3


def _count(array: Array) -> int:
    return 1 if array.ndim == 3 and array.shape[2] in CHANNELS else len(array)


def _pictures(array: Array, file: Path) -> Iterator[Tensor]:
    if array.ndim == 3:
        array = array[None] if array.shape[2] in CHANNELS else array[..., None]
    if array.shape[3] not in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    for item in array:
        yield _picture(item, file)


def _picture(item: Array, file: Path) -> Tensor:
    """One picture (h, w, c) as (1 or 3, h, w) in [0, 1], transparent parts on white."""
    values = np.array(item, np.float32)
    if item.dtype.kind in "iu":
        values = values / np.float32(np.iinfo(item.dtype).max)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"{file} holds a picture with values outside [0, 1] or NaN", "scale it to [0, 1], or store uint8"
        )
    if values.shape[2] == 4:
        values = values[..., :3] * values[..., 3:] + (1 - values[..., 3:])
    picture = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
    return picture[:1] if bool((picture == picture[:1]).all()) else picture
