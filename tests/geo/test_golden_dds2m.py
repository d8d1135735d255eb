"""Recorded runs of the published DDS2M code, one runner a kind; every setting comes from the case."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.inverse import (
    BicubicDownsampling,
    Factor,
    Identity,
    Inpainting,
    SpectralOperator,
    bicubic_kernel,
    ddrm_start,
    ddrm_transition,
)
from diffusion_suite.core.inverse.resampling import bicubic_matrix
from diffusion_suite.core.schedulers import DiscreteVP, betas
from diffusion_suite.core.testing.golden import Case, cases, dispatch
from diffusion_suite.geo.restoration.chain import (
    ChainConfig,
    ChainStep,
    Fit,
    noise_divergence,
    reverse_process,
    total_variation,
)
from diffusion_suite.geo.restoration.levels import Levels
from diffusion_suite.geo.restoration.network import VS2M, SpatialNetworks
from diffusion_suite.geo.restoration.published import from_published, published_names, spatial_keys


def height_and_width(case: Case) -> tuple[int, int]:
    size = case.config.get("image_size")
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    return case.config.get("height", height), case.config.get("width", width)


def channels_first(cube: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return cube.to(dtype or cube.dtype).permute(2, 0, 1)


def channels_last(cube: Tensor) -> Tensor:
    return cube.detach().permute(1, 2, 0)


def levels_of(case: Case) -> Levels:
    net = case.config["skip_net"]
    channels = [net["num_channels_" + part] for part in ("down", "up", "skip")]
    kernels = [net["filter_size_" + part] for part in ("down", "up")]
    return Levels(*(tuple(sizes) for sizes in (*channels, *kernels)))


def factors_of(tensors: dict[str, Tensor]) -> tuple[Factor | None, Factor | None]:
    """Recorded one-dimensional factors: `*_small` for both directions, or `_rows` and `_cols`."""
    pair = []
    for suffix in ("_rows", "_cols"):
        end = suffix if "U_small" + suffix in tensors else ""
        names = ("U_small" + end, "singulars_small" + end, "V_small" + end)
        pair.append(Factor(*(tensors[name] for name in names)) if names[0] in tensors else None)
    return pair[0], pair[1]


def operator_of(case: Case, dtype: torch.dtype = torch.float32) -> SpectralOperator:
    config, tensors = case.config, case.tensors
    height, width = height_and_width(case)
    bands = config.get("channels", config.get("bands"))
    name = config.get("op", config.get("deg"))
    operator: SpectralOperator
    if name == "denoising":
        operator = Identity(bands, height, width)
    elif name == "completion":
        operator = Inpainting(channels_first(tensors["mask_hwc"]))
    elif name.startswith("sisr"):
        rows, columns = factors_of(tensors)
        operator = BicubicDownsampling(config["factor"], height, width, bands, rows, columns, dtype)
    else:
        pytest.fail(f"unknown degradation {name!r}")
    return operator.to(dtype=dtype)


def network_of(case: Case, dtype: torch.dtype) -> VS2M:
    config, tensors = case.config, case.tensors
    levels, (height, width) = levels_of(case), height_and_width(case)
    network = VS2M(
        config["rank"],
        height,
        width,
        config["bands"],
        levels=levels,
        hidden=tuple(config["spectral_hidden"]),
        plane=tensors["M"][0, 0],
        spectrum=tensors["z"],
    )
    merged = from_published(case.weights, dict(network.named_parameters()), levels)
    network.load_state_dict(merged, strict=False)
    return network.to(dtype)


def run_operator(case: Case) -> None:
    operator, t = operator_of(case), case.tensors
    bounds = {name: case.config["tolerance"][name] for name in ("atol", "rtol")}
    padded = torch.nn.functional.pad(t["u"], (0, t["v"].shape[1] - t["u"].shape[1]))
    found = {
        "V_of_v": operator.V(t["v"]),
        "Vt_of_x": operator.Vt(t["x"]),
        "U_of_u": operator.U(t["u"]),
        "Ut_of_u": operator.Ut(t["u"]),
        "singulars": operator.singulars,
        "H_of_x": operator.flatten_data(operator.A(t["x"])),
        "Ht_of_u": operator.adjoint(operator.unflatten_data(t["u"])).flatten(1),
        "Hpinv_of_u": operator.pinv(operator.unflatten_data(t["u"])).flatten(1),
        "add_zeros_of_u": padded,
    }
    if "kernel" in t:
        found["kernel"] = bicubic_kernel(case.config["factor"]).float()
        found["H_small_effective"] = bicubic_matrix(case.config["factor"], operator.image_shape[1]).float()
    for name, value in found.items():
        assert_close(value, t[name], **bounds, msg=lambda text, name=name: f"{name}: {text}")
    if "kernel" in t and t["x"].shape[2] == t["x"].shape[3]:
        height, width = height_and_width(case)
        own = BicubicDownsampling(case.config["factor"], height, width, case.config["channels"])
        assert_close(own.flatten_data(own.A(t["x"])), t["H_of_x"], **bounds)
        assert_close(own.pinv(own.unflatten_data(t["u"])).flatten(1), t["Hpinv_of_u"], **bounds)


def run_schedule(case: Case) -> None:
    rtol = case.config["tolerance"]["rtol"]
    for kind, steps, start, end in case.config["cases"]:
        table = betas(kind, steps, start, end)
        assert_close(table.float(), case.tensors[f"betas.{kind}.{steps}"], rtol=rtol, atol=0)
        assert_close(
            DiscreteVP(table).alpha_bar.float(),
            case.tensors[f"alpha_bar.{kind}.{steps}"],
            rtol=rtol,
            atol=torch.finfo(torch.float32).tiny,
        )


def run_transition(case: Case) -> None:
    config, t = case.config, case.tensors
    operator = operator_of(case)
    bounds = {name: config["tolerance"][name] for name in ("atol", "rtol")}
    data = operator.data_to_spectral(operator.unflatten_data(t["y_0"]))
    first = config["steps"][0]["alpha_bar"]
    level, noise = ((1 - first) / first) ** 0.5, operator.arrange(t["x_init_noise"].flatten(1))
    assert_close(ddrm_start(operator, data, config["sigma_0"], level, noise), t["x_start"], **bounds)
    for index, step in enumerate(config["steps"]):
        now, after = step["alpha_bar"], step["alpha_bar_next"]
        clean, x_t = 2 * t[f"step{index}.x0_pred01"] - 1, t[f"step{index}.x_t"]
        found = ddrm_transition(
            operator,
            clean,
            (x_t - now**0.5 * clean) / (1 - now) ** 0.5,
            data,
            after**0.5,
            (1 - after) ** 0.5,
            config["sigma_0"],
            operator.arrange(t[f"step{index}.eps"]),
            config["eta"],
            config["etaB"],
            strict=True,
        )
        expected = t[f"step{index}.x_next"]
        scale = max(1.0, float(expected.abs().max()))
        assert_close(found / scale, expected / scale, **bounds, msg=lambda m, i=index: f"step {i}: {m}")


def hashed(name: str, shape: tuple[int, ...]) -> Tensor:
    """The deterministic weights of a parameter: a 64-bit hash of its name and of each element's place."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(zlib.crc32(name.encode())) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    u = 2.0 * (z >> np.uint64(40)).astype(np.float64) / 2**24 - 1.0
    if len(shape) > 1:
        u /= np.sqrt(np.prod(shape[1:]))
    else:
        u = 1.0 + 0.2 * u if name.endswith("weight") else 0.2 * u
    return torch.from_numpy(u.reshape(shape)).float()


