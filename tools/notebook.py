"""Run a notebook without Jupyter, and keep what it shows: python tools/notebook.py notebooks/geo.ipynb."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from types import CodeType
from typing import Any


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that hold code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(path: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells; they run in the current folder, in one namespace.

    An output is what a cell prints, the value of its last expression, and its figures as PNG.
    """
    import matplotlib

    matplotlib.use("agg")
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell["outputs"], cell["execution_count"] = _outputs("".join(cell["source"]), names, count), count
    return notebook


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    from matplotlib import pyplot

    body = ast.parse(source).body
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    body = body[:-1] if last else body
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(_compiled(ast.Module(body, []), f"cell {count}"), names)
        value = eval(_compiled(ast.Expression(last), f"cell {count}"), names) if last else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        result = {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}
        outputs.append(result)
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, dpi=72, bbox_inches="tight")
        picture = base64.b64encode(file.getvalue()).decode()
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {"image/png": picture}})
    pyplot.close("all")
    return outputs


def _compiled(tree: ast.Module | ast.Expression, name: str) -> CodeType:
    kind = "exec" if isinstance(tree, ast.Module) else "eval"
    code: CodeType = compile(tree, name, kind, dont_inherit=True)
    return code


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Run each notebook that is named in a folder of its own, and write it back with its outputs."""
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            notebook = run(path)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{os.path.relpath(path)}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
