"""The encoder of Moonshine tiny (English speech, 7.7 M weights) out of the file of its own runtime.

The file is a FlatBuffer of an ONNX graph whose matrices are unsigned 8-bit numbers with one scale and one
zero point each: weight = (number - zero) * scale, transposed.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_suite.core.errors import CheckpointError

IDENTIFIER = b"ORTM"
TYPES: dict[int, type[Any]] = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_}
MATRIX = re.compile(r"/(layers\.\d+)/(self_attn|mlp)/(\w+)/MatMul_quant")


class Table:
    """A table of a FlatBuffer: fields by number, those left out are None or empty.

    Args:
        data: the whole file.
        place: where the table starts.
    """

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        self.index = place - struct.unpack_from("<i", data, place)[0]

    def field(self, number: int) -> int | None:
        """Where a field lies."""
        entry = 4 + 2 * number
        if entry >= struct.unpack_from("<H", self.data, self.index)[0]:
            return None
        offset: int = struct.unpack_from("<H", self.data, self.index + entry)[0]
        return self.place + offset if offset else None

    def number(self, number: int) -> int:
        """A 32-bit integer; 0 when left out."""
        place = self.field(number)
        return 0 if place is None else int(struct.unpack_from("<i", self.data, place)[0])

    def table(self, number: int) -> Table:
        """An inner table."""
        place = self.field(number)
        if place is None:
            raise ValueError(f"field {number} is left out")
        return Table(self.data, self._target(place))

    def array(self, number: int, kind: type[Any]) -> np.ndarray[Any, Any]:
        """A vector of numbers."""
        place = self.field(number)
        if place is None:
            return np.empty(0, kind)
        start = self._target(place)
        return np.frombuffer(self.data, kind, self._length(start), start + 4)

    def text(self, number: int) -> str:
        """A string."""
        place = self.field(number)
        return "" if place is None else self._text(self._target(place))

    def texts(self, number: int) -> list[str]:
        """A vector of strings."""
        return [self._text(target) for target in self._targets(number)]

    def tables(self, number: int) -> list[Table]:
        """A vector of tables."""
        return [Table(self.data, target) for target in self._targets(number)]

    def _targets(self, number: int) -> list[int]:
        place = self.field(number)
        if place is None:
            return []
        start = self._target(place)
        return [self._target(start + 4 + 4 * index) for index in range(self._length(start))]

    def _target(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self.data, place)[0])

    def _length(self, start: int) -> int:
        return int(struct.unpack_from("<I", self.data, start)[0])

    def _text(self, start: int) -> str:
        return self.data[start + 4 : start + 4 + self._length(start)].decode()


def read_graph(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], list[tuple[str, list[str]]]]:
    """The constants of an ``.ort`` file by name, and of each node its name and its inputs.

    Raises:
        CheckpointError: when the file is missing, or no such file.
    """
    try:
        data = path.read_bytes()
        if data[4:8] != IDENTIFIER:
            raise ValueError("another format")
        graph = Table(data, struct.unpack_from("<I", data, 0)[0]).table(1).table(7)
        constants = {}
        for tensor in graph.tables(0):
            kind = TYPES.get(tensor.number(3))
            if kind is not None:
                values = tensor.array(4, np.uint8).view(kind)
                constants[tensor.text(0)] = values.reshape(tensor.array(2, np.int64).tolist())
        nodes = [(node.text(0), node.texts(8)) for node in graph.tables(2)]
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} cannot be read as a speech encoder ({error})", "reinstall its package"
        ) from error
    return constants, nodes


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Weights of the encoder by the names of ``transformers``' Moonshine encoder, float32.

    Raises:
        CheckpointError: when the file is missing or another.
    """
    constants, nodes = read_graph(path)
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for name, values in constants.items():
        if re.match(r"(conv\d|layers\.\d+|layer_norm)\.?", name) and values.dtype == np.float32:
            weights[name.removesuffix("_add_tensor")] = values
    for name, inputs in nodes:
        found = MATRIX.fullmatch(name)
        if found:
            quantised = next(i for i in inputs if i.startswith("onnx::MatMul") and i.endswith("_quantized"))
            stem = quantised.removesuffix("_quantized")
            numbers = constants[quantised].astype(np.float32) - constants[f"{stem}_zero_point"]
            weights[f"{'.'.join(found.groups())}.weight"] = (numbers * constants[f"{stem}_scale"]).T
        elif name in ("/groupnorm/Mul", "/groupnorm/Add"):
            end = "weight" if name.endswith("Mul") else "bias"
            weights[f"groupnorm.{end}"] = next(constants[i] for i in inputs if i in constants).reshape(-1)
    return {name: torch.tensor(np.ascontiguousarray(values)) for name, values in weights.items()}
