"""Procedural hyperspectral scenes as stacks of eigen-images: the training data of the eigen-image prior.

A scene is a map of materials (parcels, dead leaves, regions of a random field) whose spectra live in a
12-dimensional subspace, with textures, shading and a point spread; or an ordinary photograph lifted to that
many bands by random smooth functions of its colours. Its principal components, sorted by energy, are what the
prior learns to denoise: piecewise constant fields with shared edges, textures, and sparse weak components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data as skimage_data
from skimage.transform import resize

Image = NDArray[np.float32]
Labels = NDArray[np.int32]
Rng = np.random.Generator

SUBSPACE = 12
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "rocket",
    "text",
)


def eigen_scene(rng: Rng, size: int, channels: int, photographs: Sequence[Image] = ()) -> tuple[Image, Image]:
    """One scene of `size` x `size` pixels as its leading `channels` eigen-images.

    Returns the stack (channels, size, size), each with zero mean and unit standard deviation, and the true
    standard deviations (channels,) relative to the first, in falling order.
    """
    if photographs and rng.random() < 0.3:
        cube = _lifted_photographs(rng, size, photographs)
    else:
        cube = _material_scene(rng, size)
    return eigen_images(cube, channels)


def eigen_images(cube: Image, channels: int) -> tuple[Image, Image]:
    """Leading principal components of a cube (rows, columns, bands), and their relative deviations.

    See `eigen_scene` for what is returned.
    """
    rows, columns, bands = cube.shape
    pixels = cube.reshape(-1, bands).astype(np.float64)
    pixels -= pixels.mean(0)
    energy, vectors = np.linalg.eigh(pixels.T @ pixels / len(pixels))
    keep = min(channels, bands)
    energy, vectors = energy[::-1][:keep], vectors[:, ::-1][:, :keep]
    deviation = np.sqrt(np.maximum(energy, max(energy[0], 1e-20) * 1e-8))
    stack = np.zeros((channels, rows, columns), np.float32)
    stack[:keep] = ((pixels @ vectors) / deviation).T.reshape(keep, rows, columns)
    relative = np.full(channels, 1e-4, np.float32)
    relative[:keep] = deviation / deviation[0]
    return stack, relative


def photographs() -> list[Image]:
    """The photographs that come inside scikit-image, (rows, columns, 1 or 3), in [0, 1]."""
    pictures = []
    for name in PHOTOGRAPHS:
        picture = getattr(skimage_data, name)().astype(np.float32) / 255
        pictures.append(np.atleast_3d(picture)[..., :3])
    return pictures


def random_fields(
    rng: Rng, size: int, exponents: Sequence[float], stretch: Sequence[tuple[float, float]] | None = None
) -> Image:
    """Gaussian random fields (n, size, size), unit variance, amplitude spectrum f^-exponent.

    `stretch` gives for each field the angle in radians and the factor of its anisotropy (rows of a field).
    """
    vertical, horizontal = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    fields = []
    for index, exponent in enumerate(exponents):
        angle, ratio = stretch[index] if stretch else (0.0, 1.0)
        along = np.cos(angle) * horizontal + np.sin(angle) * vertical
        across = (np.cos(angle) * vertical - np.sin(angle) * horizontal) * ratio
        frequency = np.maximum(np.hypot(along, across), 1 / size)
        spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * frequency**-exponent
        field = np.fft.irfft2(spectrum, s=(size, size))
        field -= field.mean()
        fields.append((field / (field.std() + 1e-9)).astype(np.float32))
    return np.stack(fields)


def _lifted_photographs(rng: Rng, size: int, pictures: Sequence[Image]) -> Image:
    colours = np.concatenate([_crop(rng, size, pictures) for _ in range(rng.integers(1, 3))], axis=-1)
    colours = (colours - colours.mean((0, 1))) / (colours.std((0, 1)) + 1e-3)
    weights = rng.standard_normal((colours.shape[-1], 24), dtype=np.float32) * rng.uniform(0.3, 2)
    hidden = np.tanh(colours @ weights + rng.standard_normal(24, dtype=np.float32))
    features = np.concatenate([2 * colours, hidden], axis=-1)
    return np.asarray(
        features @ rng.standard_normal((features.shape[-1], SUBSPACE), dtype=np.float32), np.float32
    )


def _crop(rng: Rng, size: int, pictures: Sequence[Image]) -> Image:
    picture = pictures[int(rng.integers(len(pictures)))]
    rows, columns = picture.shape[:2]
    side = int(min(size * rng.uniform(0.5, 1) * np.clip(min(rows, columns) / size, 1, 4), rows, columns))
    top, left = rng.integers(rows - side + 1), rng.integers(columns - side + 1)
    patch = resize(picture[top : top + side, left : left + side], (size, size), order=1, anti_aliasing=True)
    return np.array(np.rot90(patch, int(rng.integers(4))), np.float32, order="C")


def _material_scene(rng: Rng, size: int) -> Image:
    supersampling = 2 if rng.random() < 0.5 else 1
    side = size * supersampling
    materials = int(rng.integers(3, 24))
    labels = _material_map(rng, side, materials)
    spectra = rng.standard_normal((materials, SUBSPACE), dtype=np.float32)
    spectra *= (np.arange(1, SUBSPACE + 1) ** -rng.uniform(0, 1.5)).astype(np.float32)
    cube = spectra[labels]
    _add_textures(rng, cube, labels, spectra)
    if rng.random() < 0.7:
        shading = random_fields(rng, side, [rng.uniform(1.2, 2)])[0]
        cube *= np.exp(shading * rng.uniform(0, 0.3))[..., None]
    if rng.random() < 0.5:
        haze = random_fields(rng, side, rng.uniform(0.5, 2, 3).tolist())
        cube += np.moveaxis(haze, 0, -1) @ (rng.standard_normal((3, SUBSPACE)) * rng.uniform(0, 0.4)).astype(
            np.float32
        )
    if supersampling == 2:
        cube = cube.reshape(size, 2, size, 2, SUBSPACE).mean((1, 3))
    blur = rng.uniform(0, 0.8)
    return gaussian_filter(cube, (blur, blur, 0)) if blur > 0.25 else cube


def _add_textures(rng: Rng, cube: Image, labels: Labels, spectra: Image, count: int = 4) -> None:
    stretch = [(float(rng.uniform(0, np.pi)), float(rng.choice([1, 1, 3, 10]))) for _ in range(count)]
    fields = random_fields(rng, len(labels), rng.uniform(0, 2.2, count).tolist(), stretch)
    strengths = (rng.random((count, len(spectra))) ** 3 * rng.uniform(0, 0.8)).astype(np.float32)
    for field, strength in zip(fields, strengths, strict=True):
        along_spectrum = rng.random() < 0.5
        direction = spectra if along_spectrum else 0.5 * rng.standard_normal(spectra.shape, dtype=np.float32)
        cube += (field * strength[labels])[..., None] * direction[labels]


def _material_map(rng: Rng, size: int, materials: int) -> Labels:
    kind = rng.random()
    if kind < 0.45:
        labels = _parcels(rng, size, materials)
    elif kind < 0.75:
        background = np.full((size, size), rng.integers(materials), np.int32)
        labels = _leaves(rng, background, materials, int(rng.integers(100, 900)), size / 3)
    else:
        count = min(materials, 7)
        labels = random_fields(rng, size, rng.uniform(1.3, 2.6, count).tolist()).argmax(0).astype(np.int32)
    if rng.random() < 0.5:
        labels = _leaves(rng, labels, materials, int(rng.integers(3, 200)), size / 8)
    if rng.random() < 0.3:
        course = random_fields(rng, size, [rng.uniform(1.5, 2.2)])[0]
        labels = np.where(np.abs(course) < rng.uniform(0.02, 0.15), rng.integers(materials), labels)
    return labels.astype(np.int32)


def _parcels(rng: Rng, size: int, materials: int) -> Labels:
    """Fields from recursive splitting, often turned, sometimes with roads between them."""
    canvas = int(size * 1.5)
    labels, roads = np.zeros((canvas, canvas), np.int32), np.zeros((canvas, canvas), bool)
    smallest, road = rng.uniform(5, 30), int(rng.choice([0, 0, 1, 2]))
    stack = [(0, canvas, 0, canvas)]
    while stack:
        top, bottom, left, right = stack.pop()
        height, width = bottom - top, right - left
        longest = max(height, width)
        if longest < 2 * smallest or (longest < 6 * smallest and rng.random() < 0.25):
            labels[top:bottom, left:right] = rng.integers(materials)
            if road and rng.random() < 0.8:
                roads[top : top + road, left:right] = roads[top:bottom, left : left + road] = True
            continue
        share = rng.uniform(0.25, 0.75)
        if height * rng.uniform(0.6, 1.6) > width:
            cut = top + int(height * share)
            stack += [(top, cut, left, right), (cut, bottom, left, right)]
        else:
            cut = left + int(width * share)
            stack += [(top, bottom, left, cut), (top, bottom, cut, right)]
    labels[roads] = rng.integers(materials)
    angle = rng.uniform(0, np.pi) if rng.random() < 0.7 else 0.0
    rows, columns = np.mgrid[:size, :size] - size / 2
    turned_rows = np.clip(np.cos(angle) * rows - np.sin(angle) * columns + canvas / 2, 0, canvas - 1)
    turned_columns = np.clip(np.sin(angle) * rows + np.cos(angle) * columns + canvas / 2, 0, canvas - 1)
    return np.asarray(labels[turned_rows.astype(int), turned_columns.astype(int)])


def _leaves(rng: Rng, labels: Labels, materials: int, count: int, largest: float) -> Labels:
    """Dead leaves: shapes of power-law size thrown one over the other (ellipses, rectangles, rhombi)."""
    labels, size = labels.copy(), len(labels)
    smallest = rng.uniform(1, 3)
    radii = (smallest**-2 + rng.random(count) * (largest**-2 - smallest**-2)) ** -0.5
    shape_of_scene = int(rng.integers(4))
    for radius in radii:
        row, column = rng.uniform(-radius / 2, size + radius / 2, 2)
        angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.3, 1)
        shape = shape_of_scene if shape_of_scene < 3 else int(rng.integers(3))
        top, bottom = max(0, int(row - 1.5 * radius)), min(size, int(row + 1.5 * radius) + 1)
        left, right = max(0, int(column - 1.5 * radius)), min(size, int(column + 1.5 * radius) + 1)
        if bottom <= top or right <= left:
            continue
        y, x = np.ogrid[top:bottom, left:right]
        along = np.cos(angle) * (x - column) + np.sin(angle) * (y - row)
        across = (np.cos(angle) * (y - row) - np.sin(angle) * (x - column)) / aspect
        labels[top:bottom, left:right][_inside(shape, along, across, radius)] = rng.integers(materials)
    return labels


def _inside(
    shape: int, along: NDArray[np.float64], across: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    if shape == 0:
        return along**2 + across**2 < radius**2
    if shape == 1:
        return np.maximum(np.abs(along), np.abs(across)) < 0.9 * radius
    return np.abs(along) + np.abs(across) < 1.2 * radius
