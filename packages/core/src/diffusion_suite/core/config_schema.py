"""What a schema says about itself: fields, types as a user reads them, names near a misspelt one."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from diffusion_suite.core.errors import ConfigError

REQUIRED: Any = "???"


@dataclass(frozen=True)
class Row:
    """One line of the table of settings; ``default`` is written as YAML."""

    key: str
    type: str
    default: str
    help: str


def without_none(kind: Any) -> tuple[Any, bool]:
    """Return ``(T, True)`` for ``T | None`` and ``(kind, False)`` otherwise."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        optional = len(members) < len(typing.get_args(kind))
        return (members[0] if len(members) == 1 else typing.Union[tuple(members)]), optional  # noqa: UP007
    return kind, False


def is_text(kind: Any) -> bool:
    """Whether a value of this type (None aside) is written as text: str, Enum, Literal of strings."""
    kind, _ = without_none(kind)
    if typing.get_origin(kind) is typing.Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(kind))
    return isinstance(kind, type) and issubclass(kind, (str, enum.Enum))


def is_group(kind: Any) -> TypeGuard[type]:
    """Whether a type is a schema nested in another."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def fields_of(schema: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Return ``{name: (type, field)}`` of a dataclass, annotations resolved."""
    hints = typing.get_type_hints(schema)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(schema)}


def setting_names(schema: type) -> Iterator[str]:
    """Yield the dotted name of each setting of a schema."""
    for name, (kind, _) in fields_of(schema).items():
        if is_group(kind):
            yield from (f"{name}.{inner}" for inner in setting_names(kind))
        else:
            yield name


def suggest(word: str, known: Collection[str]) -> str:
    """Return a remedy that offers the nearest known words (full dotted names or their last part)."""

    def folded(name: str) -> str:
        return name.lower().replace("-", "_")

    def likeness(name: str) -> float:
        parts = (folded(name), folded(name.rpartition(".")[2]))
        return max(difflib.SequenceMatcher(None, folded(word), part).ratio() for part in parts)

    ranked = sorted(known, key=likeness, reverse=True)[:2]
    close = [name for name in ranked if likeness(name) > max(0.6, likeness(ranked[0]) - 0.1)]
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return "choose from " + ", ".join(known) if 0 < len(known) <= 12 else "--help lists the settings"


def type_text(kind: Any, field: dataclasses.Field[Any] | None = None) -> str:
    """Return a type as a user reads it: ``int >= 1``, ``auto | cpu``, ``list of float or null``."""
    bare, optional = without_none(kind)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    metadata = field.metadata if field is not None else {}
    if metadata.get("choices") is not None and not is_text(bare):
        text = f"{type_text(bare)} of {' | '.join(str(choice) for choice in metadata['choices'])}"
    elif metadata.get("choices") is not None:
        text = " | ".join(str(choice) for choice in metadata["choices"])
    elif origin is typing.Literal:
        text = " | ".join(str(choice) for choice in arguments)
    elif origin is typing.Union:
        text = " or ".join(type_text(member) for member in arguments)
    elif origin is list:
        text = f"list of {type_text(arguments[0])}"
    elif isinstance(bare, type) and issubclass(bare, enum.Enum):
        text = " | ".join(member.name for member in bare)
    else:
        names = {str: "text", bool: "true | false", Any: "value"}
        text = (
            "mapping"
            if origin is dict or bare is dict
            else names.get(bare, getattr(bare, "__name__", str(bare)))
        )
    limits = [f"{sign} {limit:g}" for sign, limit in metadata.get("limits", {}).items()]
    text += f" {' and '.join(limits)}" if limits else ""
    return f"{text} or null" if optional else text


def rows(schema: type, config: Any, above: str = "") -> Iterator[Row]:
    """Yield a row for each setting, groups by their dotted keys, defaults as they stand in ``config``."""
    for name, (kind, field) in fields_of(schema).items():
        value = getattr(config, name)
        if is_group(kind):
            yield from rows(kind, value, f"{above}{name}.")
            continue
        shown = "required" if value == REQUIRED else _yaml_inline(value)
        yield Row(f"{above}{name}", type_text(kind, field), shown, field.metadata.get("help", ""))


def _yaml_inline(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str, ensure_ascii=False).replace('"', "")
    return str(value) if value != "" else "''"


def shown(value: Any) -> str:
    """Return a value as an error message shows it."""
    text = "null" if value is None else repr(value).replace(r"\\${", "${")
    return text if len(text) <= 60 else text[:57] + "..."


_COMPARE = {
    ">=": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
    "<=": lambda value, limit: value <= limit,
    "<": lambda value, limit: value < limit,
}


def check_value(key: str, value: Any, kind: Any, field: dataclasses.Field[Any], where: str) -> None:
    """Refuse a value outside the range or the choices of its field; ``where`` names the layer that set it."""
    if value is None:
        return
    for item in value if isinstance(value, list) else [value]:
        number = isinstance(item, (int, float)) and not isinstance(item, bool)
        good = not (
            isinstance(item, float) and field.metadata.get("finite", True) and not math.isfinite(item)
        )
        if number and good:
            limits = field.metadata.get("limits", {})
            good = all(_COMPARE[sign](item, limit) for sign, limit in limits.items())
        choices = field.metadata.get("choices")
        if good and choices is not None and item not in choices:
            remedy = suggest(str(item), [str(choice) for choice in choices])
            raise ConfigError(f"{where}: '{key}' cannot be {shown(item)}", remedy)
        if number and without_none(kind)[0] is int:
            good = good and -(2**63) <= item < 2**63
        if not good:
            raise ConfigError(f"{where}: '{key}' takes {type_text(kind, field)}, not {shown(item)}")
