"""Training: the loss falls, a stopped run resumes bit for bit, averaged weights are what is saved."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from diffusion_suite.core import seeding
from diffusion_suite.core.config import load
from diffusion_suite.core.errors import CheckpointError, ConfigError, OutputError, SuiteError
from diffusion_suite.core.training import (
    EndlessSampler,
    MovingAverage,
    SuiteDataModule,
    SuiteModule,
    TrainConfig,
    fit,
)
from diffusion_suite.core.training.config import rate_factor

SCRIPT = Path(__file__).with_name("training_script.py")


class Points(Dataset):
    def __init__(self, length=37):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.randn(4, generator=seeding.generator("points", index))


class Tiny(SuiteModule):
    """Dropout, batch statistics and noise: all that could spoil an exact resume."""

    def __init__(self, width: int = 8, dropout: float = 0.3) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(dropout), nn.SiLU(), nn.Linear(width, 4)
        )

    def loss(self, batch, generator):
        noise = torch.randn(batch.shape, generator=generator)
        error = (self.network(batch + 0.1 * noise) - batch).square().mean()
        return {"loss": error, "size": batch.square().mean()}


def settings(steps, **more):
    base = {"batch_size": 4, "workers": 0, "warmup_steps": 2, "learning_rate": 1e-2, "ema_decay": 0.9}
    base |= {"checkpoint_every": 5, "log_every": 5, "validate_every": 4, "schedule": "constant"}
    return TrainConfig(steps=steps, **(base | {"trainer": {"accelerator": "cpu"}} | more))


def train(folder, steps, module=Tiny, **more):
    config = settings(steps, **more)
    with seeding.seeded(config.seed, "weights"):
        made = module()
    fit(made, SuiteDataModule(Points(), Points(6)), config, folder)
    return made


def saved(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same(first, second):
    for part in ("state_dict", "current_model_state"):
        assert first[part].keys() == second[part].keys()
        for name, tensor in first[part].items():
            assert torch.equal(tensor, second[part][name]), name


class OneBatch(Dataset):
    endless = True

    def __getitem__(self, index):
        return torch.tensor([0.3, -0.7, 0.2, 1.0]) * (1 + index % 4)


def test_loss_falls_on_a_fixed_batch(tmp_path):
    config = settings(60, log_every=1, ema_decay=0.0, learning_rate=0.05)
    with seeding.seeded(0):
        module = Tiny(dropout=0.0)
    fit(module, SuiteDataModule(OneBatch()), config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path, accumulate, capsys):
    train(tmp_path / "whole", 23, accumulate=accumulate)
    train(tmp_path / "parts", 12, accumulate=accumulate)
    train(tmp_path / "parts", 23, accumulate=accumulate)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))
    assert "going on from" in capsys.readouterr().err
    whole, parts = ((tmp_path / name / "metrics.csv").read_text() for name in ("whole", "parts"))
    assert parts == whole
    assert [line.split(",")[0] for line in whole.splitlines()[1:4]] == ["4", "5", "8"]


def test_checkpoint_holds_the_average_and_loads_safely(tmp_path):
    module = train(tmp_path, 6)
    content = saved(tmp_path)
    live = content["current_model_state"]["network.0.weight"]
    assert not torch.equal(content["state_dict"]["network.0.weight"], live)
    loaded = Tiny.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, content["state_dict"][name])
        assert torch.equal(tensor, module.state_dict()[name])
    assert dict(loaded.hparams) == {"width": 8, "dropout": 0.3}


def test_average_has_its_closed_form(tmp_path):
    seen = []

    class Keep(Tiny):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen.append(self.network[0].weight.detach().clone())

    train(tmp_path, 7, Keep, ema_decay=0.5)
    mean = seen[0]
    for done, weight in enumerate(seen[1:], 1):
        decay = min(0.5, (1 + done) / (10 + done))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(saved(tmp_path)["state_dict"]["network.0.weight"], mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("precision", "kept"), [("64", torch.float64), ("bf16-true", torch.float32), ("32", torch.float32)]
)
def test_average_in_each_precision(tmp_path, precision, kept):
    """The average is never of less than single precision; a stopped run in double goes on bit for bit."""
    train(tmp_path / "whole", 6, precision=precision)
    state = saved(tmp_path / "whole")["state_dict"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {kept}
    if precision == "64":
        train(tmp_path / "parts", 3, precision=precision, schedule="constant")
        train(tmp_path / "parts", 6, precision=precision, schedule="constant")
        train(tmp_path / "again", 6, precision=precision, schedule="constant")
        assert_same(saved(tmp_path / "again"), saved(tmp_path / "parts"))


def test_average_outside_a_trainer_follows_the_same_rule_and_keeps_the_best():
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, decay=0.25)
    mean = float(network.weight.detach())
    means = []
    for updates in range(1, 6):
        nn.init.constant_(network.weight, float(updates))
        average.update()
        decay = min(0.25, (1 + updates) / (10 + updates))
        mean = decay * mean + (1 - decay) * updates
        means.append(mean)
        assert float(average.network.weight) == pytest.approx(mean)
        if updates == 3:
            average.keep()
    assert float(average.best().weight) == pytest.approx(means[2])
    assert float(network.weight) == 5


def test_module_from_a_checkpoint_of_another_class(tmp_path):
    module = train(tmp_path, 3)
    loaded = Tiny.from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(loaded.network[0].weight, module.network[0].weight)
    assert not loaded.training

    class Wide(Tiny):
        def __init__(self, breadth: int) -> None:
            super().__init__(breadth)

    with pytest.raises(CheckpointError, match="is not for Wide"):
        Wide.from_checkpoint(tmp_path / "last.ckpt")


def test_finished_run_says_so_and_gives_its_weights(tmp_path, capsys):
    first = train(tmp_path, 5)
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    second = train(tmp_path, 5)
    assert "already trained" in capsys.readouterr().err
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before
    assert torch.equal(first.network[0].weight, second.network[0].weight)


def test_other_settings_are_refused_on_resume(tmp_path):
    train(tmp_path, 5)
    with pytest.raises(ConfigError, match="batch_size was 4, now 2"):
        train(tmp_path, 9, batch_size=2)
    with pytest.raises(OutputError, match="holds a run already"):
        train(tmp_path, 9, resume=None)


def test_unreadable_checkpoint_is_one_line(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be read"):
        train(tmp_path, 5)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train(tmp_path / "other", 5, resume=str(tmp_path / "absent.ckpt"))


def test_init_starts_from_other_weights(tmp_path):
    first = train(tmp_path / "a", 5)
    config = settings(1, init=str(tmp_path / "a" / "last.ckpt"), learning_rate=1e-30)
    second = Tiny()
    fit(second, SuiteDataModule(Points()), config, tmp_path / "b")
    torch.testing.assert_close(second.network[0].weight, first.network[0].weight)
    with pytest.raises(CheckpointError, match="is not for this network: other shape: network"):
        fit(Tiny(width=5), SuiteDataModule(Points()), config, tmp_path / "c")


def test_nan_loss_stops_and_keeps_the_checkpoint(tmp_path):
    class Diverges(Tiny):
        def loss(self, batch, generator):
            values = super().loss(batch, generator)
            return values["loss"] * (float("nan") if self.global_step >= 7 else 1.0)

    with pytest.raises(SuiteError, match="the loss is nan"):
        train(tmp_path, 20, Diverges)
    assert saved(tmp_path)["global_step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in saved(tmp_path)["state_dict"].values())


def test_hyper_parameters_must_be_plain():
    class Holds(SuiteModule):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="hyper-parameter network is a Linear"):
        Holds(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devises=2"], "devices"),
        (["trainer.max_steps=2"], "steps"),
        (["trainer.strategy=fsdp"], "ema_decay=0"),
        (["trainer.logger=mlflow"], "tensorboard"),
        (["precision=8"], "bf16"),
        (["steps=0"], "steps"),
        (["ema_decay=1"], "ema_decay"),
    ],
)
def test_bad_settings_are_one_line_with_a_remedy(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(TrainConfig, overrides)
    assert "\n" not in str(caught.value)


def test_fsdp_without_average_is_accepted():
    assert load(TrainConfig, ["trainer.strategy=fsdp", "ema_decay=0"]).trainer == {"strategy": "fsdp"}


def test_learning_rate_warms_up_and_falls_to_one_percent():
    config = TrainConfig(steps=100, warmup_steps=9)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[100] == pytest.approx(0.01)
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)


def take(sampler, count):
    return [item for item, _ in zip(sampler, range(count), strict=False)]


def test_sampler_gives_each_item_once_an_epoch_and_reshuffles():
    items = take(EndlessSampler(10, seed=3), 30)
    epochs = [items[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("start", [0, 7, 23])
def test_sampler_starts_anywhere_and_splits_over_ranks(start):
    whole = take(EndlessSampler(10, seed=3), 60)
    assert take(EndlessSampler(10, seed=3, start=start), 20) == whole[start : start + 20]
    ranks = [take(EndlessSampler(10, seed=3, start=start, rank=rank, world_size=2), 10) for rank in (0, 1)]
    mixed = [item for pair in zip(*ranks, strict=True) for item in pair]
    assert mixed == whole[start : start + 20]


def test_sampler_of_endless_data_counts_on():
    assert take(EndlessSampler(None, seed=3, start=5, rank=1, world_size=2), 3) == [6, 8, 10]


def script(folder, *arguments):
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *arguments], env=environment, stderr=subprocess.PIPE
    )


def finish(process):
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow
def test_killed_run_resumes_bit_for_bit_with_workers(tmp_path):
    finish(script(tmp_path / "whole", "steps=40", "workers=2"))
    process = script(tmp_path / "parts", "steps=40", "workers=2", "pause=0.05")
    deadline = time.monotonic() + 60
    while not (tmp_path / "parts" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < saved(tmp_path / "parts")["global_step"] < 40
    finish(script(tmp_path / "parts", "steps=40", "workers=2"))
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


@pytest.mark.slow
def test_two_processes_agree_with_one_of_twice_the_batch(tmp_path):
    finish(script(tmp_path / "two", "steps=8", "batch_size=3", "devices=2", "plain=1"))
    finish(script(tmp_path / "one", "steps=8", "batch_size=6", "devices=1", "plain=1"))
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=0, atol=1e-5)
    assert two["global_step"] == 8
