"""Windows: they cover, their weights add up to one, and a killed run ends as an uninterrupted one."""

import os
import subprocess
import sys
import textwrap
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError, OutputError
from diffusion_suite.core.windows import (
    Window,
    WindowStore,
    assemble,
    blend,
    bytes_needed,
    check_room,
    plan,
    scaled,
    stream,
    weight,
)


@st.composite
def layouts(draw, most_axes=4):
    axes = draw(st.integers(1, most_axes))
    longest = {1: 200, 2: 40, 3: 14, 4: 8}[axes]
    shape = tuple(draw(st.integers(1, longest)) for _ in range(axes))
    size = tuple(draw(st.integers(1, longest + 3)) for _ in range(axes))
    overlap = tuple(draw(st.integers(0, s - 1)) for s in size)
    smallest = [max(1, n // 6) for n in shape]
    size = tuple(max(s, m, v + m) for s, v, m in zip(size, overlap, smallest, strict=True))
    return shape, size, overlap


@settings(max_examples=80, deadline=None)
@given(layouts())
def test_weights_are_a_partition_of_unity_and_identity_is_kept(layout):
    shape, size, overlap = layout
    windows = plan(shape, size, overlap)
    total = np.zeros(shape)
    for window in windows:
        share = weight(window, windows)
        assert share.shape == window.shape == tuple(min(n, s) for n, s in zip(shape, size, strict=True))
        assert (share > 0).all()
        total[window.slices] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)
    array = seeding.numpy_generator("windows", *shape).standard_normal((*shape, 2)).astype(np.float32)
    whole = blend([(window, array[window.slices]) for window in windows], shape)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, array, atol=2e-6)


@settings(max_examples=80, deadline=None)
@given(layouts(2))
def test_neighbours_overlap_by_no_less_than_asked(layout):
    shape, size, overlap = layout
    windows = plan(shape, size, overlap)
    assert [window.index for window in windows] == list(range(len(windows)))
    for axis in range(len(shape)):
        spans = sorted({(window.slices[axis].start, window.slices[axis].stop) for window in windows})
        assert spans[0][0] == 0
        assert spans[-1][1] == shape[axis]
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start >= overlap[axis]


def test_plan_is_row_major_and_shifts_the_last_window_inward():
    windows = plan((10, 7), (4, 7), 1)
    assert [(w.slices[0].start, w.slices[0].stop) for w in windows] == [(0, 4), (3, 7), (6, 10)]
    windows = plan((11, 3), (4, 9), 1)
    assert [w.slices[0].start for w in windows] == [0, 3, 6, 7]
    assert all(w.slices[1] == slice(0, 3) for w in windows)


def test_ramp_is_smooth_and_flat_in_the_middle():
    windows = plan((40,), 16, 4)
    share = weight(windows[1], windows)
    assert (np.diff(share[:4]) > 0).all()
    np.testing.assert_allclose(share[4:-4], 1)
    assert share[0] < 0.05


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_impossible_plans_are_refused(size, overlap):
    with pytest.raises(ConfigError):
        plan((10, 10), size, overlap)


def test_blend_refuses_what_is_missing_or_of_another_shape():
    windows = plan((10,), 4, 1)
    parts = [(window, np.zeros(4)) for window in windows]
    with pytest.raises(ValueError, match=r"not all windows|make up"):
        blend(parts[1:], (10,))
    with pytest.raises(ValueError, match="has shape"):
        blend([(windows[0], np.zeros(3)), *parts[1:]], (10,))
    with pytest.raises(ValueError, match="make up"):
        blend(parts, (11,))


@settings(max_examples=25, deadline=None)
@given(layouts(3), st.integers(1, 5000), st.data())
def test_assembled_slabs_equal_the_blend(tmp_path_factory, layout, slab_bytes, data):
    shape, size, overlap = layout
    axis = data.draw(st.integers(0, len(shape) - 1))
    windows = plan(shape, size, overlap)
    array = seeding.numpy_generator("slabs", *shape).standard_normal((*shape, 2)).astype(np.float32)
    store = WindowStore(tmp_path_factory.mktemp("store"), {"case": 1})
    assert list(stream(windows, lambda window: array[window.slices], store)) == windows
    whole = np.full_like(array, np.nan)
    last = 0
    for rows, slab in assemble(windows, store, shape, axis, slab_bytes=slab_bytes):
        assert rows.start == last
        last = rows.stop
        whole[(slice(None),) * axis + (rows,)] = slab
    assert last == shape[axis]
    np.testing.assert_allclose(whole, array, atol=2e-6)


def test_scaled_windows_join_a_larger_result(tmp_path):
    windows = plan((13, 9), (6, 5), 2)
    array = seeding.numpy_generator("scaled").standard_normal((13, 9, 3)).astype(np.float32)
    large = array.repeat(3, 0).repeat(2, 1)
    parts = [
        (w, array[v.slices].repeat(3, 0).repeat(2, 1))
        for v, w in zip(windows, scaled(windows, 3, 2), strict=True)
    ]
    np.testing.assert_allclose(blend(parts, (39, 18)), large, atol=1e-6)


