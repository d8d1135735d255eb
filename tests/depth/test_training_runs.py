"""Runs of `depth train` in processes of their own: killed and resumed, and two side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs_on_disk import samples
from torch.testing import assert_close


def run_script(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    fixed = ["drawn=4", "validation=0", "side=32", "widths=[32,32]", "layers=1", "attention_from=1"]
    fixed += ["warmup_steps=2", "trainer.accelerator=cpu", "schedule=constant", "log_every=5"]
    command = [sys.executable, "-m", "diffusion_suite.core.cli", "depth", "train", *fixed, *words]
    return subprocess.Popen([*command, "-o", str(folder)], env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=1000)
    assert process.returncode == 0, errors.decode()[-2000:]


def saved(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return content


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    words = ("steps=30", "batch_size=2", "workers=1", "checkpoint_every=4", "normals_weight=0.2")
    folder = str(samples(tmp_path / "set"))
    finish(run_script(tmp_path / "whole", folder, *words))
    process = run_script(tmp_path / "parts", folder, *words)
    deadline = time.monotonic() + 600
    while not (tmp_path / "parts" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < saved(tmp_path / "parts")["global_step"] < 30
    finish(run_script(tmp_path / "parts", folder, *words))
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    for part in ("state_dict", "current_model_state"):
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, parts[part][name]), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_agree_with_one_of_twice_the_batch(tmp_path: Path) -> None:
    script = Path(__file__).with_name("training_script.py")
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for name, devices, size in (("one", 1, 4), ("two", 2, 2)):
        words = [sys.executable, str(script), str(tmp_path / name), str(devices), str(size)]
        finish(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE))
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert two["global_step"] == 6
    for name, tensor in one["state_dict"].items():
        assert_close(two["state_dict"][name], tensor, rtol=0, atol=1e-9)
