"""Distillation: targets in closed form, guidance in one evaluation, a run of all stages, and digits."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import Dataset

from diffusion_suite.core import seeding
from diffusion_suite.core.distillation import (
    Distillation,
    DistillationModule,
    Prepared,
    WithGuidance,
    as_prediction,
    ddim_step,
    guidance_loss,
    guidance_target,
    halvings,
    progressive_loss,
    two_step_target,
)
from diffusion_suite.core.errors import CheckpointError, ConfigError
from diffusion_suite.core.guidance import ClassifierFree
from diffusion_suite.core.metrics import frechet_distance
from diffusion_suite.core.schedulers import (
    EDM,
    CosineVP,
    Denoiser,
    DiscreteVP,
    Mixture,
    RectifiedFlow,
    Trigonometric,
    betas,
    ddim,
    denoising_loss,
    even_times,
    uniforms,
)
from diffusion_suite.core.testing.tiny import TinyTransformer
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, TrainConfig, fit

MIXTURE = Mixture(
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[1.0, -1.0, 0.5], [-2.0, 0.3, 0.0]], dtype=torch.float64),
    torch.stack([torch.diag(torch.tensor([0.3, 0.1, 0.5])), 0.2 * torch.eye(3)]).double(),
)


def draws(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(name), dtype=torch.float64)


@pytest.mark.parametrize(
    "path", [Trigonometric(), RectifiedFlow(), CosineVP(), EDM()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("kind", ["v", "velocity", "x0", "eps"])
def test_one_student_step_equals_two_of_the_teacher(path: object, kind: str) -> None:
    """The student that meets the target lands where the teacher does, the clean end included."""
    teacher = MIXTURE.denoiser(path, kind)  # type: ignore[arg-type]
    t, middle, end = (
        torch.tensor(times, dtype=torch.float64)
        for times in ([0.9, 0.5, 0.2], [0.6, 0.4, 0.1], [0.3, 0.3, 0.0])
    )
    z = draws("z", 3, 3)
    x0, arrived = two_step_target(teacher, z, t, middle, end)
    said = as_prediction(x0, z, t, path, kind)  # type: ignore[arg-type]
    student = Denoiser(lambda *_: said, path, kind)  # type: ignore[arg-type]
    assert_close(ddim_step(student, z, t, end), arrived, rtol=0, atol=1e-9)
    one = [ddim(teacher, z[i : i + 1], [float(t[i]), float(middle[i]), float(end[i])]) for i in range(3)]
    assert_close(torch.cat(one), arrived, rtol=0, atol=1e-9)
    loss = progressive_loss(student, teacher, z, (t, middle, end))
    assert float(loss) < 1e-20


def test_the_loss_weighs_the_error_of_x0_by_the_truncated_snr() -> None:
    path, z = Trigonometric(), draws("z", 2, 3)
    t, middle, end = (
        torch.tensor(times, dtype=torch.float64) for times in ([0.25, 0.75], [0.2, 0.6], [0.1, 0.5])
    )
    teacher = MIXTURE.denoiser(path, "v")
    x0, _ = two_step_target(teacher, z, t, middle, end)
    off = torch.tensor([0.1, -0.2], dtype=torch.float64)[:, None]
    said = as_prediction(x0 + off, z, t, path, "v")
    loss = progressive_loss(Denoiser(lambda *_: said, path, "v"), teacher, z, (t, middle, end))
    snr = (path.alpha(t) / path.sigma(t)) ** 2
    assert snr[0] > 1.0 > snr[1]
    assert_close(loss, (snr.clamp(min=1.0) * off[:, 0] ** 2).mean(), rtol=1e-9, atol=0)


def test_the_student_of_guidance_is_told_the_scale() -> None:
    path, x_t, t = RectifiedFlow(), draws("x", 3, 3), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    parts = [MIXTURE.restricted([0]), MIXTURE]

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        given, none = (part.denoiser(path, "velocity").velocity(x, t) for part in parts)
        return torch.where((label == 1)[:, None], given, none)

    teacher = Denoiser(model, path, "velocity")
    label, scale = torch.ones(3), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    seen = []

    def student(x: Tensor, t: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        seen.append(guidance)
        pair = model(x, t, label), model(x, t, 0 * label)
        return guidance_target(*pair, guidance)

    denoiser = Denoiser(student, path, "velocity")
    assert float(guidance_loss(denoiser, teacher, {"label": 0}, x_t, t, scale, label=label)) < 1e-20
    assert torch.equal(seen[0], scale)
    for item, value in enumerate(scale.tolist()):
        guided = ClassifierFree(teacher, value, {"label": 0}).x0(x_t, t, label=label)
        told = denoiser.x0(x_t, t, label=label, guidance=scale)
        assert_close(told[item], guided[item], rtol=0, atol=1e-12)
    as_data = Denoiser(lambda x, t, **cond: denoiser.x0(x, t, **cond), path, "x0")
    assert float(guidance_loss(as_data, teacher, {"label": 0}, x_t, t, scale, label=label)) < 1e-20
    assert_close(guidance_target(torch.ones(1, 2), torch.zeros(1, 2), 3.0), torch.full((1, 2), 3.0))


def test_halvings() -> None:
    assert halvings(1024, 4) == [512, 256, 128, 64, 32, 16, 8, 4]
    assert halvings(4, 4) == []
    for first, last in ((12, 4), (4, 8), (1000, 4)):
        with pytest.raises(ConfigError, match="halved"):
            halvings(first, last)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first": 6, "last": 4}, "halved"),
        ({"guidance": [3.0, 1.0]}, "no range"),
        ({"guidance_steps": 5}, "no range of guidance"),
        ({"first": 4, "last": 4}, "nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distillation(**changed).check()


def test_stages_follow_one_another() -> None:
    settings = Distillation(8, 2, 10, [1.0, 4.0], 5)
    assert [tuple(stage) for stage in settings.stages] == [
        (0, 5, 8, True),
        (5, 10, 4, False),
        (15, 10, 2, False),
    ]
    assert settings.total == 25
    assert [settings.stage(step).steps for step in (0, 4, 5, 14, 15, 99)] == [8, 8, 4, 4, 2, 2]


# Networks


class Clock(nn.Module):
    """A network with an embedding of the time and no idea of guidance."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, 16)
        self.body = nn.Linear(2 + 16, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor = self.body(torch.cat([x, torch.sin(self.time(t[:, None]))], 1))
        return out if label is None else out + label[:, None]


def test_a_network_is_given_a_scale() -> None:
    with seeding.seeded("clock"):
        inner = Clock()
        network = WithGuidance(inner, "time", 16)
    x, t, label = torch.ones(3, 2), torch.rand(3), torch.arange(3.0)
    plain = inner(x, t, label)
    assert torch.equal(network(x, t, label=label), plain)
    assert torch.equal(network(x, t, label=label, guidance=4.0), plain)
    nn.init.ones_(network.guidance.layers[-1].weight)
    told = network(x, t, label=label, guidance=torch.tensor([1.0, 4.0, 4.0]))
    assert not torch.allclose(told, plain)
    assert_close(network(x[1:2], t[1:2], label=label[1:2], guidance=4.0), told[1:2])
    assert torch.equal(inner(x, t, label), plain)
    twin = copy.deepcopy(network)
    nn.init.zeros_(twin.guidance.layers[-1].weight)
    assert torch.equal(twin(x, t, label=label, guidance=4.0), plain)
    assert_close(network(x, t, label=label, guidance=torch.tensor([1.0, 4.0, 4.0])), told)
    with pytest.raises(ConfigError, match="time, body"):
        WithGuidance(Clock(), "clock", 16)


class Points(Dataset):
    endless = True

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(2, generator=seeding.generator("points", index))


class Student(DistillationModule):
    def __init__(self, settings: Distillation, kind: str = "v", table: int = 0) -> None:
        super().__init__(settings)
        path = DiscreteVP(betas("linear", table)) if table else Trigonometric()
        network = WithGuidance(Clock(), "time", 16)
        self.adopt(network, path, kind)  # type: ignore[arg-type]

    def prepare(self, batch: Tensor) -> Prepared:
        return Prepared(batch, {"label": torch.ones(len(batch))}, {"label": 0.0})


def run(folder: Path, settings: Distillation, table: int = 0, **more: object) -> Student:
    config = TrainConfig(
        steps=settings.total, batch_size=8, workers=0, warmup_steps=2, learning_rate=1e-2, ema_decay=0.5
    )
    for name, value in {"checkpoint_every": 1, "trainer": {"accelerator": "cpu"} | more}.items():
        setattr(config, name, value)
    with seeding.seeded("student"):
        module = Student(settings, table=table)
    fit(module, SuiteDataModule(Points()), config, folder)
    return module


def test_all_stages_in_one_run_and_a_stopped_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Distillation(8, 2, 4, [1.0, 3.0], 3)
    teachers, rates = {}, []
    step = Student.training_step

    def watched(self: Student, batch: Tensor, index: int) -> Tensor:
        teachers[self.global_step] = copy.deepcopy(self._teacher.network.state_dict())
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.global_step in (0, 3, 7):
            for name, weight in self.student.state_dict().items():
                assert torch.equal(weight, teachers[self.global_step][name])
        return step(self, batch, index)

    monkeypatch.setattr(Student, "training_step", watched)
    whole = run(tmp_path / "whole", settings)
    assert rates[0] == rates[3] == rates[7]
    assert rates[6] < rates[5]
    for first, last in ((0, 2), (3, 6), (7, 10)):
        name = "network.body.weight"
        assert torch.equal(teachers[first][name], teachers[last][name])
        assert first == 0 or not torch.equal(teachers[first - 1][name], teachers[first][name])

    def stopping(self: Student, batch: Tensor, index: int) -> Tensor:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(Student, "training_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", settings)
    monkeypatch.setattr(Student, "training_step", step)
    resumed = run(tmp_path / "stopped", settings)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name

    assert not [name for name in whole.state_dict() if "teacher" in name]
    loaded = Student.from_checkpoint(tmp_path / "whole" / "last.ckpt")
    assert loaded.times() == [1.0, 0.5, 0.0]
    assert loaded.times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    x, label = torch.ones(2, 2), torch.ones(2)
    sampled = ddim(loaded.denoiser, x, loaded.times(), label=label, guidance=2.0)
    assert_close(sampled, ddim(whole.eval().denoiser, x, whole.times(), label=label, guidance=2.0))
    with pytest.raises(ConfigError, match="divisor"):
        loaded.times(3)


def test_a_table_of_variances_keeps_whole_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    forward = Clock.forward

    def watched(self: Clock, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert t.dtype == torch.int64
        seen.update(t.tolist())
        return forward(self, x, t.float(), label)

    monkeypatch.setattr(Clock, "forward", watched)
    module = run(tmp_path, Distillation(8, 4, 6), table=16)
    assert module.times(8) == [15, 13, 11, 9, 7, 5, 3, 1, -1]
    assert module.times() == [15, 11, 7, 3, -1]
    assert seen == {15, 13, 11, 9, 7, 5, 3, 1}


def test_a_run_of_another_length_is_refused(tmp_path: Path) -> None:
    module = Student(Distillation(8, 4, 6))
    config = TrainConfig(steps=7, batch_size=8, workers=0, trainer={"accelerator": "cpu"})
    with pytest.raises(ConfigError, match="steps=6"):
        fit(module, SuiteDataModule(Points()), config, tmp_path)
    with pytest.raises(ConfigError, match="holds no data"):
        Student(Distillation(8, 4, 6), kind="eps")
    with pytest.raises(ConfigError, match="times for 8 steps"):
        module.adopt(Clock(), RectifiedFlow(), "velocity", times=[1.0, 0.0])
    with pytest.raises(TypeError, match="prepare"):
        DistillationModule(Distillation(8, 4, 6)).prepare(None)


class Trained(SuiteModule):
    """What trained the first teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Clock()


def test_the_first_teacher_comes_from_its_training(tmp_path: Path) -> None:
    trained = Trained()
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": {}}, tmp_path / "teacher.ckpt")
    module = Student(Distillation(8, 4, 6))
    module.start_from(str(tmp_path / "teacher.ckpt"))
    assert torch.equal(module.student.network.body.weight, trained.model.body.weight)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": {}}, tmp_path / "student.ckpt")
    other = Student(Distillation(8, 4, 6))
    other.start_from(str(tmp_path / "student.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    torch.save({"state_dict": nn.Linear(3, 3).state_dict()}, tmp_path / "wrong.ckpt")
    with pytest.raises(CheckpointError, match="holds no Clock"):
        module.start_from(str(tmp_path / "wrong.ckpt"))
    with pytest.raises(CheckpointError, match=r"give a \.ckpt"):
        module.start_from("starter")


# Digits


class Digits(Dataset):
    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        found = load_digits()
        self.images = torch.tensor(found.images / 8 - 1, dtype=torch.float32)[:, None]
        self.labels = torch.tensor(found.target)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


class Teacher(SuiteModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = TinyTransformer()

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        images, label = batch["image"], batch["label"]
        dropped = torch.rand(len(label), generator=generator) < 0.1
        denoiser = Denoiser(self.network, Trigonometric(), "v")
        t = uniforms(len(images), generator).float()
        return denoising_loss(denoiser, images, t, generator, label=label.masked_fill(dropped, 10))


class DigitStudent(DistillationModule):
    def __init__(self, settings: Distillation) -> None:
        super().__init__(settings)
        self.adopt(TinyTransformer(), Trigonometric(), "v")

    def prepare(self, batch: dict[str, Tensor]) -> Prepared:
        return Prepared(batch["image"], {"label": batch["label"]}, {"label": 10})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_in_half_the_steps(tmp_path: Path) -> None:
    """A student of guidance and of 4 steps against its guided teacher of 8."""
    digits = Digits()
    settings = Distillation(8, 4, 250, [1.0, 2.0], 100)
    common = {"batch_size": 128, "workers": 0, "ema_decay": 0.98, "trainer": {"accelerator": "cpu"}}
    config = TrainConfig(steps=500, learning_rate=2e-3, warmup_steps=50, **common)  # type: ignore[arg-type]
    with seeding.seeded("digits"):
        teacher, student = Teacher(), DigitStudent(settings)
    init = str(fit(teacher, SuiteDataModule(digits), config, tmp_path / "teacher"))
    config = TrainConfig(
        steps=settings.total,
        learning_rate=1e-3,
        warmup_steps=20,
        init=init,
        **common,  # type: ignore[arg-type]
    )
    fit(student, SuiteDataModule(digits), config, tmp_path / "student")

    label = torch.arange(1000) % 10
    noise = torch.randn(1000, 1, 8, 8, generator=seeding.generator("samples"))
    plain = Denoiser(teacher.network.eval(), Trigonometric(), "v")
    student.eval()

    def distance(denoiser: Denoiser, times: list[float], **cond: Tensor) -> float:
        with torch.no_grad():
            made = ddim(denoiser, noise, times, label=label, **cond)
        return float(frechet_distance(digits.images.flatten(1).double(), made.flatten(1).double()))

    for scale in (1.0, 1.5):
        guided = ClassifierFree(plain, scale, {"label": 10})
        of_student = distance(student.denoiser, student.times(), guidance=torch.full((1000,), scale))
        assert of_student <= 1.2 * distance(guided, even_times(8))
        assert of_student < 0.9 * distance(guided, even_times(4))
