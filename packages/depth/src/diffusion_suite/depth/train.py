"""`diffusion-suite depth train`: DepthFM on drawn pictures and on pictures with depth of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import Dataset

from diffusion_suite.core.checkpoints import Card, load_weights
from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import seeded
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.depth.autoencoders import load_autoencoder, scale_of, settings
from diffusion_suite.depth.config import TrainDepthConfig
from diffusion_suite.depth.data import FreshScenes, KeptPictures
from diffusion_suite.depth.latents import KeptLatents
from diffusion_suite.depth.mixture import FolderPictures, Mixture, together
from diffusion_suite.depth.module import DepthModule
from diffusion_suite.depth.network import SCALE
from diffusion_suite.depth.pairs import Pair, pairs_in

if TYPE_CHECKING:
    from diffusion_suite.depth.network import OutputKind


def run(request: Request) -> None:
    """Train, or go on training; the run folder ends with `last.ckpt` and the network in `export/`."""
    config: TrainDepthConfig = request.config
    folder = Path(request.output or "runs/depth")
    with seeded(config.seed, "weights"):
        module = make_module(config)
    checkpoint = fit(module, data_module(config, folder, request.inputs, module), config, folder)
    export = module.model.save_pretrained(folder / "export", _card(config, request.inputs))
    say(f"{checkpoint} holds the run, {export} the network: predict with weights={export}")


def make_module(config: TrainDepthConfig) -> DepthModule:
    """The module with the small network, or with an image-diffusion network that was widened.

    Raises:
        CheckpointError: `base` or `autoencoder` names nothing usable.
        ConfigError: the side of the pictures does not go with the network.
    """
    shared: dict[str, Any] = {
        "side": config.side,
        "time_power": config.time_power,
        "normals_weight": config.normals_weight,
        "normals_from": config.normals_from,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    module = _small(config, shared) if config.base is None else _widened(config, shared)
    multiple = module.model.multiple
    if config.side % multiple:
        raise ConfigError(
            f"side={config.side} is no multiple of the network's {multiple}",
            f"give side={max(1, round(config.side / multiple)) * multiple}",
            key="side",
        )
    return module


def _small(config: TrainDepthConfig, shared: dict[str, Any]) -> DepthModule:
    """The small network with random weights, on pixels or on the latents of an autoencoder."""
    autoencoder = None if config.autoencoder is None else load_autoencoder(config.autoencoder)
    module = DepthModule(
        config.widths,
        config.layers,
        config.attention_from,
        config.factor if autoencoder is None else 0,
        config.noising_step,
        cast("OutputKind", config.network_output),
        features=None if config.features is None else {},
        autoencoder=None if autoencoder is None else settings(autoencoder),
        scale_factor=SCALE if autoencoder is None else scale_of(autoencoder),
        **shared,
    )
    if autoencoder is not None:
        module.model.attach_autoencoder(autoencoder)
    if module.model.features is not None and config.init is None:
        module.model.features.load_packaged()
    return module


def _widened(config: TrainDepthConfig, shared: dict[str, Any]) -> DepthModule:
    """An image-diffusion network that also sees the picture's latent."""
    from diffusion_suite.depth.image_diffusion import from_image_diffusion

    assert config.base is not None
    start = from_image_diffusion(
        config.base,
        autoencoder=config.autoencoder,
        noising_step=config.noising_step,
        resolution=config.side,
    )
    module = DepthModule(network=start.config, **shared)
    load_weights(module.model, start.state_dict(), config.base)
    return module


def data_module(
    config: TrainDepthConfig, folder: Path, inputs: Sequence[str], module: DepthModule
) -> SuiteDataModule:
    """Drawn pictures (kept in the run folder, or drawn in every step) and those of folders, by shares."""
    cache = folder / "drawn"
    latent = config.cache_latents and not module.model.config["factor"]

    def prepared(pictures: FolderPictures | KeptPictures, identity: Sequence[Any]) -> Dataset[Any]:
        if not latent:
            return pictures
        return KeptLatents(
            folder / "latents", pictures, module.model, config.seed, (*identity, config.side), _device(config)
        )

    def drawn() -> Dataset[Any]:
        if not config.drawn:
            return FreshScenes(config.seed)
        kept = KeptPictures(
            cache, config.drawn, config.side, config.seed, changed=not latent, drawn_side=config.drawn_side
        )
        return prepared(kept, ("drawn", config.drawn, config.seed))

    def of_folder(name: str) -> Dataset[Any]:
        pairs = pairs_in(name)
        pictures = FolderPictures(pairs, config.side, config.seed, changed=not latent)
        return prepared(pictures, [_identity(pair) for pair in pairs])

    shares = config.shares or [1.0] * (1 + len(inputs))
    if len(shares) != 1 + len(inputs):
        raise ConfigError(
            f"{len(shares)} shares for drawn pictures and {len(inputs)} folders",
            "give one for drawn pictures, then one for each folder",
            key="shares",
        )
    used = [place for place, share in enumerate(shares) if share]
    parts = [of_folder(inputs[place - 1]) if place else drawn() for place in used]
    weights = [shares[place] for place in used]
    dataset = Mixture(parts, weights, config.seed) if len(parts) > 1 else parts[0]
    return SuiteDataModule(dataset, _validation(config, cache), config, collate=together)


def _validation(config: TrainDepthConfig, cache: Path) -> Dataset[Any] | None:
    if not config.validation:
        return None
    if config.validate_on is not None:
        pairs = pairs_in(config.validate_on, split="val")[: config.validation]
        return FolderPictures(pairs, config.side, config.seed, changed=False)
    return KeptPictures(
        cache, config.validation, config.side, config.seed + 1, changed=False, drawn_side=config.drawn_side
    )


def _identity(pair: Pair) -> tuple[Any, ...]:
    return (pair.picture.resolve(), pair.truth.stat().st_mtime_ns, pair.picture.stat().st_mtime_ns, pair.unit)


def _device(config: TrainDepthConfig) -> str:
    return "cpu" if config.trainer.get("accelerator") == "cpu" else "auto"


def _limits(config: TrainDepthConfig, inputs: Sequence[str]) -> list[str]:
    limits = ["Depth is relative: true up to scale and shift."]
    if config.base is None and not inputs:
        seen = "" if config.features is None else f", but for those that {config.features} was trained on"
        limits.append(f"Has seen no photograph in training{seen}.")
    return limits


def _card(config: TrainDepthConfig, inputs: Sequence[str]) -> Card:
    sources = ["Drawn pictures"] if not config.shares or config.shares[0] else []
    sources += [Path(name).name for name in inputs]
    small = config.base is None
    return Card(
        title="DepthFM, small" if small else "DepthFM",
        summary=f"Relative depth from one picture by flow matching on {'pixels' if small else 'latents'}.",
        data=f"{', '.join(sources)}; {config.steps} steps of {config.batch_size}, {config.side} pixels a "
        "side.",
        command="diffusion-suite depth train -c starter -o runs/depth",
        limits=_limits(config, inputs),
        tags=["depth-estimation", "flow-matching"],
    )
