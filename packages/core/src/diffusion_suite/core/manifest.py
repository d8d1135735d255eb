"""``manifest.jsonl``: one line for each finished output, by which a second run knows what to skip."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Manifest:
    """The record of a predict run, one JSON object a line, appended and flushed as each output is finished.

    Each line has ``input``, ``output``, ``seed``, ``config_hash``, ``seconds`` and what a system adds.
    Outputs inside the manifest's folder are written relative to it, so that the folder may be moved.

    Args:
        path: the file; made at the first entry.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(
        self,
        *,
        input: str | Path,
        output: str | Path,
        seed: int,
        config_hash: str,
        seconds: float,
        **more: Any,
    ) -> None:
        """Add the entry of one finished output.

        Args:
            input: the file that was read.
            output: the file that was written.
            seed: the seed of the run.
            config_hash: hash of the settings that matter for the result.
            seconds: time that it took.
            more: further values that JSON can hold.
        """
        entry = {
            "input": _name(input),
            "output": self._relative(output),
            "seed": seed,
            "config_hash": config_hash,
            "seconds": round(seconds, 3),
            **more,
        }
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_with_newline():
                line = "\n" + line
            file.write(line.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> Iterator[dict[str, Any]]:
        """The entries in order; a line cut short by a kill is passed over."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="surrogatepass").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(entry, dict):
                yield entry

    def finished(self, input: str | Path, config_hash: str) -> Path | None:
        """The output of an earlier run for this input and these settings, if it is still there.

        An input that was changed after its output was written counts as not finished.
        """
        name = _name(input)
        found = None
        for entry in self.entries():
            if entry.get("input") == name and entry.get("config_hash") == config_hash:
                found = self.path.parent / str(entry.get("output"))
        if found is None or not found.exists():
            return None
        source = Path(input)
        if source.exists() and source.stat().st_mtime > found.stat().st_mtime:
            return None
        return found

    def _relative(self, output: str | Path) -> str:
        target = Path(output).absolute()
        folder = self.path.parent.absolute()
        return target.relative_to(folder).as_posix() if target.is_relative_to(folder) else str(target)

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _name(path: str | Path) -> str:
    return str(Path(path).absolute())
