"""How golden cases are found and run."""

import json

import pytest
import torch
from safetensors.torch import save_file

from diffusion_suite.core.testing import Case, cases, dispatch


def record(folder, value=1.0, **config):
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps({"system": "s", "kind": "k", **config}))
    save_file({"x": torch.tensor([value])}, folder / "io.safetensors")


def found(folder):
    return [parameter.values[0] for parameter in cases("s", folder)]


def test_cases_of_the_repository_and_of_the_variable(tmp_path, monkeypatch):
    record(tmp_path / "own" / "s" / "a")
    record(tmp_path / "own" / "other" / "z", system="other")
    record(tmp_path / "more" / "s" / "b", 2.0)
    record(tmp_path / "flat" / "c", 3.0)
    record(tmp_path / "flat" / "d", system="other")
    monkeypatch.setenv("DIFFUSION_SUITE_GOLDEN", f"{tmp_path / 'more'}:{tmp_path / 'flat'}")
    assert [case.path.name for case in found(tmp_path / "own")] == ["a", "b", "c"]
    assert [float(case.tensors["x"]) for case in found(tmp_path / "own")] == [1, 2, 3]


def test_same_case_runs_once_and_a_changed_one_again(tmp_path, monkeypatch):
    record(tmp_path / "own" / "s" / "a")
    record(tmp_path / "same" / "s" / "a")
    record(tmp_path / "changed" / "s" / "a", 5.0)
    monkeypatch.setenv("DIFFUSION_SUITE_GOLDEN", f"{tmp_path / 'same'}:{tmp_path / 'changed'}")
    assert [float(case.tensors["x"]) for case in found(tmp_path / "own")] == [1, 5]


def test_no_case_or_no_folder_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no golden case of s"):
        cases("s", tmp_path)
    monkeypatch.setenv("DIFFUSION_SUITE_GOLDEN", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="absent"):
        cases("s", tmp_path)


def test_weights_of_another_case(tmp_path):
    record(tmp_path / "s" / "a")
    save_file({"w": torch.ones(1)}, tmp_path / "s" / "a" / "weights.safetensors")
    record(tmp_path / "s" / "b", weights_from="a")
    assert [float(case.weights["w"]) for case in found(tmp_path)] == [1, 1]


def test_kind_without_a_runner_fails(tmp_path):
    ran = []
    case = Case(tmp_path, {"kind": "k"})
    dispatch(case, {"k": ran.append})
    assert ran == [case]
    with pytest.raises(pytest.fail.Exception, match="of kind 'k', which has no runner"):
        dispatch(case, {"other": ran.append})
