"""Keys are stable numbers; generators depend on nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_suite.core import seeding

PARTS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), max_size=4).map(tuple)


def test_keys_are_the_same_on_every_machine():
    assert seeding.key() == 8238016292129134938
    assert seeding.key(0) == 6148773199958884930
    assert seeding.key(0, "scene.tif") == 7741030844195453841


def test_keys_do_not_depend_on_the_process():
    code = "from diffusion_suite.core.seeding import key; print(key(3, 'a', -1))"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONHASHSEED": "77"}
    assert int(
        subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    ) == seeding.key(3, "a", -1)


@given(PARTS, PARTS)
def test_different_parts_give_different_keys(first, second):
    assert 0 <= seeding.key(*first) < 2**63
    assert (seeding.key(*first) == seeding.key(*second)) == (first == second)


def test_number_and_its_text_differ_and_numpy_integers_count_as_numbers():
    assert seeding.key(1) != seeding.key("1")
    assert seeding.key("ab", "c") != seeding.key("a", "bc")
    assert seeding.key(np.int64(7)) == seeding.key(7)
    for wrong in (1.0, True, None, b"a"):
        with pytest.raises(TypeError):
            seeding.key(wrong)


def test_generators_follow_the_key_alone():
    torch.manual_seed(1)
    first = torch.randn(5, generator=seeding.generator(0, "item", 7))
    torch.manual_seed(2)
    np.random.seed(3)
    assert torch.equal(first, torch.randn(5, generator=seeding.generator(0, "item", 7)))
    assert not torch.equal(first, torch.randn(5, generator=seeding.generator(0, "item", 8)))
    one, two = (seeding.numpy_generator(0, 7).standard_normal(4) for _ in range(2))
    assert np.array_equal(one, two)


def test_seeded_block_is_repeatable_and_leaves_no_trace():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeding.seeded(0, "weights"):
        first = torch.nn.Linear(3, 3).weight
    with seeding.seeded(0, "weights"):
        second = torch.nn.Linear(3, 3).weight
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)
