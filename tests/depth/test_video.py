"""Videos: read upright, written frame by frame, on a scale that does not jump."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures_on_disk import drawn
from PIL import Image

av = pytest.importorskip("av")

from diffusion_suite.core.cli import main  # noqa: E402
from diffusion_suite.core.errors import InputError  # noqa: E402
from diffusion_suite.core.seeding import numpy_generator  # noqa: E402
from diffusion_suite.depth.io.videos import Video, open_video, writing  # noqa: E402
from diffusion_suite.depth.video import Steady, steady_line  # noqa: E402

FRAMES, HEIGHT, WIDTH = 7, 40, 56


def video(path: Path, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A picture that slides to the left, 10 frames a second."""
    wide = drawn(height, width + frames)
    with writing(path, Video(path, Fraction(10), frames)) as writer:
        for place in range(frames):
            writer.write(wide[:, place : place + width], Fraction(place, 10))
    return path


def read(path: Path, pixels: str = "rgb24") -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=pixels) for frame in container.decode(video=0)]


def predict(network: Path, *words: object) -> int:
    return main(["depth", "predict", f"weights={network}", "steps=1", "members=1", *map(str, words)])


def test_frames_come_in_as_they_were_written(tmp_path: Path) -> None:
    found = open_video(video(tmp_path / "a.mp4"))
    assert found.rate == 10
    frames = list(found)
    assert len(frames) == FRAMES
    assert [frame.time for frame in frames] == [Fraction(i, 10) for i in range(FRAMES)]
    assert np.abs(frames[2].rgb.astype(int) - drawn(HEIGHT, WIDTH + FRAMES)[:, 2 : 2 + WIDTH]).mean() < 12


def test_every_kind_of_output(network: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    out = tmp_path / "out"
    assert predict(network, path, "-o", out, "video=[color,grey16,frames]", "batch_size=3") == 0
    colours, grey = read(out / "a_color.mp4"), read(out / "a_depth.mkv", "gray16le")
    assert len(colours) == len(grey) == FRAMES
    assert colours[0].shape == (HEIGHT, WIDTH, 3)
    names = sorted(path.name for path in (out / "a_frames").iterdir())
    assert names == [f"{i:06d}.png" for i in range(1, FRAMES + 1)]
    for name, level in zip(names, grey, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(out / "a_frames" / name)), level)
    told = json.loads((out / "a_depth.json").read_text())
    assert told["frames"] == FRAMES
    assert told["depth"] == "relative"
    with av.open(str(out / "a_depth.mkv")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert times == pytest.approx([i / 10 for i in range(FRAMES)], abs=2e-3)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_batches_do_not_matter(network: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    for size in (1, 4):
        assert (
            predict(network, path, "-o", tmp_path / f"{size}.mkv", "video=[grey16]", f"batch_size={size}")
            == 0
        )
    one, four = (np.stack(read(tmp_path / f"{size}.mkv", "gray16le")).astype(int) for size in (1, 4))
    assert np.abs(one - four).max() <= 2


def test_metric_video_and_odd_sides(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 55, 39, "bgr0"
        for seed in range(2):
            frame = av.VideoFrame.from_ndarray(drawn(39, 55, seed), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert predict(network, path, "-o", tmp_path / "out", "near=1", "far=9", "video=[grey16,color]") == 0
    levels = read(tmp_path / "out/a_depth.mkv", "gray16le")
    assert levels[0].shape == (39, 55)
    assert read(tmp_path / "out/a_color.mp4")[0].shape == (40, 56, 3)
    told = json.loads((tmp_path / "out/a_depth.json").read_text())
    step = float(told["levels"].split()[2])
    metres = step * np.stack(levels)
    assert metres.min() >= 3 ** (1 - 1.25) - step
    assert metres.max() <= 3 ** (1 + 1.25) + step


def test_a_rotated_video_is_upright(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 2)
    content = path.read_bytes()
    matrix = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    )
    turned = b"".join(
        value.to_bytes(4, "big", signed=True)
        for value in (0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)
    )
    at = content.index(matrix, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + len(matrix) :])
    frame = next(iter(open_video(path)))
    expected = np.rot90(drawn(HEIGHT, WIDTH + 2)[:, :WIDTH], -1)
    assert frame.rgb.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("cut", [0, 20, 900])
def test_files_that_are_no_videos(
    network: Path, tmp_path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = video(tmp_path / "broken.mp4")
    path.write_bytes(path.read_bytes()[:cut])
    assert predict(network, path, "-o", tmp_path / "out") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "broken.mp4" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_known_depths_are_for_pictures(network: Path, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 2)
    (tmp_path / "known.csv").write_text("1,1,2\n")
    assert predict(network, path, "-o", tmp_path / "out", f"known={tmp_path / 'known.csv'}") == 2


def test_done_before_and_overwrite(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = video(tmp_path / "a.mp4", 2)
    for _ in range(2):
        assert predict(network, path, "-o", tmp_path / "out", "video=[frames]") == 0
    assert "done before" in capsys.readouterr().err
    assert predict(network, path, "-o", tmp_path / "out", "video=[frames]", "seed=1") == 2
    assert predict(network, path, "-o", tmp_path / "out", "video=[frames]", "seed=1", "overwrite=true") == 0


def jumping(count: int = 20) -> tuple[np.ndarray, list[np.ndarray]]:
    """A still scene whose frames come with scales and shifts of their own."""
    rng = numpy_generator("video")
    scene = rng.uniform(-1, 1, (24, 32)).astype(np.float32)
    return scene, [scene * rng.uniform(0.8, 1.2) + rng.uniform(-0.2, 0.2) for _ in range(count)]


@pytest.mark.parametrize(("smoothing", "most"), [(0.0, 1.01), (0.5, 0.6), (0.9, 0.15)])
def test_smoothing_takes_jumps_away(smoothing: float, most: float) -> None:
    """What is left of a frame's own scale and shift is about 1 - s."""
    _, frames = jumping()
    steady, rgb = Steady(smoothing), drawn(24, 32)
    out = [steady(frame.astype(np.float32), rgb) for frame in frames]
    before, after = (np.mean([np.abs(b - a).mean() for a, b in pairwise(f)]) for f in (frames, out))
    assert after <= most * before


def test_a_cut_begins_anew() -> None:
    scene, _ = jumping()
    steady = Steady(0.9)
    steady(scene, np.zeros((24, 32, 3), np.uint8))
    other = scene[::-1] * 1.3 + 0.2
    np.testing.assert_array_equal(steady(other, np.full((24, 32, 3), 255, np.uint8)), other)


def test_what_moves_has_little_say() -> None:
    scene, _ = jumping()
    later = (scene - 0.2) / 1.1
    later[:6, :10] = 1.0
    scale, shift = steady_line(later, scene)
    assert scale == pytest.approx(1.1, abs=0.03)
    assert shift == pytest.approx(0.2, abs=0.03)


def test_videos_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(InputError, match="pip install"):
        open_video(tmp_path / "a.mp4")


@pytest.mark.slow
def test_memory_does_not_grow(network: Path, tmp_path: Path) -> None:
    import tracemalloc

    peaks: list[Any] = []
    for frames in (20, 20, 80):
        path = video(tmp_path / f"{len(peaks)}.mp4", frames)
        tracemalloc.start()
        assert predict(network, path, "-o", tmp_path / "out") == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1] + 1e6