def noisy(window: Window) -> np.ndarray:
    return seeding.numpy_generator(5, window.index).standard_normal((*window.shape, 3)).astype(np.float32)


def test_interrupted_run_computes_only_what_is_missing_and_ends_the_same(tmp_path):
    shape, windows = (40, 30), plan((40, 30), 16, 5)
    whole = WindowStore(tmp_path / "whole", {"seed": 5})
    list(stream(windows, noisy, whole))

    class Killed(BaseException):
        pass

    def killed(window: Window) -> np.ndarray:
        if window.index == 4:
            raise Killed
        return noisy(window)

    with pytest.raises(Killed):
        list(stream(windows, killed, WindowStore(tmp_path / "parts", {"seed": 5})))
    computed = []
    parts = WindowStore(tmp_path / "parts", {"seed": 5})
    list(stream(windows, lambda window: computed.append(window.index) or noisy(window), parts))
    assert computed == list(range(4, len(windows)))
    for first, second in zip(assemble(windows, whole, shape), assemble(windows, parts, shape), strict=True):
        assert first[0] == second[0]
        assert np.array_equal(first[1], second[1])


def test_process_killed_by_the_system_resumes(tmp_path):
    code = textwrap.dedent(
        """
        import sys, time
        import numpy as np
        from diffusion_suite.core.windows import WindowStore, plan, stream
        store = WindowStore(sys.argv[1], {"seed": 5})
        def compute(window):
            time.sleep(0.05)
            return np.full(window.shape, window.index, np.float32)
        list(stream(plan((60, 60), 8, 2), compute, store))
        """
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store")], env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("store/*.npy"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    windows = plan((60, 60), 8, 2)
    store = WindowStore(tmp_path / "store", {"seed": 5})
    done = sum(store.has(window.index) for window in windows)
    assert 4 <= done < len(windows)
    computed = []

    def compute(window):
        computed.append(window.index)
        return np.full(window.shape, window.index, np.float32)

    list(stream(windows, compute, store))
    assert len(computed) == len(windows) - done
    assert all((store.get(window.index) == window.index).all() for window in windows)


def test_store_of_another_run_is_refused_or_cleared(tmp_path):
    store = WindowStore(tmp_path, {"seed": 5, "size": (4, 4)})
    store.put(0, np.zeros(3))
    assert WindowStore(tmp_path, {"seed": 5, "size": [4, 4]}).has(0)
    with pytest.raises(OutputError, match=r"other seed.*overwrite=true"):
        WindowStore(tmp_path, {"seed": 6, "size": [4, 4]})
    assert store.has(0)
    assert not WindowStore(tmp_path, {"seed": 6}, clear=True).has(0)


def test_store_does_not_take_a_folder_of_other_files(tmp_path):
    (tmp_path / "thesis.npy").write_bytes(b"precious")
    with pytest.raises(OutputError, match="other files"):
        WindowStore(tmp_path, {}, clear=True)
    assert (tmp_path / "thesis.npy").read_bytes() == b"precious"


def test_damaged_window_is_computed_again(tmp_path):
    windows, store = plan((8,), 4), WindowStore(tmp_path, {})
    list(stream(windows, lambda window: np.ones(4), store))
    with store.path(1, "result").open("r+b") as file:
        file.truncate(140)
    assert [store.has(0), store.has(1)] == [True, False]
    list(stream(windows, lambda window: np.full(4, 2.0), store))
    assert store.get(0)[0] == 1
    assert store.get(1)[0] == 2


def test_store_keeps_several_arrays(tmp_path):
    store = WindowStore(tmp_path, {}, names=("cube", "spread"))
    store.put(0, {"cube": np.ones(2), "spread": np.zeros(3)})
    assert store.get(0, "spread").shape == (3,)
    with pytest.raises(KeyError):
        store.put(1, {"cube": np.ones(2)})
    with pytest.raises(KeyError):
        store.get(0, "other")


def test_memory_is_bounded_by_a_slab(tmp_path):
    shape, bands = (600, 300), 20
    windows = plan(shape, 100, 20)
    store = WindowStore(tmp_path, {})
    list(stream(windows, lambda window: np.ones((*window.shape, bands), np.float32), store))
    tracemalloc.start()
    for _, slab in assemble(windows, store, shape, slab_bytes=1 << 20):
        assert slab.nbytes <= 1 << 20
        assert slab.min() > 0.99999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20 < 600 * 300 * bands * 4


def test_room_is_told_before_any_work(tmp_path):
    windows, store = plan((100, 90), 40, 8), WindowStore(tmp_path / "store", {})
    list(stream(windows, lambda window: np.ones((*window.shape, 5), np.float32), store))
    used = sum(path.stat().st_size for path in (tmp_path / "store").glob("*.npy"))
    assert used <= bytes_needed(windows, (5,)) <= used + 4096 * len(windows)
    check_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(OutputError, match="GB are free there"):
        check_room(tmp_path, 1 << 60)
