"""`core pretrain`: pictures of all kinds in, a folder that `load_encoder` opens out; a killed run goes on."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core.cli import main
from diffusion_suite.core.encoders import Encoder, find_pictures, load_encoder, read_picture
from diffusion_suite.core.encoders.config import PretrainConfig
from diffusion_suite.core.encoders.data import Pictures, random_crop, split
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.seeding import generator, numpy_generator, seeded

pytest.importorskip("transformers")
image = pytest.importorskip("PIL.Image")

TINY = ["image_size=16", "patch_size=4", "width=16", "depth=2", "heads=2", "workers=0", "batch_size=4"]
TINY += ["warmup_steps=2", "trainer.accelerator=cpu"]
TINY_CONFIG = PretrainConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2)


def save(path: Path, values: object, mode: str | None = None, **options: object) -> Path:
    picture = image.fromarray(np.asarray(values))
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of many kinds, one of them broken, one in a sub-folder."""
    rng = numpy_generator(0, "pictures")
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    colour = rng.integers(0, 256, (40, 30, 3), np.uint8)
    save(place / "colour.png", colour)
    save(place / "grey.jpg", colour[..., 0])
    save(place / "deep.png", rng.integers(0, 65536, (24, 50), np.uint16))
    save(place / "clear.png", np.dstack([colour, colour[..., 0]]))
    save(place / "palette.gif", colour[..., 0], "P")
    save(place / "dot.bmp", colour[:1, :1])
    save(place / "more" / "float.tif", rng.random((33, 17), np.float32))
    (place / "broken.png").write_bytes((place / "colour.png").read_bytes()[:200])
    (place / "notes.txt").write_text("no picture")
    return place


def test_pretrain_makes_an_encoder_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretrain(out: Path, steps: int) -> None:
        words = ["core", "pretrain", str(folder), "-o", str(out), f"steps={steps}", "schedule=constant"]
        assert main([*words, *TINY]) == 0

    pretrain(tmp_path / "whole", 5)
    printed = capsys.readouterr().err
    assert "left out" in printed
    assert "broken.png" in printed
    export = tmp_path / "whole" / "encoder"
    encoder = load_encoder(export)
    picture = read_picture(folder / "colour.png")[None]
    features = encoder.encode(picture)
    assert features.grid == (4, 4)
    assert features.tokens.shape == (1, 16, 16)
    assert encoder.contract.size == 16
    assert (export / "README.md").read_text(encoding="utf-8").startswith("---\nlicense")
    for steps in (2, 5):
        pretrain(tmp_path / "half", steps)
    resumed = load_encoder(tmp_path / "half" / "encoder")
    assert torch.equal(resumed.tokens(picture), features.tokens)
    assert "left out" in capsys.readouterr().err
    words = ["core", "pretrain", str(folder), "-o", str(tmp_path / "half"), "steps=9", "schedule=constant"]
    assert main([*words, *TINY, "width=32"]) == 2
    assert "width was 16, now 32" in capsys.readouterr().err
    init = ["-o", str(tmp_path / "next"), "steps=1", f"init={tmp_path / 'half' / 'encoder'}"]
    assert main(["core", "pretrain", str(folder), *init, *TINY, "learning_rate=1e-12"]) == 0
    started = load_encoder(tmp_path / "next" / "encoder")
    assert_close(started.tokens(picture), features.tokens, atol=1e-5, rtol=1e-5)


