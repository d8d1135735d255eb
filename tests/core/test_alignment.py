"""Alignment losses in closed form, and the add-ons that bring them into training."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset

from diffusion_suite.core import seeding
from diffusion_suite.core.config import load
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation import (
    ConditionPerturbation,
    Decay,
    Noised,
    RepresentationAlignment,
    SelfAlignment,
    contrastive_loss,
    masked_losses,
    perturb,
    repa_loss,
    sra_loss,
    teacher_times,
)
from diffusion_suite.core.schedulers import RectifiedFlow
from diffusion_suite.core.testing.tiny import TinyTransformer
from diffusion_suite.core.training import SuiteDataModule, SuiteModule, TrainConfig, fit


def values(*shape):
    return torch.randn(shape, generator=seeding.generator("alignment", *shape))


def test_losses_at_their_best_and_worst():
    tokens = values(2, 5, 8)
    assert_close(repa_loss(tokens, 3 * tokens), torch.tensor(-1.0))
    assert_close(repa_loss(tokens, -tokens), torch.tensor(1.0))
    for distance in ("cosine", "smooth_l1", "l1", "l2"):
        assert_close(sra_loss(tokens, tokens, distance), torch.tensor(0.0), rtol=0, atol=1e-6)
    assert_close(sra_loss(tokens, tokens + 0.5, "smooth_l1", beta=0.05), torch.tensor(0.475))
    with pytest.raises(ConfigError, match="unknown distance"):
        sra_loss(tokens, tokens, "l3")


def test_no_gradient_reaches_the_teacher():
    student, teacher = values(1, 3, 4).requires_grad_(), values(1, 3, 4).requires_grad_()
    sra_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_teacher_is_never_noisier_and_never_before_the_data():
    t, u = torch.rand(100, generator=seeding.generator(1)), torch.rand(100, generator=seeding.generator(2))
    earlier = teacher_times(t, u, 0.3)
    assert (earlier <= t).all()
    assert (earlier >= 0).all()
    assert_close(earlier[t > 0.3], (t - 0.3 * u)[t > 0.3])


def test_weight_over_the_steps():
    assert [Decay(0.5)(step) for step in (0, 10**6)] == [0.5, 0.5]
    assert [Decay(3, 100, 50)(step) for step in (0, 100, 150, 200)] == [3, 3, 1.5, 0.75]


def test_contrast_of_equal_and_of_orthogonal_views():
    views = 5 * torch.eye(4)
    others = math.log(1 + 3 * math.exp(-1 / 0.5))
    assert_close(contrastive_loss(views, 2 * views, 0.5), torch.tensor(others))
    assert_close(contrastive_loss(views, views.roll(1, 0), 0.5), torch.tensor(others + 2))
    assert_close(contrastive_loss(torch.ones(4, 2), torch.ones(4, 2)), torch.tensor(math.log(4)))


def test_masked_losses_count_each_area_by_itself():
    x0, eps = values(2, 1, 4, 6), values(2, 1, 4, 6) + 1
    hidden = torch.zeros(1, 1, 4, 6)
    hidden[..., :2] = 1
    found = masked_losses(x0 + 3 * hidden + 7 * (1 - hidden), eps + 2 - 5 * hidden, x0, eps, hidden)
    assert_close([found.x0, found.eps, found.clean], [torch.tensor(v) for v in (9.0, 4.0, 9.0)])
    assert_close(found.noisy, torch.tensor(6.5))
    assert masked_losses(x0, eps, x0, eps, torch.ones_like(x0)).eps == 0


def test_perturbation_scales_with_the_width():
    condition = values(3, 16)
    assert_close(perturb(condition, torch.ones(3, 16), 2.0), condition + 0.5)


class Pictures(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        draw = seeding.generator("pictures", index)
        return torch.randn(1, 8, 8, generator=draw), torch.tensor(index % 10)


class Flow(SuiteModule):
    def __init__(self, told: bool = True) -> None:
        super().__init__()
        self.told = told
        self.network = TinyTransformer(width=16, depth=3, heads=2)

    def loss(self, batch, generator):
        x0, label = batch
        eps = torch.randn(x0.shape, generator=generator)
        t = torch.rand(len(x0), generator=generator)
        if self.told:
            self.noised = Noised(x0, eps, t, RectifiedFlow())
        return (
            (self.network(RectifiedFlow().add_noise(x0, eps, t), t, label=label) - (eps - x0)).square().mean()
        )


def teacher(batch):
    """Maps of twice the student's grid: its tokens must be brought to 4 x 4."""
    pictures = batch[0]
    return torch.cat([pictures, pictures.square()], 1)


def aligned(**more):
    return RepresentationAlignment(1, teacher, width=16, teacher_width=2, hidden=8, **more)


