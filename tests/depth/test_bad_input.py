"""What cannot be predicted is refused in one line with a remedy, exit code 2, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import drawn, write

from diffusion_suite.core.cli import main

FAST = ("steps=1", "members=1", "outputs=[npy]")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Refused:
    """Runs a command that must be refused and gives its line."""

    def __init__(self, folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.weights, self.capsys = folder, weights, capsys

    def __call__(self, *words: object, left: bool = False) -> str:
        before = tree(self.folder)
        self.capsys.readouterr()
        given = [] if any(str(w).startswith("weights=") for w in words) else [f"weights={self.weights}"]
        code = main(["depth", "predict", *given, *FAST, *map(str, words)])
        captured = self.capsys.readouterr()
        assert code == 2, captured.err
        (line,) = [text for text in captured.err.splitlines() if text.startswith("error: ")]
        assert "; " in line or " takes " in line or "cannot be" in line, "no remedy"
        assert "internal" not in line
        assert left or {n for n in tree(self.folder) - before if n != "out"} == set(), "something is left"
        return line


@pytest.fixture
def refused(tmp_path: Path, network: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(tmp_path, network, capsys)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write(tmp_path / "photo.png")


def test_a_broken_file_does_not_stop_the_folder(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        write(folder / name, drawn())
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    line = refused(folder, "-o", tmp_path / "out", left=True)
    assert "b.png" in line
    assert {"a_depth.npy", "c_depth.npy"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(("b", "."))]


def test_several_broken_files_are_all_named(
    refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.jpg", "b.jpg"]
    for name in names:
        (tmp_path / name).write_text("a letter")
    code = main(
        ["depth", "predict", str(tmp_path), f"weights={refused.weights}", "-o", str(tmp_path / "out")]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert all(name in said for name in names)
    assert said.splitlines()[-1].startswith("error: 2 of 2")


def test_weights_that_are_missing(refused: Refused, picture: Path, tmp_path: Path) -> None:
    for weights in (tmp_path / "absent", tmp_path / "absent.ckpt", picture.parent):
        assert refused(picture, f"weights={weights}", "-o", tmp_path / "out")


def test_a_file_of_another_kind(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a letter")
    assert "notes.txt" in refused(tmp_path / "notes.txt", "-o", tmp_path / "out")
    assert "absent.png" in refused(tmp_path / "absent.png", "-o", tmp_path / "out")


def test_inputs_of_one_name(refused: Refused, picture: Path, tmp_path: Path) -> None:
    write(tmp_path / "photo.jpg")
    assert "photo" in refused(picture, tmp_path / "photo.jpg", "-o", tmp_path / "out")
    assert "one file" in refused(picture, write(tmp_path / "b.png"), "-o", tmp_path / "out.npy", left=True)
    assert "its own result" in refused(picture, "-o", picture)


def test_known_depths_that_cannot_be(refused: Refused, picture: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    out = ("-o", tmp_path / "out")
    table.write_text("x,y,depth\n500,500,2\n")
    assert "56 x 40" in refused(picture, f"known={table}", *out)
    table.write_text("x,y\n1,2\n")
    assert "depth" in refused(picture, f"known={table}", *out)
    assert "absent" in refused(picture, f"known={tmp_path / 'absent.csv'}", *out)
    np.save(tmp_path / "map.npy", np.ones((40, 40)))
    assert "40 x 40" in refused(picture, f"known={tmp_path / 'map.npy'}", *out)
    (tmp_path / "none").mkdir()
    assert "photo.csv" in refused(picture, f"known={tmp_path / 'none'}", *out)


def test_settings_that_do_not_go_together(refused: Refused, picture: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    assert "far" in refused(picture, "near=1", *out)
    assert "below" in refused(picture, "near=3", "far=2", *out)
    assert "known" in refused(picture, "completion=true", *out)
    assert "drop one" in refused(picture, "near=1", "far=2", "known=a.csv", *out)
    assert "Spectral" in refused(picture, "colormap=Spectrall", *out)
    assert "outputs" in refused(picture, "outputs=[]", *out)
    assert "npy" in refused(picture, "outputs=[np]", *out)
    assert "device" in refused(picture, "device=cuda:77", *out)


def test_a_result_that_exists(refused: Refused, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo_depth.npy").write_bytes(b"mine")
    assert "overwrite=true" in refused(picture, "-o", out)
    assert (out / "photo_depth.npy").read_bytes() == b"mine"