def test_broken_files_may_be_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["core", "pretrain", str(folder), "-o", str(tmp_path / "run"), "steps=1", "unreadable=refuse"]
    assert main([*words, *TINY]) == 2
    printed = capsys.readouterr().err
    assert "broken.png cannot be read" in printed
    assert len(printed.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image_size=30"], "image_size=32"),
        (["width=15"], "width=16"),
        (["validation=99"], "validation"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = [word for word in TINY if word.split("=")[0] != words[0].split("=")[0]]
    assert (
        main(["core", "pretrain", str(folder), "-o", str(tmp_path / "run"), "steps=1", *given, *words]) == 2
    )
    assert message in capsys.readouterr().err


def test_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [str(tmp_path)], [str(tmp_path / "nothing")]):
        assert main(["core", "pretrain", *words, "-o", str(tmp_path / "run"), "steps=1"]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_reading_pictures(folder: Path, tmp_path: Path) -> None:
    names = {str(path.relative_to(folder)) for path in find_pictures([str(folder)])}
    assert {"colour.png", "broken.png", "more/float.tif"} <= names
    assert "notes.txt" not in names
    for name in names - {"broken.png"}:
        picture = read_picture(folder / name)
        assert picture.shape[0] == 3
        assert picture.dtype == torch.float32
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    deep = np.asarray(image.open(folder / "deep.png"), np.float32) / 65535
    assert_close(read_picture(folder / "deep.png")[0], torch.from_numpy(deep))
    with pytest.raises(InputError, match="does not exist"):
        read_picture(folder / "none.png")
    save(tmp_path / "loud.tif", np.full((4, 4), 7.0, np.float32))
    with pytest.raises(InputError, match="from 0 to 1"):
        read_picture(tmp_path / "loud.tif")


def test_transparent_parts_are_white_and_turned_pictures_upright(tmp_path: Path) -> None:
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[0, 0] = (255, 0, 0, 255)
    save(tmp_path / "clear.png", clear)
    picture = read_picture(tmp_path / "clear.png")
    assert picture[:, 0, 0].tolist() == [1, 0, 0]
    assert bool((picture[:, 1:] == 1).all())
    exif = image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    values = np.zeros((8, 16), np.uint8)
    values[:, :4] = 255
    save(tmp_path / "turned.png", values, exif=exif)
    turned = read_picture(tmp_path / "turned.png")
    assert turned.shape == (3, 16, 8)
    assert bool((turned[:, :4] == 1).all())


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    save(tmp_path / "large.jpg", np.full((300, 600, 3), 120, np.uint8), quality=95)
    picture = read_picture(tmp_path / "large.jpg", at_least=50)
    assert picture.shape == (3, 50, 100)
    assert_close(picture, torch.full_like(picture, 120 / 255), atol=0.01, rtol=0)


def test_crops_depend_on_seed_and_place_alone(folder: Path) -> None:
    paths = find_pictures([str(folder)])
    crops, again = (split(Pictures(paths, TINY_CONFIG), TINY_CONFIG)[0] for _ in range(2))
    count = len(crops.which)
    assert crops[5].shape == (3, 16, 16)
    assert torch.equal(crops[5], again[5])
    assert not torch.equal(crops[5], crops[5 + count])
    seen = [crops.which[int(place)] for place in crops._order[1]]
    assert sorted(seen) == list(range(count))
    unkept = dataclasses.replace(TINY_CONFIG, memory=0)
    assert torch.equal(crops[3], split(Pictures(paths, unkept), unkept)[0][3])


def test_held_out_pictures_are_not_trained_on(folder: Path) -> None:
    config = dataclasses.replace(TINY_CONFIG, validation=2)
    pictures = Pictures(find_pictures([str(folder)]), config)
    crops, held_out = split(pictures, config)
    assert held_out is not None
    assert sorted([*crops.which, *held_out.which]) == list(range(len(pictures)))
    assert held_out[1].shape == (3, 16, 16)


def test_crops_keep_to_the_least_area() -> None:
    ramp = torch.linspace(0, 1, 100).expand(3, 80, 100)
    config = PretrainConfig(image_size=16, patch_size=4, crop_area=1.0, flip=False)
    whole = random_crop(ramp, config, generator(0))
    assert float(whole[0, 0, 0]) < 0.2
    assert float(whole[0, 0, -1]) > 0.8
    config = PretrainConfig(image_size=16, patch_size=4, crop_area=0.1)
    spans = [random_crop(ramp, config, generator(i)) for i in range(20)]
    assert {bool(crop[0, 0, 0] < crop[0, 0, -1]) for crop in spans} == {True, False}


def test_reading_from_memory_is_refused_politely(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.write_bytes(io.BytesIO().getvalue())
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_picture(path)
    with pytest.raises(ConfigError, match="image_size=16"):
        PretrainConfig(image_size=15, patch_size=8).check()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_become_easier_to_tell_apart(tmp_path: Path) -> None:
    """A linear probe of the mean token gains 8 points or more over the same network with random weights."""
    datasets = pytest.importorskip("sklearn.datasets")
    linear = pytest.importorskip("sklearn.linear_model")
    from transformers import Dinov2Model

    digits = datasets.load_digits()
    place = tmp_path / "digits"
    place.mkdir()
    for index, values in enumerate(digits.images[:1000]):
        save(place / f"{index:04}.png", np.uint8(values * 255 / 16))
    words = ["core", "pretrain", str(place), "-o", str(tmp_path / "run"), "steps=1000", "image_size=16"]
    words += ["patch_size=2", "width=64", "depth=3", "heads=4", "workers=0", "flip=false", "crop_area=0.7"]
    words += ["learning_rate=2e-3"]
    assert main([*words, "trainer.accelerator=cpu"]) == 0
    trained = load_encoder(tmp_path / "run" / "encoder")
    untrained = load_encoder(tmp_path / "run" / "encoder")
    with seeded(0, "untrained"):
        fresh = Dinov2Model(trained.network.config)
    untrained.network = fresh.eval().requires_grad_(False)
    pictures = torch.from_numpy(digits.images / 16).float()[:, None]

    def score(encoder: Encoder) -> float:
        mean = torch.cat([encoder.tokens(part).mean(1) for part in pictures.split(100)])
        features = ((mean - mean.mean(0)) / mean.std(0)).numpy()
        probe = linear.LogisticRegression(C=0.1, max_iter=2000)
        probe.fit(features[:1000], digits.target[:1000])
        return float(probe.score(features[1000:], digits.target[1000:]))

    before, after = score(untrained), score(trained)
    assert after > before + 0.08, f"{before:.3f} before, {after:.3f} after"