ADD_ONS = {
    "repa": lambda: [aligned()],
    "erw": lambda: [aligned(weight=Decay(1.0, 3, 2.0), clean_warmup=True)],
    "sra": lambda: [SelfAlignment(0, 2, width=16)],
    "cep": lambda: [ConditionPerturbation("network.label", null=10)],
    "all": lambda: [aligned(), SelfAlignment(0, 2, width=16), ConditionPerturbation("network.label")],
}


def train(folder, steps, callbacks=(), module=Flow, **more):
    settings = {"batch_size": 6, "workers": 0, "warmup_steps": 2, "learning_rate": 1e-2, "log_every": 1}
    settings |= {"checkpoint_every": 50, "ema_decay": 0.9, "schedule": "constant"}
    config = TrainConfig(steps=steps, **(settings | {"trainer": {"accelerator": "cpu"}} | more))
    with seeding.seeded(config.seed, "weights"):
        made = module()
    fit(made, SuiteDataModule(Pictures()), config, folder, callbacks)
    return made


def saved(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def column(folder, name):
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    place = rows[0].index(name)
    return [float(row[place]) for row in rows[1:]]


@pytest.mark.parametrize("kind", ADD_ONS)
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path, kind):
    train(tmp_path / "whole", 7, ADD_ONS[kind]())
    train(tmp_path / "parts", 4, ADD_ONS[kind]())
    train(tmp_path / "parts", 7, ADD_ONS[kind]())
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    for part in ("state_dict", "current_model_state"):
        assert whole[part].keys() == parts[part].keys()
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, parts[part][name]), name
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (
        tmp_path / "whole" / "metrics.csv"
    ).read_text()
    plain = train(tmp_path / "plain", 7)
    assert not torch.equal(plain.network.label.weight, parts["state_dict"]["network.label.weight"])


def test_weights_of_add_ons_are_trained_averaged_and_dropped_for_use(tmp_path):
    module = train(tmp_path, 6, [aligned()])
    content = saved(tmp_path)
    name = "add_ons.representation_alignment.0.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    assert content["add_ons"] == ["representation_alignment"]
    assert not any(key.startswith("add_ons") for key in module.state_dict())
    for loaded in (
        Flow.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True),
        Flow.from_checkpoint(tmp_path / "last.ckpt"),
    ):
        assert torch.equal(loaded.network.embed.weight, module.network.embed.weight)
    other = Flow()
    other.start_from(str(tmp_path / "last.ckpt"))
    assert torch.equal(other.network.embed.weight, module.network.embed.weight)
    again = train(tmp_path, 6, [aligned()])
    assert torch.equal(again.network.embed.weight, module.network.embed.weight)


def test_alignment_learns(tmp_path):
    train(tmp_path, 60, [aligned(weight=Decay(2.0))])
    course = column(tmp_path, "representation_alignment")
    assert course[-1] < course[0] - 0.1
    assert column(tmp_path, "loss")[0] == pytest.approx(
        column_of_plain(tmp_path / "plain") + 2 * course[0], rel=1e-4
    )


def column_of_plain(folder):
    train(folder, 1)
    return column(folder, "loss")[0]


def test_warmup_trains_the_first_blocks_alone_on_clean_data(tmp_path):
    module = train(tmp_path, 3, [aligned(weight=Decay(1.0, 3, 2.0), clean_warmup=True)], ema_decay=0.0)
    with seeding.seeded(0, "weights"):
        before = Flow()
    old, new = before.state_dict(), module.state_dict()
    assert torch.equal(old["network.blocks.2.qkv.weight"], new["network.blocks.2.qkv.weight"])
    assert torch.equal(old["network.head.weight"], new["network.head.weight"])
    assert not torch.equal(old["network.embed.weight"], new["network.embed.weight"])
    assert column(tmp_path, "loss") == pytest.approx(column(tmp_path, "representation_alignment"))
    train(tmp_path / "on", 4, [aligned(weight=Decay(1.0, 3, 2.0), clean_warmup=True)], ema_decay=0.0)
    assert column(tmp_path / "on", "loss")[3] > 0.5


def test_clean_data_enter_in_the_warmup(tmp_path):
    seen = []

    class Watched(Flow):
        def loss(self, batch, generator):
            handle = self.network.blocks[0].register_forward_hook(lambda _m, i, _o: seen.append(i))
            embed = self.network.embed.register_forward_hook(lambda _m, i, _o: seen.append((i[0], batch[0])))
            found = super().loss(batch, generator)
            handle.remove()
            embed.remove()
            return found

    train(tmp_path, 2, [aligned(weight=Decay(1.0, 1), clean_warmup=True)], Watched)
    assert torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(seen[2][0], seen[2][1])