def test_hashed_weights_begin_as_documented() -> None:
    expected = torch.tensor([0.13238183, 0.05377606, -0.03762341])
    assert_close(hashed("1.1.1.weight", (16, 1, 7, 7)).flatten()[:3], expected, rtol=0, atol=5e-9)


def run_spatial_network(case: Case) -> None:
    levels, t = levels_of(case), case.tensors
    network, keys = SpatialNetworks(1, levels, torch.Generator()), spatial_keys(levels)
    assert set(keys.values()) == set(case.config["param_order"])
    stored = (case.path / "weights.safetensors").exists()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            shape = tuple(parameter.shape[1:]) + ((1, 1) if name.endswith(("squeeze", "expand")) else ())
            value = case.weights[keys[name]] if stored else hashed(keys[name], shape)
            parameter.copy_(value.reshape(parameter.shape))
    out = network(t["M"])
    assert_close(out, t["out"][0], atol=2e-4, rtol=0)
    loss = out.square().mean()
    assert_close(loss.detach().reshape(1), t["loss_mean_square"], rtol=1e-3, atol=0)
    loss.backward()
    place = {key: index for index, key in enumerate(case.config["param_order"])}
    largest = t["grad_norms"].max()
    for name, parameter in network.named_parameters():
        found, expected = parameter.grad.norm(), t["grad_norms"][place[keys[name]]]
        module = name.split(".")[-2]
        if name.endswith("bias") and module in ("down", "second", "skip", "up", "mix"):
            assert max(found, expected) < 1e-4 * largest, f"{name} cancels in the normalisation that follows"
        elif expected > 1e-6 * largest:
            assert_close(found, expected, rtol=2e-2, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def run_vs2m_forward(case: Case) -> None:
    config, t = case.config, case.tensors
    network = network_of(case, torch.float32)
    images, spectra = network.factors()
    assert_close(images.transpose(1, 2).flatten(1).T, t["A"], atol=1e-4, rtol=0)
    assert_close(spectra, t["C"], atol=1e-4, rtol=0)
    cube = network()
    assert_close(channels_last(cube), t["E_hwc"], atol=1e-4, rtol=0)

    x_t, alpha_bar, clean = channels_first(t["x_t_hwc"]), t["at"][0], 2 * cube - 1
    terms = {
        "loss_mse": (alpha_bar.sqrt() * clean - x_t).square().mean(),
        "loss_tv": total_variation(clean),
        "loss_kl": noise_divergence(x_t, clean, alpha_bar),
    }
    terms["loss_total"] = terms["loss_mse"] + config["beta"] * terms["loss_tv"]
    for name, value in terms.items():
        assert_close(
            value.detach().reshape(1), t[name], rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )

    fit = Fit(network, ChainConfig(tv=config["beta"]))
    average, _, loss = fit.step(x_t, alpha_bar.sqrt(), channels_first(t["avg_prev_hwc"]))
    assert_close(loss.reshape(1), t["loss_total"], rtol=1e-4, atol=0)
    assert_close(channels_last(average), t["out_avg_hwc"], atol=1e-4, rtol=0)
    check_gradients(case, network)


def check_gradients(case: Case, network: VS2M) -> None:
    """Recorded gradients (of one rank); those that cancel in a normalisation only have to be as small."""
    levels, parameters = levels_of(case), dict(network.named_parameters())
    recorded = {
        key.removeprefix("grad."): value for key, value in case.tensors.items() if key.startswith("grad.")
    }
    assert recorded
    tables = [
        {
            key: name
            for name, key in published_names(levels, len(case.config["spectral_hidden"]) + 1, r).items()
        }
        for r in range(case.config["rank"])
    ]
    largest = max(float(value.abs().max()) for value in recorded.values())
    for key, expected in recorded.items():
        rank = int(key.split(".")[1])
        found = parameters[tables[rank][key]].grad[rank].reshape(expected.shape)
        bound = max(1e-2 * float(expected.abs().max()), 1e-6 * largest)
        assert_close(found, expected, rtol=0, atol=bound, msg=lambda m, key=key: f"{key}: {m}")


def run_trajectory(case: Case) -> None:
    for dtype, cube_bound, loss_bound in ((torch.float64, 1e-8, 1e-9), (torch.float32, 2e-2, 1e-3)):
        config, t = case.config, case.tensors
        fit = Fit(network_of(case, dtype), ChainConfig(learning_rate=config["lr"], tv=config["beta"]))
        average = torch.zeros_like(channels_first(t["x_t.0"], dtype))
        for k in range(config["K"]):
            x_t, scale = channels_first(t[f"x_t.{k}"], dtype), t["at"][k].sqrt().to(dtype)
            average, cube, loss = fit.step(x_t, scale, average)
            average = average.clamp(0, 1)
            assert_close(channels_last(cube).double(), t[f"E.{k}"].double(), atol=cube_bound, rtol=0)
            assert_close(channels_last(average).double(), t[f"x0.{k}"].double(), atol=cube_bound, rtol=0)
            assert_close(loss.double(), t["loss"][k].double(), rtol=loss_bound, atol=0)


def run_full_run(case: Case) -> None:
    config, t = case.config, case.tensors
    kind, start, end = config["beta_schedule"]
    settings = ChainConfig(
        steps=config["T"],
        visited=config.get("timesteps"),
        start=config["start_point"],
        eta=config["eta"],
        eta_b=config["etaB"],
        schedule=kind,
        beta_start=start,
        beta_end=end,
        learning_rate=config["lr"],
        inner=1 + config["extra_inner_iterations"],
        tv=config["beta"],
    )
    assert_close(betas(kind, settings.steps, start, end).float(), t["betas"], rtol=1e-5, atol=0)
    for dtype, cube_bound, loss_bound in ((torch.float64, 1e-6, 1e-7), (torch.float32, 3e-2, 1e-2)):
        operator = operator_of(case, dtype)
        noise = [
            operator.arrange(vector.to(dtype))
            for vector in (t["x_init_noise"].flatten(1), *t["eps"][:, None])
        ]
        y, seen = operator.unflatten_data(t["y_0"]).to(dtype), []

        def keep(step: ChainStep, seen: list[Tensor] = seen) -> None:
            if step.loss is not None:
                seen.append(step.estimate)

        network = network_of(case, dtype)
        restored, log = reverse_process(network, operator, y, config["sigma_0"], settings, noise, keep)
        assert_close(channels_last(restored).double(), t["final"].double(), atol=cube_bound, rtol=0)
        loss = torch.tensor(log["loss"], dtype=torch.float64)
        each = len(loss) // len(t["loss"])
        assert_close(loss[each - 1 :: each], t["loss"].double(), rtol=loss_bound, atol=0)
        every = torch.stack(seen[::5])
        assert_close(every.double(), t["x0_every"].double(), atol=cube_bound, rtol=0)


RUNNERS: dict[str, Callable[[Case], None]] = {
    "operator": run_operator,
    "schedule": run_schedule,
    "transition": run_transition,
    "spatial_network": run_spatial_network,
    "vs2m_forward": run_vs2m_forward,
    "trajectory": run_trajectory,
    "full_run": run_full_run,
}


@pytest.mark.parametrize("case", cases("dds2m"))
def test_golden(case: Case) -> None:
    dispatch(case, RUNNERS)
