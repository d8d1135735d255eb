"""The public contract, on a small domain that a third party might write, and on the ways to break it."""

import inspect
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_suite.core import seeding
from diffusion_suite.core.testing import DomainContract


@pytest.fixture(scope="module", autouse=True)
def domain_on_path():
    folder = str(Path(__file__).with_name("sample_domain"))
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.startswith("diffusion_suite.toy")]:
        del sys.modules[name]


class TestToy(DomainContract):
    domain = "toy"
    system = "noise"
    module = "diffusion_suite.toy.run:Layer"
    suffix = ".npy"
    train_overrides = ("width=2", "batch_size=2", "workers=0")

    def write_sample(self, path, seed):
        np.save(path, seeding.numpy_generator(seed).random((4, 5)))

    def read_output(self, path):
        return np.load(path)

    @pytest.mark.parametrize(
        ("change", "test"),
        [
            ("noise by position", "test_result_depends_on_no_neighbour"),
            ("outputs not checked", "test_file_of_another_hand_is_not_overwritten"),
            ("nothing recorded", "test_predict_writes_the_output_and_its_manifest"),
            ("never finished", "test_second_run_skips_what_is_finished"),
            ("bare error", "test_bad_inputs_are_one_line_and_leave_nothing"),
            ("no data order", "test_same_train_command_goes_on_and_ends_as_one_run"),
        ],
    )
    def test_broken_promise_is_noticed(self, change, test, run, refuse, samples, tmp_path, monkeypatch):
        for name, value in broken(change).items():
            monkeypatch.setattr(f"diffusion_suite.toy.run.{name}", value)
        method = getattr(self, test)
        given = {"run": run, "refuse": refuse, "samples": samples, "tmp_path": tmp_path}
        with pytest.raises((AssertionError, OSError)):
            method(**{name: given[name] for name in inspect.signature(method).parameters})


def broken(change):
    """What to replace in the domain to break one promise."""
    calls = itertools.count()

    def by_position(*parts):
        return np.random.default_rng(next(calls))

    def draw(draws, index):
        return torch.rand(draws.width, generator=seeding.generator("draws", next(calls)))

    def nothing(*arguments, **named):
        return None

    return {
        "noise by position": {"seeding.numpy_generator": by_position},
        "outputs not checked": {"prepare_output": nothing},
        "nothing recorded": {"Manifest.append": nothing},
        "never finished": {"Manifest.finished": nothing, "prepare_output": nothing},
        "bare error": {"read": np.load},
        "no data order": {"Draws.__getitem__": draw},
    }[change]