def test_self_alignment_asks_the_average_at_cleaner_times_with_the_same_conditions(tmp_path):
    calls, told = [], []

    class Watched(Flow):
        def loss(self, batch, generator):
            found = super().loss(batch, generator)
            told.append(self.noised)
            return found

        def on_fit_start(self):
            for callback in self.trainer.callbacks:
                network = getattr(getattr(callback, "_average_model", None), "module", None)
                if network is not None:
                    network.network.register_forward_pre_hook(
                        lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
                    )
            self.network.register_forward_pre_hook(
                lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
            )

    train(tmp_path, 1, [SelfAlignment(0, 2, width=16)], Watched)
    (student, with_student), (averaged, with_averaged) = calls
    assert (averaged[1] <= student[1]).all()
    assert (averaged[1] >= student[1] - 0.2).all()
    assert not torch.equal(averaged[1], student[1])
    assert torch.equal(with_student["label"], with_averaged["label"])
    noised = told[0]
    assert_close(averaged[0], noised.path.add_noise(noised.x0, noised.eps, averaged[1]))


def test_perturbation_leaves_the_null_class_and_validation_alone(tmp_path):
    outputs = []

    class Watched(Flow):
        def loss(self, batch, generator):
            batch = (batch[0], torch.where(torch.arange(len(batch[1])) < 2, 10, batch[1]))
            found = super().loss(batch, generator)
            weight = self.network.label.weight.detach().clone()
            outputs.append((self.network.label(batch[1]).detach(), weight[batch[1]], self.network.time))
            return found

    train(tmp_path, 1, [ConditionPerturbation("network.label", gamma=2.0, null=10)], Watched)
    perturbed, exact, _ = outputs[0]
    assert torch.equal(perturbed[:2], exact[:2])
    away = (perturbed - exact)[2:].abs()
    assert 0.1 < away.mean() < 0.4
    assert away.max() <= 2.0 / 16**0.5


def test_add_ons_tell_what_they_miss(tmp_path):
    class Silent(Flow):
        def __init__(self) -> None:
            super().__init__()
            self.told = False

    with pytest.raises(ConfigError, match="does not tell what it noises, which self_alignment needs"):
        train(tmp_path / "a", 1, [SelfAlignment(0, 2, width=16)], Silent)
    with pytest.raises(ConfigError, match="keeps no averaged weights"):
        train(tmp_path / "b", 1, [SelfAlignment(0, 2, width=16)], ema_decay=0.0)
    with pytest.raises(ConfigError, match="compile=false"):
        train(tmp_path / "c", 1, [aligned()], compile=True)
    train(tmp_path / "d", 2, [aligned()])
    with pytest.raises(ConfigError, match="add-ons were representation_alignment, now none"):
        train(tmp_path / "d", 3)
    with pytest.raises(ConfigError, match=r"no layer 'network\.labels'"):
        train(tmp_path / "e", 1, [ConditionPerturbation("network.labels")])


def test_add_ons_from_settings(tmp_path):
    given = ["add_ons.self_alignment.student=0", "add_ons.self_alignment.teacher=2"]
    given += ["add_ons.self_alignment.width=16", "add_ons.condition_perturbation.embedding=network.label"]
    config = load(TrainConfig, given)
    train(tmp_path / "settings", 2, add_ons=config.add_ons)
    train(tmp_path / "code", 2, [SelfAlignment(0, 2, width=16), ConditionPerturbation("network.label")])
    first, second = saved(tmp_path / "settings"), saved(tmp_path / "code")
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name])
    with pytest.raises(ConfigError, match="self_alignment"):
        load(TrainConfig, ["add_ons.self_alingment.student=1"])
    with pytest.raises(ConfigError, match=r"argument: 'teacher'.*its settings are student"):
        train(tmp_path / "bad", 1, add_ons={"self_alignment": {"student": 1}})


def test_alignment_of_a_convolutional_network_with_a_module_as_teacher(tmp_path):
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 4, 3, padding=1)])

        def forward(self, x_t, t, label=None):
            hidden = self.blocks[0](x_t).relu()
            return nn.functional.pixel_shuffle(self.blocks[1](hidden), 2)

    class Small(Flow):
        def __init__(self) -> None:
            super().__init__()
            self.network = Convolutions()

    class Frozen(nn.Module):
        def forward(self, batch):
            assert not self.training
            return nn.functional.avg_pool2d(batch[0], 4).expand(-1, 3, -1, -1)

    add_on = RepresentationAlignment(0, Frozen(), width=16, teacher_width=3, hidden=8)
    train(tmp_path, 3, [add_on], Small)
    assert len(column(tmp_path, "representation_alignment")) == 3
