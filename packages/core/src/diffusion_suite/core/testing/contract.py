"""What every system promises on the command line, as one test class that a domain subclasses.

Example::

    class TestRestoration(DomainContract):
        domain = "geo"
        system = "restoration"
        module = "diffusion_suite.geo.restoration.module:EigenPriorModule"
        suffix = ".npy"
        train_overrides = ("scenes=2", "patch=16", "batch_size=2", "workers=0")
        predict_overrides = ("mode=subspace",)

        def write_sample(self, path, seed):
            np.save(path, np.random.default_rng(seed).random((12, 10, 6), dtype=np.float32))

        def read_output(self, path):
            return np.load(path)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffusion_suite.core.cli import main
from diffusion_suite.core.cli.choice import choose, shipped
from diffusion_suite.core.config import table
from diffusion_suite.core.domain import Domain, find, load_object

Run = Callable[..., str]


class DomainContract:
    """Contract of one system of a domain; subclass it as ``Test...`` and fill in what follows.

    Attributes:
        domain: the word on the command line.
        system: the name of the system in the domain's record.
        module: ``"module:Class"`` of the LightningModule that ``train`` trains.
        suffix: ending of the sample files, e.g. ``".tif"``.
        train_overrides: settings that make training tiny: a small network, few items, ``workers=0``.
        train_inputs: how many sample files ``train`` is given.
        predict_overrides: settings that make ``predict`` fast.
        tolerance: greatest difference allowed where results must be the same; 0 asks for equal bits.
    """

    domain: ClassVar[str]
    system: ClassVar[str]
    module: ClassVar[str]
    suffix: ClassVar[str]
    train_overrides: ClassVar[Sequence[str]] = ()
    train_inputs: ClassVar[int] = 0
    predict_overrides: ClassVar[Sequence[str]] = ()
    tolerance: ClassVar[float] = 0.0

    def write_sample(self, path: Path, seed: int) -> None:
        """Write a tiny input that ``predict`` takes; another seed gives another content."""
        raise TypeError(f"{type(self).__name__} has no write_sample(path, seed)")

    def read_output(self, path: Path) -> NDArray[Any]:
        """The numbers in an output of ``predict``."""
        raise TypeError(f"{type(self).__name__} has no read_output(path)")

    @pytest.fixture
    def record(self) -> Domain:
        """The domain's record."""
        found = find(self.domain)
        assert found is not None, f"the domain {self.domain} is not found"
        return found

    @pytest.fixture
    def samples(self, tmp_path: Path) -> list[Path]:
        """Two inputs in a folder of their own."""
        folder = tmp_path / "samples"
        folder.mkdir()
        paths = [folder / f"{name}{self.suffix}" for name in ("first", "second")]
        for seed, path in enumerate(paths):
            self.write_sample(path, seed)
        return paths

    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> Run:
        """Run a command that must succeed; gives what it printed."""

        def succeed(command: str, *words: object) -> str:
            capsys.readouterr()
            code = main(self._words(command, words))
            printed = capsys.readouterr()
            assert code == 0, printed.err
            return printed.out

        return succeed

    @pytest.fixture
    def refuse(self, capsys: pytest.CaptureFixture[str]) -> Run:
        """Run a command that must be refused with exit code 2 and one line; gives the line."""

        def fail(command: str, *words: object) -> str:
            capsys.readouterr()
            code = main(self._words(command, words))
            printed = capsys.readouterr().err
            lines = [line for line in printed.splitlines() if line.startswith("error: ")]
            assert code == 2, printed
            assert len(lines) == 1, printed
            assert printed.splitlines()[-1] == lines[0]
            assert "Traceback" not in printed
            return lines[0]

        return fail

    def test_every_setting_has_a_help_line(self, record: Domain) -> None:
        """Each command has settings, and each setting says what it is for."""
        for name, command in record.systems[self.system].items():
            rows = table(load_object(command.schema))
            assert rows, f"{name} has no settings"
            assert not [row.key for row in rows if not row.help.strip()]
            assert command.help.strip()

    def test_help_of_every_command(self, record: Domain, run: Run) -> None:
        """``--help`` names every setting."""
        for name, command in record.systems[self.system].items():
            text = run(name, "--help")
            for row in table(load_object(command.schema)):
                assert row.key.rpartition(".")[2] in text

    def test_every_shipped_configuration_prints_and_loads_again(
        self, record: Domain, run: Run, tmp_path: Path
    ) -> None:
        """``--print-config`` of every shipped YAML is a configuration that gives the same settings."""
        names = [name for name in shipped(record) if self._serves(record, name)]
        assert names, f"no shipped configuration is for {self.system}"
        for command in record.systems[self.system]:
            for name in names:
                printed = run(command, "-c", name, "--print-config")
                path = tmp_path / f"{command}-{name}.yaml"
                path.write_text(printed, encoding="utf-8")
                assert run(command, "-c", path, "--print-config") == printed

    def test_unknown_setting_and_command_are_refused(self, refuse: Run) -> None:
        """A misspelt setting or command is told by its name."""
        assert "no_such_setting" in refuse("predict", "no_such_setting=1")
        assert "predict" in refuse("predikt")

    def test_train_writes_a_checkpoint_that_loads_safely(
        self, run: Run, samples: list[Path], tmp_path: Path
    ) -> None:
        """Two steps leave a checkpoint that ``load_from_checkpoint`` and ``info`` take."""
        folder = tmp_path / "run"
        run("train", *self._train(samples, folder, 2))
        content = torch.load(folder / "last.ckpt", weights_only=True)
        assert content["global_step"] == 2
        for name in ("config.yaml", "versions.json", "metrics.csv"):
            assert (folder / name).stat().st_size > 0
        loaded = load_object(self.module).load_from_checkpoint(folder / "last.ckpt", weights_only=True)
        assert loaded.state_dict().keys() == content["state_dict"].keys()
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor.cpu(), content["state_dict"][name].cpu()), name
        assert run("info", folder / "last.ckpt").strip()

    def test_same_train_command_goes_on_and_ends_as_one_run(
        self, run: Run, samples: list[Path], tmp_path: Path
    ) -> None:
        """A run of one step that goes on to three equals a run of three, bit for bit."""
        run("train", *self._train(samples, tmp_path / "whole", 3), "schedule=constant")
        for steps in (1, 3, 3):
            run("train", *self._train(samples, tmp_path / "parts", steps), "schedule=constant")
        whole, parts = (
            torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")
        )
        for name, tensor in whole["state_dict"].items():
            assert torch.equal(tensor, parts["state_dict"][name]), name

    def test_predict_writes_the_output_and_its_manifest(
        self, run: Run, samples: list[Path], tmp_path: Path
    ) -> None:
        """One input gives one output and one complete line in ``manifest.jsonl``."""
        self._predict(run, tmp_path / "out", samples[0])
        (entry,) = self._manifest(tmp_path / "out")
        assert Path(entry["input"]) == samples[0].absolute()
        assert isinstance(entry["seed"], int)
        assert isinstance(entry["seconds"], float)
        assert len(entry["config_hash"]) == 12
        result = self.read_output(self._output(tmp_path / "out", entry))
        assert result.size
        assert np.isfinite(result).any()

    def test_second_run_skips_what_is_finished(self, run: Run, samples: list[Path], tmp_path: Path) -> None:
        """The same command again writes nothing, unless ``overwrite=true``."""
        self._predict(run, tmp_path / "out", samples[0])
        before = _state(tmp_path / "out")
        self._predict(run, tmp_path / "out", samples[0])
        assert _state(tmp_path / "out") == before
        self._predict(run, tmp_path / "out", samples[0], "overwrite=true")
        assert _state(tmp_path / "out") != before

    def test_result_depends_on_no_neighbour(self, run: Run, samples: list[Path], tmp_path: Path) -> None:
        """A file alone, in its folder, and from a manifest in reverse order gives the same numbers."""
        manifest = tmp_path / "list.csv"
        manifest.write_text("input\n" + "".join(f"{path}\n" for path in reversed(samples)), encoding="utf-8")
        for name, source in (("folder", samples[0].parent), ("manifest", manifest)):
            self._predict(run, tmp_path / name, source)
        for sample in samples:
            self._predict(run, tmp_path / sample.stem, sample)
            alone = self._result(tmp_path / sample.stem, sample)
            for name in ("folder", "manifest"):
                other = self._result(tmp_path / name, sample)
                np.testing.assert_allclose(other, alone, rtol=0, atol=self.tolerance)

    def test_file_of_another_hand_is_not_overwritten(
        self, run: Run, refuse: Run, samples: list[Path], tmp_path: Path
    ) -> None:
        """A file that is not in the manifest is left as it is."""
        self._predict(run, tmp_path / "out", samples[0])
        name = self._output(tmp_path / "out", self._manifest(tmp_path / "out")[0]).name
        other = tmp_path / "other" / name
        other.parent.mkdir()
        other.write_bytes(b"mine")
        line = refuse("predict", *self.predict_overrides, samples[0], "-o", other.parent)
        assert "overwrite" in line
        assert other.read_bytes() == b"mine"
        assert _names(other.parent) == {name}

    def test_bad_inputs_are_one_line_and_leave_nothing(
        self, refuse: Run, samples: list[Path], tmp_path: Path
    ) -> None:
        """Text, an empty file, a missing file, an empty folder: exit 2, the name, no output."""
        text = samples[0].with_name(f"text{self.suffix}")
        text.write_text("this is a letter, not data")
        empty = tmp_path / "empty"
        empty.mkdir()
        nothing = samples[0].with_name(f"nothing{self.suffix}")
        nothing.write_bytes(b"")
        out = tmp_path / "out"
        for bad in (text, nothing, tmp_path / f"absent{self.suffix}", empty):
            line = refuse("predict", *self.predict_overrides, bad, "-o", out)
            assert bad.name in line
            assert not out.exists() or not _names(out)
        refuse("predict", *self.predict_overrides, samples[0], "-o", text / "below")

    def test_info_of_an_input(self, run: Run, samples: list[Path]) -> None:
        """``info`` tells about an input file."""
        assert samples[0].name in run("info", samples[0])

    def _words(self, command: str, words: Sequence[object]) -> list[str]:
        named = [] if "-c" in words else ["-c", self._config()]
        return [self.domain, command, *named, *map(str, words)]

    def _config(self) -> str:
        record = find(self.domain)
        assert record is not None
        names = [name for name in shipped(record) if self._serves(record, name)]
        return record.default if record.default in names else names[0]

    def _serves(self, record: Domain, name: str) -> bool:
        command = next(iter(record.systems[self.system]))
        return choose(record, command, [name]).system == self.system

    def _train(self, samples: list[Path], folder: Path, steps: int) -> Iterator[object]:
        yield from samples[: self.train_inputs]
        yield from self.train_overrides
        yield from (f"steps={steps}", "checkpoint_every=1", "log_every=1", "warmup_steps=1")
        yield from ("trainer.accelerator=cpu", "-o", folder)

    def _predict(self, run: Run, out: Path, *words: object) -> None:
        run("predict", *self.predict_overrides, *words, "-o", out)

    def _manifest(self, folder: Path) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        ]

    def _output(self, folder: Path, entry: dict[str, Any]) -> Path:
        path = folder / str(entry["output"])
        assert path.is_file()
        return path

    def _result(self, folder: Path, sample: Path) -> NDArray[Any]:
        (entry,) = [e for e in self._manifest(folder) if Path(e["input"]) == sample.absolute()]
        return self.read_output(self._output(folder, entry))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _state(folder: Path) -> dict[str, int]:
    """When each file was written, the manifest apart by its content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}
