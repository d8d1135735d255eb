"""Inputs are found or refused in one line; outputs appear whole or not at all."""

import os

import pytest

from diffusion_suite.core.errors import InputError, OutputError
from diffusion_suite.core.files import atomic_path, expand_inputs, prepare_output

SUFFIXES = {".tif", ".npy"}


@pytest.fixture
def scenes(tmp_path):
    for name in ("b.tif", "a.TIF", "c.npy", "notes.txt", ".hidden.tif"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.tif").touch()
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_file_folder_and_glob(scenes):
    assert names(expand_inputs([str(scenes / "b.tif")], SUFFIXES)) == ["b.tif"]
    assert names(expand_inputs([str(scenes)], SUFFIXES)) == ["a.TIF", "b.tif", "c.npy"]
    assert names(expand_inputs([str(scenes / "**" / "*.tif")], SUFFIXES)) == ["b.tif", "d.tif"]
    both = expand_inputs([str(scenes / "c.npy"), str(scenes)], SUFFIXES)
    assert names(both) == ["c.npy", "a.TIF", "b.tif"]


def test_file_whose_name_looks_like_a_glob(scenes):
    (scenes / "x[1].tif").touch()
    assert names(expand_inputs([str(scenes / "x[1].tif")], SUFFIXES)) == ["x[1].tif"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "input,group\nb.tif,1\ndeep/d.tif,2\n"),
        ("list.csv", "\ufeffinput\r\nb.tif\r\ndeep/d.tif\r\n"),
        ("list.jsonl", '{"input": "b.tif"}\n\n{"input": "deep/d.tif", "seed": 1}\n'),
    ],
)
def test_manifest_counts_from_its_own_folder(scenes, name, text, monkeypatch):
    monkeypatch.chdir("/")
    (scenes / name).write_text(text, encoding="utf-8")
    assert expand_inputs([str(scenes / name)], SUFFIXES) == [scenes / "b.tif", scenes / "deep" / "d.tif"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"file\nb.tif\n", "no input in entry 1"),
        ("a.csv", b"", "lists nothing"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.jsonl", b"{", "line 1 is no JSON"),
        ("a.jsonl", b"[1]\n", "no input in entry 1"),
        ("a.jsonl", b'{"input": "gone.tif"}', "gone.tif does not exist"),
        ("a.jsonl", b'{"input": "notes.txt"}', r"notes.txt is no .npy, .tif file"),
    ],
)
def test_bad_manifests_are_one_line(scenes, name, content, message):
    (scenes / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        expand_inputs([str(scenes / name)], SUFFIXES)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_names_that_lead_nowhere(scenes):
    (scenes / "empty").mkdir()
    for name, message in [
        ("gone.tif", "does not exist"),
        ("notes.txt", "is no .npy, .tif file"),
        ("empty", "holds no .npy, .tif file"),
        ("*.jpg", "matches no .npy, .tif file"),
    ]:
        with pytest.raises(InputError, match=message):
            expand_inputs([str(scenes / name)], SUFFIXES)
    with pytest.raises(InputError, match="no input is given"):
        expand_inputs([], SUFFIXES)


def test_output_appears_whole(tmp_path):
    target = tmp_path / "new" / "scene.tif"
    with atomic_path(target) as part:
        part.write_text("whole")
        assert part.suffix == ".tif"
        assert part.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["scene.tif"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_failed_output_leaves_what_was_there(tmp_path, failure):
    target = tmp_path / "scene.tif"
    target.write_text("old")

    def write():
        with atomic_path(target) as part:
            part.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["scene.tif"]


def test_outputs_are_checked_before_any_work(tmp_path):
    present = tmp_path / "a.tif"
    present.touch()
    prepare_output([tmp_path / "deep" / "b.tif"])
    prepare_output([present], overwrite=True)
    with pytest.raises(OutputError, match=r"a.tif exists already; give overwrite=true"):
        prepare_output([tmp_path / "b.tif", present])
    with pytest.raises(OutputError, match="is a folder"):
        prepare_output([tmp_path / "deep"], overwrite=True)
    with pytest.raises(OutputError, match="cannot write in"):
        prepare_output([present / "below" / "c.tif"])
    with pytest.raises(OutputError, match="cannot write in"), atomic_path(present / "c.tif"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "deep"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        prepare_output([tmp_path / "a.tif"])
