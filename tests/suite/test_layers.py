"""Who may import and define what: arrows point down, shared methods are written once, help stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("packages/*/src/diffusion_suite/*/**/*.py"))


def package(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


DOMAINS = sorted({package(path) for path in FILES} - {"core"})
TORCH_ROOMS = {"schedulers", "inverse", "windows", "checkpoints", "guidance", "flow_matching", "testing"}
LIGHT = [
    path
    for path in FILES
    if path.name in ("__init__.py", "domain.py", "config.py")
    and not (package(path) == "core" and path.name == "__init__.py" and path.parent.name in TORCH_ROOMS)
]
HEAVY = {
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "numpy",
    "scipy",
    "skimage",
    "rasterio",
    "matplotlib",
}
OF_DOMAINS = [path for path in FILES if package(path) != "core"]
OWN_RANDOMNESS = {
    "manual_seed",
    "manual_seed_all",
    "seed_everything",
    "default_rng",
    "RandomState",
    "set_rng_state",
}
OWN_CHECKPOINTS = {
    "torch.save",
    "torch.load",
    "save_file",
    "load_file",
    "safe_open",
    "pickle.load",
    "pickle.dump",
}
OWN_METHODS = {
    "EMA": {"ema", "averagedmodel", "exponentialmovingaverage", "update_ema"},
    "schedule": {"betas", "beta_schedule", "make_beta_schedule", "alphas_cumprod", "alpha_bar", "cumprod"},
    "guidance": {"classifier_free_guidance", "cfg", "guided_model"},
    "sampler loop": {"p_sample_loop", "ddim_sample", "sample_loop", "ancestral_sample", "euler_step"},
    "windows": {"plan_windows", "blend", "blend_windows", "feather", "hann_window", "unfold_windows"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "packages"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported when the file is)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _type_checking(outer)
        for node in ast.walk(outer)
    }
    here = ["diffusion_suite", *path.relative_to(ROOT).parts[4:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            yield module, id(node) not in inside
            yield from ((f"{module}.{alias.name}", id(node) not in inside) for alias in node.names)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20
    assert DOMAINS


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = package(path)
    foreign = {name for name in DOMAINS if name != own}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    paths = {text.partition(":")[0] for text in texts if text.startswith("diffusion_suite.")}
    names = {name for name, _ in imports(path)} | paths
    modules = {name.split(".")[1] for name in names if name.startswith("diffusion_suite.")}
    assert not modules & foreign, f"{name_of(path)} reaches into {sorted(modules & foreign)}"


@pytest.mark.parametrize("path", OF_DOMAINS, ids=name_of)
def test_a_domain_writes_no_shared_method(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            last = name.rpartition(".")[2]
            if last in OWN_RANDOMNESS or name.startswith(("np.random.", "numpy.random.", "random.")):
                found.append(f"line {node.lineno}: seeding by {name}; use core.seeding")
            if name in ("torch.Generator", "Generator"):
                found.append(f"line {node.lineno}: {name}(); use core.seeding.generator")
            if name in OWN_CHECKPOINTS or last in OWN_CHECKPOINTS:
                found.append(f"line {node.lineno}: {name}; use core.checkpoints")
            if last == "load_state_dict" and path.name != "published.py":
                found.append(f"line {node.lineno}: {name}; use core.checkpoints")
            if last == "cumprod":
                found.append(f"line {node.lineno}: {name}; schedules live in core.schedulers")
        if isinstance(node, ast.FunctionDef):
            called = {
                dotted(call.func).rpartition(".")[2] for call in ast.walk(node) if isinstance(call, ast.Call)
            }
            if called & {"lerp", "lerp_", "_foreach_lerp_"} and called & {"parameters", "state_dict"}:
                found.append(f"line {node.lineno}: {node.name} averages weights; EMA lives in core.training")
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for method, names in OWN_METHODS.items():
                if node.name.lower().lstrip("_") in names:
                    found.append(f"line {node.lineno}: defines {node.name}; {method} lives in core")
    assert not found, f"{name_of(path)}: " + "; ".join(found)


@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_light_files_import_nothing_heavy(path: Path) -> None:
    wrong = {module for module, early in imports(path) if early and module.split(".")[0] in HEAVY}
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)} when it is imported"


def test_no_file_takes_the_namespace() -> None:
    assert not list(ROOT.glob("packages/*/src/diffusion_suite/__init__.py"))


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "convert", "info"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_help_imports_no_torch(domain: str, command: str) -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from diffusion_suite.core.cli import main\n"
        f"code = main(['{domain}', '{command}', '--help'])\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "print(sorted(heavy), round(time.process_time(), 2), file=sys.stderr)\n"
        "sys.exit(code or len(heavy) > 0 or time.process_time() > 0.5)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: diffusion-suite" in done.stdout
