"""The distributions: what the wheels hold, what they ask for, and that they run from wheels alone."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.version import Version

from diffusion_suite.core import __version__

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"": ROOT} | {
    path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
MODULES = {
    "pyyaml": "yaml",
    "huggingface-hub": "huggingface_hub",
    "typing-extensions": "typing_extensions",
    "scikit-image": "skimage",
    "pywavelets": "pywt",
    "pillow": "PIL",
}
CONFIGS = {name: tomllib.loads((place / "pyproject.toml").read_text()) for name, place in PLACES.items()}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every distribution as a wheel, built as a release is (not through pip)."""
    folder = tmp_path_factory.mktemp("dist")
    return {name: Path(next(WheelBuilder(str(place)).build(directory=str(folder), versions=["standard"])))
            for name, place in PLACES.items()}  # fmt: skip


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_one_version_everywhere(wheels: dict[str, Path]) -> None:
    assert {metadata(wheel)["Version"] for wheel in wheels.values()} == {__version__}
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_wheel_takes_the_namespace(wheels: dict[str, Path]) -> None:
    assert files(wheels[""]) == set()
    assert not any("diffusion_suite/__init__.py" in files(wheel) for wheel in wheels.values())
    held = [name for wheel in wheels.values() for name in files(wheel)]
    assert len(held) == len(set(held))


def test_every_source_file_is_in_its_wheel(wheels: dict[str, Path]) -> None:
    for name, place in PLACES.items():
        if name:
            source = place / "src"
            paths = {
                path
                for path in (source / "diffusion_suite").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
            }
            assert {str(path.relative_to(source)) for path in paths} == files(wheels[name])
            assert f"diffusion_suite/{name}/py.typed" in files(wheels[name])


def test_wheels_are_small(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            assert max((item.file_size for item in archive.infolist()), default=0) <= 16 * 2**20


def test_metadata_is_fit_to_publish(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        facts = metadata(wheel)
        assert "file:" not in str(facts)
        assert facts["License-Expression"] == "Apache-2.0"
        for text in facts.get_all("Requires-Dist") or []:
            requirement = Requirement(text)
            if requirement.name.startswith("diffusion-suite-"):
                assert requirement.specifier.contains(Version(__version__)), text
                assert requirement.name.removeprefix("diffusion-suite-") in PLACES


def test_every_package_is_an_extra_and_the_rest_say_so() -> None:
    extras = CONFIGS[""]["project"]["optional-dependencies"]
    domains = set(PLACES) - {"", "core"}
    assert domains <= set(extras)
    assert set(re.findall(r"\w+", extras["all"][0].partition("[")[2])) == domains | {"core"}
    for name in domains:
        assert CONFIGS[name]["project"]["entry-points"]["diffusion_suite.domains"] == {
            name: f"diffusion_suite.{name}.domain:DOMAIN"
        }


def test_checkout_settings_name_every_package() -> None:
    tool = CONFIGS[""]["tool"]
    sources = {f"packages/{name}/src" for name in PLACES if name}
    assert set(tool["pytest"]["ini_options"]["pythonpath"]) == sources
    assert set(tool["mypy"]["mypy_path"]) == sources
    assert set(tool["ruff"]["namespace-packages"]) == {f"{source}/diffusion_suite" for source in sources}
    assert set(tool["uv"]["sources"]) == {
        "diffusion-suite",
        *(f"diffusion-suite-{name}" for name in PLACES if name),
    }


@pytest.mark.parametrize("name", PLACES)
def test_every_bound_has_its_reason(name: str) -> None:
    """A line of dependencies stands below a comment, or below another line that shares one."""
    lines = (PLACES[name] / "pyproject.toml").read_text().splitlines()
    bounds = [number for number, line in enumerate(lines) if re.search(r"[\w\]][~><=]=\d", line)]
    assert bounds
    for number in bounds:
        above = number - 1
        while above in bounds or lines[above].rstrip().endswith("["):
            above -= 1
        assert lines[above].lstrip().startswith("#"), (
            f"{name or 'root'}: no reason for {lines[number].strip()}"
        )


@pytest.mark.parametrize("name", [name for name in PLACES if name])
def test_every_import_is_asked_for(name: str) -> None:
    """A package asks for what it imports, or has it from core; optional packages stand in its extras."""
    project = CONFIGS[name]["project"]
    core = CONFIGS["core"]["project"]
    asked = [*project["dependencies"], *core["dependencies"]]
    asked += [text for extra in project.get("optional-dependencies", {}).values() for text in extra]
    modules = {MODULES.get(module, module) for module in (Requirement(text).name.lower() for text in asked)}
    imported: set[str] = set()
    for path in PLACES[name].glob("src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    private = {module for module in imported if module.startswith("_") and module[1:] in modules}
    assert imported - set(sys.stdlib_module_names) - private - {"diffusion_suite"} <= modules
    used = {
        MODULES.get(module, module)
        for module in (Requirement(t).name.lower() for t in project["dependencies"])
    }
    assert {module for module in used if not module.startswith("diffusion-suite")} <= imported | {"pywt"}


def test_licences_are_equal() -> None:
    texts = {(place / "LICENSE").read_text() for place in PLACES.values()}
    assert len(texts) == 1
    assert "Apache License" in texts.pop()


def test_wheels_run_in_a_fresh_environment(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Only our wheels and what the command line itself imports: no torch, no checkout."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env/bin/python"
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    dist = next(iter(wheels.values())).parent
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    install = ["install", "--no-index", "--no-deps", "--no-compile", "--find-links", str(dist)]
    names = ["diffusion-suite[geo]", "diffusion-suite-core", "diffusion-suite-geo"]
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([*pip, *install, *names], check=True, env=clean, cwd=tmp_path)
    import omegaconf
    import yaml

    for module in (omegaconf, yaml):
        (site / module.__name__).symlink_to(Path(str(module.__file__)).parent)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "env/bin/diffusion-suite"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=clean, cwd=tmp_path)

    shown = run("geo", "predict", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "usage: diffusion-suite geo predict" in shown.stdout
    depth = run("depth", "predict")
    assert depth.returncode == 2
    assert "pip install 'diffusion-suite[depth]'" in depth.stderr
    assert depth.stderr.count("\n") == 1
