"""YAML as settings need it: text stays text, numbers are numbers, and a mistake is one line.

The reader follows YAML 1.2 for plain scalars (``1e-4`` is a number; ``010``, ``on``, ``12:30`` and dates are
what they look like), and takes a scalar verbatim wherever the schema wants a string, so that file names
survive.
"""

from __future__ import annotations

import re
import typing
from typing import Any

import yaml

from diffusion_suite.core.config_schema import fields_of, is_group, is_text, without_none
from diffusion_suite.core.errors import ConfigError

_STR, _INT, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "null"))
_FLOAT_TEXT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_RESOLVERS = {
    _NULL: (re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    _INT: (re.compile(r"([-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+)\Z"), list("-+0123456789")),
    _FLOAT: (re.compile(rf"({_FLOAT_TEXT.pattern})\Z"), list("-+0123456789.")),
    "tag:yaml.org,2002:merge": (re.compile(r"<<\Z"), ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 0) if text[:2].lower() in ("0x", "0o") else int(text)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor(_INT, _construct_int)
_Loader.add_constructor(_FLOAT, _construct_float)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either dialect, YAML 1.1 or the reader's, would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Line breaks of other alphabets survive in double quotes alone."""
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_STR, text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def read(text: str, where: str, schema: type | None = None, section: str = "") -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        text: The YAML text; empty text is an empty mapping.
        where: What to call it in an error, e.g. ``"file my.yaml"``.
        schema: Dataclass whose string fields take scalars verbatim; None reads without types.
        section: Key under which the schema's settings may stand too.

    Raises:
        ConfigError: Not YAML, or not a mapping with text keys.
    """
    value = _parse(text, where, schema, section)
    value = {} if value is None else value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: not a mapping of settings", "write lines of the form key: value")
    return value


def read_value(text: str, kind: Any, where: str) -> Any:
    """Read the right side of ``key=value`` as the type ``kind`` wants it.

    Text is taken verbatim (``null`` is None where None is allowed); a list may leave its brackets out.
    """
    bare, optional = without_none(kind)
    if is_text(kind):
        return None if optional and text == "null" else text
    if (
        typing.get_origin(bare) is list
        and not text.lstrip().startswith("[")
        and not (optional and text == "null")
    ):
        text = f"[{text}]"
    value = _parse(text, where, kind, "")
    return text if isinstance(value, str) and not text.lstrip().startswith(("'", '"')) else value


def write(values: dict[str, Any]) -> str:
    """Return YAML text that :func:`read` takes back to the same values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _parse(text: str, where: str, kind: Any, section: str) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if kind is not None:
            _retag(node, kind, section, set())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ConfigError(
            f"{where}: not valid YAML{line} ({problem})", "quote text with special characters"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML ({error})") from error


def _retag(node: yaml.Node, kind: Any, section: str, seen: set[int]) -> None:
    """Mark the scalars of a parsed tree with the type that the schema wants, before they are built."""
    if id(node) in seen and not isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    bare, _ = without_none(kind)
    if isinstance(node, yaml.ScalarNode):
        if is_text(bare) and node.style is None and node.tag != _NULL and node.tag.startswith(_STR[:-3]):
            node.tag = _STR
        elif (
            bare is int
            and node.tag == _FLOAT
            and node.value[-1:].isdigit()
            and float(node.value).is_integer()
        ):
            node.tag, node.value = _INT, str(int(float(node.value)))
    elif isinstance(node, yaml.SequenceNode) and typing.get_origin(bare) is list:
        for child in node.value:
            _retag(child, typing.get_args(bare)[0], "", seen)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            _retag(child, _kind_at(bare, str(key.value), section), "", seen)


def _kind_at(kind: Any, key: str, section: str) -> Any:
    if is_group(kind):
        if key in ("<<", section):
            return kind
        return fields_of(kind).get(key, (Any, None))[0]
    arguments = typing.get_args(kind)
    return arguments[1] if typing.get_origin(kind) is dict and len(arguments) == 2 else Any
