"""Settings: one dataclass a command, filled layer by layer, every mistake one line that names its layer.

Example::

    @dataclass
    class Sampler:
        steps: int = opt(50, "number of network calls", ge=1)

    @dataclass
    class Predict:
        sampler: Sampler = opt(Sampler(), "how to sample")
        seed: int = opt(0, "seed of the noise")

    config = load(Predict, [Path("mine.yaml"), "sampler.steps=20"])

A layer is a YAML file (``Path``), an override (``"key=value"``, text taken verbatim) or a :class:`Layer`.
A schema, or a dataclass nested in it, may define ``check(self)`` (or ``__post_init__``) that raises
``ConfigError(problem, remedy, key="name")``; ``load`` adds the layer that set the key.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import hashlib
import json
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_suite.core import yaml_text
from diffusion_suite.core.config_schema import (
    REQUIRED,
    Row,
    check_value,
    fields_of,
    is_group,
    rows,
    setting_names,
    shown,
    suggest,
    type_text,
    without_none,
)
from diffusion_suite.core.errors import ConfigError

OVERRIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*)=(.*)", re.DOTALL)
T = TypeVar("T")


def opt(
    default: Any = REQUIRED,
    help: str = "",
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Collection[Any] | None = None,
    keys: Collection[str] | None = None,
    finite: bool = True,
    hashed: bool = True,
) -> Any:
    """Declare one setting of a schema.

    Args:
        default: Its default; ``REQUIRED`` makes the user give it. Lists, dicts and dataclasses are copied.
        help: One line for ``--help``.
        ge: Least value of a number, or of each number of a list.
        gt: Limit that a number must be above.
        le: Greatest value.
        lt: Limit that a number must be below.
        choices: Allowed values (of each element, for a list).
        keys: Allowed keys of a setting that is an open dict.
        finite: Refuse nan and infinity.
        hashed: False for a setting that does not change the result (``overwrite``, ``device``), so that
            ``config_hash`` leaves it out.
    """
    limits = {
        sign: value for sign, value in ((">=", ge), (">", gt), ("<=", le), ("<", lt)) if value is not None
    }
    metadata = {
        "help": help,
        "limits": limits,
        "choices": choices,
        "keys": keys,
        "finite": finite,
        "hashed": hashed,
    }
    if isinstance(default, (list, dict, set)) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Layer:
    """Settings that were set together.

    Attributes:
        name: What to call them in an error, e.g. ``"config 'paper'"``.
        values: Nested mapping of settings.
    """

    name: str
    values: Mapping[str, Any]


def load(schema: type[T], layers: Sequence[Layer | Path | str] = (), *, partial: bool = False) -> T:
    """Fill a schema with layers, later ones winning, and check it.

    Args:
        schema: A dataclass whose fields were declared with :func:`opt`.
        layers: YAML files, overrides ``"key=value"`` and :class:`Layer` records, in order.
        partial: Accept required settings that nobody gave (they stay ``REQUIRED``).

    Raises:
        ConfigError: One line that names the layer, the setting and, for a misspelt name, the nearest one.
    """
    config = OmegaConf.structured(schema)
    origin: dict[str, str] = {}
    for layer in layers:
        name, values = _read(layer, schema)
        for key, kind, value in _leaves(schema, values, name):
            _merge(config, key, kind, value, name)
            origin[key] = name
    missing: list[str] = []
    built = _build(schema, config, "", origin, missing)
    if missing and not partial:
        names = ", ".join(f"'{key}'" for key in missing)
        raise ConfigError(f"no value for {names}", "give " + " ".join(f"{key}=VALUE" for key in missing))
    return typing.cast(T, built)


def plain(config: Any) -> dict[str, Any]:
    """Return a filled schema as nested dicts, lists, text and numbers (an Enum by its name)."""

    def simple(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, Mapping):
            return {str(key): simple(item) for key, item in value.items()}
        return [simple(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {str(key): simple(value) for key, value in dataclasses.asdict(config).items()}


def to_yaml(config: Any) -> str:
    """Return YAML text that loads to the same settings again."""

    def escape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: escape(item) for key, item in value.items()}
        if isinstance(value, list):
            return [escape(item) for item in value]
        return _escape(value) if isinstance(value, str) else value

    return yaml_text.write(escape(plain(config)))


def config_hash(config: Any) -> str:
    """Return 12 hexadecimal digits that change when a setting that matters for the result changes."""

    def hashed(item: Any) -> dict[str, Any]:
        values = plain(item)
        for name, (_, field) in fields_of(type(item)).items():
            if not field.metadata.get("hashed", True):
                del values[name]
            elif dataclasses.is_dataclass(getattr(item, name)):
                values[name] = hashed(getattr(item, name))
        return values

    text = json.dumps(hashed(config), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def table(schema: type, config: Any | None = None) -> list[Row]:
    """Return the rows (key, type, default, help) of a schema, defaults as they stand in ``config``."""
    values = load(schema, partial=True) if config is None else config
    return list(rows(schema, values))


def _escape(text: str) -> str:
    """Protect ``${`` so that OmegaConf gives the text back as it is."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def _read(layer: Layer | Path | str, schema: type) -> tuple[str, Mapping[str, Any]]:
    if isinstance(layer, Layer):
        return layer.name, layer.values
    if isinstance(layer, Path):
        return f"file {layer}", yaml_text.read(read_file(layer), f"file {layer}", schema)
    name = f"override '{layer if len(layer) <= 80 else layer[:77] + '...'}'"
    match = OVERRIDE.fullmatch(layer)
    if match is None:
        raise ConfigError(f"{name}: not of the form key=value")
    key = match[1].replace("-", "_")
    value = _protect(yaml_text.read_value(match[2], kind_at(schema, key, name), name))
    for part in reversed(key.split(".")):
        value = {part: value}
    return name, value


def read_file(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: No such file, or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"file {path}: not a text file", "give a YAML file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"file {path}: cannot be read ({reason})", "give a YAML file") from error


def _protect(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _protect(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_protect(item) for item in value]
    return _escape(value) if isinstance(value, str) else value


def kind_at(schema: type, key: str, where: str) -> Any:
    """Return the type at a dotted key."""
    kind: Any = schema
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if is_group(kind):
            fields = fields_of(kind)
            if part not in fields:
                raise _unknown(schema, key, where)
            kind = without_none(fields[part][0])[0] if depth < len(parts) - 1 else fields[part][0]
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        elif kind is not Any:
            above = ".".join(parts[:depth])
            raise ConfigError(
                f"{where}: '{above}' holds one value and no '{part}'", f"give {above}=VALUE as a whole"
            )
    return kind


def _unknown(schema: type, key: str, where: str) -> ConfigError:
    return ConfigError(f"{where}: no setting '{key}'", suggest(key, list(setting_names(schema))))


def _leaves(schema: type, values: Any, where: str, above: str = "", top: type | None = None) -> Iterator[Any]:
    """Yield (dotted key, type, value) of each setting in a layer, refusing names that the schema lacks."""
    top = top or schema
    if not isinstance(values, Mapping):
        inner = ", ".join(f"{above}{name}" for name in setting_names(schema))
        raise ConfigError(f"{where}: '{above[:-1]}' is a group of settings", f"give one of {inner}")
    fields = fields_of(schema)
    for name, value in values.items():
        if name not in fields:
            raise _unknown(top, f"{above}{name}", where)
        kind, field = fields[name]
        if is_group(kind):
            yield from _leaves(kind, value, where, f"{above}{name}.", top)
            continue
        allowed = field.metadata.get("keys")
        unknown = (
            [str(key) for key in value if key not in allowed]
            if allowed and isinstance(value, Mapping)
            else []
        )
        if unknown:
            remedy = suggest(unknown[0], sorted(allowed or ()))
            raise ConfigError(f"{where}: no setting '{above}{name}.{unknown[0]}'", remedy)
        yield f"{above}{name}", (kind, field), value


def _merge(config: DictConfig, key: str, kind: Any, value: Any, where: str) -> None:
    try:
        if (
            without_none(kind[0])[0] is bool
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
        ):
            raise ValueError("a number is no truth value")
        OmegaConf.update(config, key, value, merge=True)
        if isinstance(value, (str, list, dict)) and "${" not in str(value).replace(r"\${", ""):
            OmegaConf.select(config, key)
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{where}: '{key}' takes {type_text(*kind)}, not {shown(value)}") from error


def _build(schema: type, config: DictConfig, above: str, origin: dict[str, str], missing: list[str]) -> Any:
    values: dict[str, Any] = {}
    for name, (kind, field) in fields_of(schema).items():
        key = f"{above}{name}"
        if is_group(kind):
            values[name] = _build(kind, config[name], f"{key}.", origin, missing)
            continue
        if OmegaConf.is_missing(config, name):
            missing.append(key)
            values[name] = REQUIRED
            continue
        where = origin.get(key, "default")
        try:
            value = config[name]
            values[name] = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
        except (OmegaConfBaseException, TypeError, ValueError, RecursionError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{where}: '{key}' cannot be resolved ({problem})") from error
        check_value(key, values[name], kind, field, where)
    try:
        built = schema(**values)
        if not missing and hasattr(built, "check"):
            built.check()
    except ConfigError as error:
        where = origin.get(f"{above}{error.key}", "") if error.key else ""
        raise ConfigError(
            f"{where}: {error.problem}" if where else error.problem, error.remedy, error.key
        ) from error
    return built
