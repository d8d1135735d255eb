"""Settings of the depth commands: one dataclass a command, each key with its help."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.training.config import TrainConfig

ALIGNMENTS = ("affine", "log_affine", "scale", "disparity", "none")
KINDS = ("depth", "relative", "log_depth", "disparity")
PROTOCOLS = ("nyu", "kitti", "eth3d", "scannet", "diode")
OUTPUTS = ("npy", "tiff", "png16", "color", "grey8", "log_depth", "normals", "points")


@dataclass
class NetworkKeys:
    """Which network predicts, and how; shared by predict and evaluate."""

    weights: str = opt(
        "starter", "weights: starter, a folder, a hub id, a last.ckpt of ours, or a published .ckpt"
    )
    autoencoder: str | None = opt(
        None,
        "folder or hub id of a diffusers autoencoder: a published .ckpt needs one; an AutoencoderTiny is "
        "faster and less exact; null = the one that comes with the weights",
    )
    steps: int = opt(2, "Euler steps of the flow", ge=1)
    members: int = opt(4, "results from different noise, averaged; their spread is the uncertainty", ge=1)
    resolution: int | None = opt(
        None,
        "longest side in pixels at which depth is predicted; 0 = the picture's own; null = the network's own",
        ge=0,
    )
    multiple: int | None = opt(
        None,
        "sides are rounded to multiples of this many pixels before predicting; 64 = as published; null = "
        "what the network takes without padding",
        ge=1,
    )
    window: int | None = opt(
        None,
        "longest side that the network sees at once; a larger resolution is predicted in windows that agree "
        "with the whole picture; null = the network's own",
        ge=32,
    )
    overlap: float = opt(
        0.25, "share of a window by which neighbouring windows overlap and are blended", ge=0, le=0.5
    )
    batch_size: int = opt(4, "pictures of one size that are predicted together", ge=1, hashed=False)
    seed: int = opt(0, "the same seed gives the same result", ge=0)
    device: str = opt("auto", "auto, cpu, cuda, cuda:1 or mps", hashed=False)
    precision: str = opt("auto", "arithmetic of the networks", choices=("auto", "32", "bf16", "16"))
    compile: bool = opt(
        False, "compile the networks: pays with many pictures of one size on a GPU", hashed=False
    )
    channels_last: bool = opt(
        True, "keep pictures channels-last in memory: faster on most GPUs", hashed=False
    )


@dataclass
class PredictConfig(NetworkKeys):
    """Settings of ``depth predict``."""

    outputs: list[str] = opt(
        ["npy", "png16", "color"],
        "files of each picture: npy and tiff (float32), png16, color and grey8 (8 bit, as published), "
        "log_depth (npy), normals (npy and png), points (ply)",
        choices=OUTPUTS,
    )
    uncertainty: bool = opt(
        True, "also write the spread of log-depth over the members, where there are several"
    )
    alignment: str = opt(
        "affine",
        "what relative depth is: affine = exp(y) from 0 to 1 as published, true up to scale and shift; "
        "log_affine = exp(y), whose logarithm is true up to scale and shift",
        choices=("affine", "log_affine"),
    )
    known: str | None = opt(
        None,
        "known depths that make the result metric: a map (.png, .tif, .npy; 0 or NaN = unknown), a table "
        "(.csv with columns x, y, depth), or a folder with one for each picture, of the same name",
    )
    known_unit: float | None = opt(
        None, "metres of one unit of known; null = 0.001 in files of whole numbers, 1 in others", gt=0
    )
    completion: bool = opt(
        False, "also bend the result so that it passes through the known depths (depth completion)"
    )
    near: float | None = opt(
        None, "with far: metres of the nearest parts of the picture; metric result", gt=0
    )
    far: float | None = opt(None, "with near: metres of the farthest parts of the picture", gt=0)
    focal: float | None = opt(
        None,
        "focal length in pixels of the picture, for points and normals; null = EXIF, else from fov",
        gt=0,
    )
    fov: float = opt(
        55.0,
        "field of view along the longest side in degrees, where the focal length is not known",
        gt=0,
        lt=180,
    )
    colormap: str = opt("Spectral", "matplotlib colour map of color; near is its first colour")
    video: list[str] = opt(
        ["color"],
        "files of each video: color (mp4), grey16 (lossless 16-bit mkv), frames (16-bit PNG)",
        choices=("color", "grey16", "frames"),
    )
    smoothing: float = opt(
        0.9,
        "share of a frame's scale and shift taken from the frames before it; 0 = each frame on its own",
        ge=0,
        lt=1,
    )
    overwrite: bool = opt(False, "replace outputs that exist", hashed=False)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.outputs:
            raise ConfigError("outputs is empty", "name at least one, such as outputs=[npy]", key="outputs")
        if not self.video:
            raise ConfigError("video is empty", "name at least one, such as video=[color]", key="video")
        if (self.near is None) != (self.far is None):
            missing = "near" if self.near is None else "far"
            raise ConfigError(f"{missing} is missing", "give both near and far, or drop both", key=missing)
        if self.near is not None and self.far is not None:
            if self.near >= self.far:
                raise ConfigError(
                    f"near={self.near} is not below far={self.far}", "give metres with near < far", key="near"
                )
            if self.known is not None:
                raise ConfigError(
                    "near and far do not go with known", "drop one: each makes the result metric", key="near"
                )
        if self.completion and self.known is None:
            raise ConfigError("completion=true needs known depths", "add known=FILE", key="completion")


@dataclass
class EvaluateConfig(NetworkKeys):
    """Settings of ``depth evaluate``."""

    predictions: str | None = opt(
        None, "folder of predicted maps that are measured instead of the network's, by the pictures' names"
    )
    kind: str = opt(
        "auto",
        "what the predicted maps hold: depth, relative (0 to 1), log_depth or disparity; auto = log_depth in "
        "files so named, relative in maps from 0 to 1, else depth",
        choices=("auto", *KINDS),
    )
    reference: str | None = opt(
        None,
        "folder of true depth maps of the pictures' names; null = beside each picture, as the folders have",
    )
    unit: float | None = opt(
        None,
        "metres of one unit of the true maps; null = as the data set says, else 0.001 in files of whole "
        "numbers, 1 in others",
        gt=0,
    )
    drawn: int = opt(0, "measure so many drawn pictures, whose depth is exact", ge=0)
    side: int = opt(128, "height and width of the drawn pictures in pixels", ge=32)
    alignments: list[str] = opt(
        ["affine", "log_affine"], "fits of the prediction to the truth, each measured", choices=ALIGNMENTS
    )
    protocol: str | None = opt(
        None, "range, crop and inference size of a data set; null = the whole picture", choices=PROTOCOLS
    )
    nearest: float | None = opt(
        None, "true depths up to this many metres are left out; null = the protocol's, else 0.001", ge=0
    )
    farthest: float | None = opt(
        None, "true depths from this many metres on are left out; null = the protocol's, else none", gt=0
    )
    lidar: int = opt(
        0,
        "measure only the pixels that a turning scanner of so many beams would meet, e.g. 64; 0 = all",
        ge=0,
    )
    more_steps: list[int] = opt([], "further numbers of steps to measure, e.g. [1,4]")
    repeats: int = opt(1, "runs with seeds seed, seed + 1, ...; with several, their deviation is told", ge=1)
    baseline: bool = opt(
        True, "also measure a ramp that rises from the bottom to the top, whatever the picture shows"
    )
    limit: int = opt(0, "measure the first so many pictures; 0 = all", ge=0)
    pictures: bool = opt(True, "also write a grid of input, truth, prediction and error", hashed=False)
    overwrite: bool = opt(False, "replace outputs that exist", hashed=False)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.alignments:
            raise ConfigError("alignments is empty", "name at least one, such as alignments=[affine]")
        if any(steps < 1 for steps in self.more_steps):
            raise ConfigError(f"more_steps={self.more_steps}", "give 1 or more", key="more_steps")
        if self.predictions is not None and (self.drawn or self.more_steps or self.repeats > 1):
            raise ConfigError(
                "predictions are maps that exist already", "drop drawn, more_steps and repeats", "predictions"
            )
        if self.drawn and self.protocol is not None:
            raise ConfigError("drawn pictures have no protocol", "drop one", key="protocol")


@dataclass
class ConvertConfig:
    """Settings of ``depth convert``."""

    autoencoder: str | None = opt(
        None, "folder of the diffusers autoencoder that goes with a published checkpoint"
    )
    precision: str = opt(
        "32", "in which a folder keeps the weights: 16 takes half the room", choices=("32", "16")
    )
    file_size: float | None = opt(
        None, "most megabytes of one file of a folder; null = all weights in one file", gt=0
    )
    overwrite: bool = opt(False, "replace the output if it exists", hashed=False)


@dataclass
class InfoConfig:
    """Settings of ``depth info``."""

    json: bool = opt(False, "print JSON instead of a table", hashed=False)


@dataclass
class TrainDepthConfig(TrainConfig):
    """Settings of ``depth train``; inputs are folders of pictures with depth."""

    drawn: int = opt(
        8000, "drawn pictures kept on disk and met again; 0 draws new ones in every step (for a GPU)", ge=0
    )
    shares: list[float] = opt(
        [],
        "how often drawn pictures, then those of each folder are met, e.g. [1,8,1]; 0 leaves them out; "
        "empty = all alike",
        ge=0,
    )
    validation: int = opt(96, "pictures to validate on", ge=0)
    validate_on: str | None = opt(None, "folder of pictures with depth to validate on; null = drawn pictures")
    side: int = opt(128, "height and width of training pictures in pixels", ge=32)
    drawn_side: int | None = opt(
        None,
        "height and width of the drawn pictures that are kept: random squares of them, shrunk to side, are "
        "trained on; null = side",
        ge=32,
    )
    factor: int = opt(4, "without an autoencoder, side of the squares of pixels that make one latent", ge=1)
    widths: list[int] = opt([64, 128, 192, 256], "channels of the network's levels, finest first")
    layers: int = opt(2, "residual blocks a level", ge=1)
    attention_from: int = opt(2, "level, from 0, from which on the blocks attend", ge=0)
    noising_step: int = opt(400, "noise of the flow's start, of 1000", ge=0, lt=1000)
    network_output: str = opt(
        "depth",
        "what the small network returns: velocity, as published, or the latent of depth, which a network "
        "trained from nothing learns faster",
        choices=("velocity", "depth"),
    )
    features: str | None = opt(
        None,
        "encoder of photographs whose maps the small network sees besides pixels; it is not trained, but "
        "kept with the weights; null = none",
        choices=("efficientnet-lite0",),
    )
    time_power: float = opt(
        1.0,
        "times of the flow are u ** time_power, u even from 0 to 1; 1 = as published, above 1 trains more on "
        "its start, where a result of few steps is decided",
        gt=0,
    )
    normals_weight: float = opt(0.0, "weight of the surface-normal loss", ge=0)
    normals_from: float = opt(
        0.5, "time from 0 to 1 of the flow from which on the surface-normal loss counts", ge=0, lt=1
    )
    base: str | None = opt(
        None,
        "image-diffusion network of diffusers to start from instead of the small one: folder or hub id of a "
        "pipeline such as Stable Diffusion 2.1, or of its UNet",
    )
    autoencoder: str | None = opt(
        None,
        "folder or hub id of an autoencoder: the network learns on its latents instead of on pixels; null = "
        "the one in base's folder, if base is given",
    )
    cache_latents: bool = opt(
        True,
        "with an autoencoder, keep the latents of pictures on disk: they are not cropped and recoloured anew",
    )
    gradient_checkpointing: bool = opt(False, "less memory for a third more time")

    def check(self) -> None:
        """Refuse settings that do not go together."""
        super().check()
        if self.shares and not any(self.shares):
            raise ConfigError("shares are all 0", "give one above 0, such as shares=[1,1]", key="shares")
        if self.autoencoder is not None and self.features is not None:
            raise ConfigError("features go with a network on pixels", "drop autoencoder", key="features")
        if self.drawn_side is not None and self.drawn_side < self.side:
            raise ConfigError(
                f"drawn_side={self.drawn_side} is below side={self.side}", "drop it", key="drawn_side"
            )
        if any(width % 16 for width in self.widths) or not self.widths:
            raise ConfigError(
                f"widths={self.widths}", "give multiples of 16 (of 32 where blocks attend)", key="widths"
            )
