"""The manifest says what is finished, also after a kill."""

import json
import os

from diffusion_suite.core.manifest import Manifest


def add(manifest, source, output, config_hash="abc", **more):
    manifest.append(input=source, output=output, seed=0, config_hash=config_hash, seconds=1.23456, **more)


def test_entry_is_complete_and_finished_is_found(tmp_path):
    source, output = tmp_path / "in" / "ä scene.tif", tmp_path / "out" / "scene.tif"
    for path in (source, output):
        path.parent.mkdir()
        path.touch()
    manifest = Manifest(tmp_path / "out" / "manifest.jsonl")
    assert manifest.finished(source, "abc") is None
    add(manifest, source, output, task="denoise")
    (line,) = manifest.path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "input": str(source),
        "output": "scene.tif",
        "seed": 0,
        "config_hash": "abc",
        "seconds": 1.235,
        "task": "denoise",
    }
    assert manifest.finished(source, "abc") == output
    assert manifest.finished(source, "other") is None
    assert manifest.finished(output, "abc") is None


def test_missing_output_or_newer_input_is_not_finished(tmp_path):
    source, output = tmp_path / "a.tif", tmp_path / "b.tif"
    source.touch()
    output.touch()
    manifest = Manifest(tmp_path / "manifest.jsonl")
    add(manifest, source, output)
    assert manifest.finished(source, "abc") == output
    later = output.stat().st_mtime + 5
    os.utime(source, (later, later))
    assert manifest.finished(source, "abc") is None
    os.utime(source, (later - 100, later - 100))
    output.unlink()
    assert manifest.finished(source, "abc") is None


def test_line_cut_by_a_kill_is_passed_over_and_not_joined(tmp_path):
    manifest = Manifest(tmp_path / "manifest.jsonl")
    (tmp_path / "b.tif").touch()
    add(manifest, tmp_path / "a.tif", tmp_path / "b.tif")
    with manifest.path.open("a") as file:
        file.write('{"input": "cut')
    add(manifest, tmp_path / "c.tif", tmp_path / "b.tif")
    assert [os.path.basename(entry["input"]) for entry in manifest.entries()] == ["a.tif", "c.tif"]
    assert manifest.finished(tmp_path / "c.tif", "abc") == tmp_path / "b.tif"


def test_last_entry_wins(tmp_path):
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for name in ("b.tif", "c.tif"):
        (tmp_path / name).touch()
        add(manifest, tmp_path / "a.tif", tmp_path / name)
    assert manifest.finished(tmp_path / "a.tif", "abc") == tmp_path / "c.tif"
