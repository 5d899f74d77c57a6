"""The package: what is in it, what importing it costs, and which rooms know torch."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import foretrace

ROOT = Path(foretrace.__file__).resolve().parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
NOT_SHIPPED = {"tests", "docs", "examples", "benchmarks", "build", "dist"}


def folders_with_code() -> list[str]:
    """The packages by what lies in the tree: every folder that holds Python, tests and the like left out."""
    found = []
    for folder, below, files in os.walk(ROOT):
        place = Path(folder).relative_to(ROOT)
        below[:] = [name for name in below if name[0] not in "._" and name not in NOT_SHIPPED | {"__pycache__"}]
        if any(name.endswith(".py") for name in files):
            found.append(".".join(("foretrace", *place.parts)))
    return sorted(found)


def shipped_files() -> set[str]:
    """The files of the wheel by what lies in the tree."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    patterns = [(package, "*.py") for package in PACKAGES]
    patterns += [(package, pattern) for package, listed in data.items() for pattern in listed]
    found: set[str] = set()
    for package, pattern in patterns:
        folder = ROOT.joinpath(*package.split(".")[1:])
        found |= {f"foretrace/{path.relative_to(ROOT).as_posix()}" for path in folder.glob(pattern)}
    return found


def modules() -> list[str]:
    """Every module of the package, by import name."""
    names = []
    for path in sorted(name for name in shipped_files() if name.endswith(".py") and not name.endswith("__main__.py")):
        names.append(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return names


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_folder_of_code_is_a_listed_package() -> None:
    assert sorted(PACKAGES) == folders_with_code()


def test_no_other_code_lies_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "cli.py", "pytest_plugin.py"}


def test_the_version_is_said_once_to_pip_and_once_to_python() -> None:
    assert PROJECT["project"]["version"] == foretrace.__version__


def test_every_requirement_is_pinned_for_our_own_installs() -> None:
    project = PROJECT["project"]
    extras = [requirement for listed in project["optional-dependencies"].values() for requirement in listed]
    wanted = [*project["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {re.split(r"[<>=!\[; ]", requirement)[0] for requirement in wanted} <= set(pinned)


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    skipped = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=skipped)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('wheel'))"
    (tmp_path / "source" / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", capture_output=True, check=True)
    (wheel,) = (tmp_path / "source" / "wheel").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    info = f"foretrace-{foretrace.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == shipped_files()
    assert f"{info}licenses/LICENSE" in names


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, foretrace; print(sorted({'torch', 'networkx', 'numpy', 'tqdm'} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_asking_for_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom foretrace.cli import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit:\n"
        "    print(sorted({'torch', 'networkx', 'numpy'} & set(sys.modules)))"
    )
    assert run_python(code).endswith("\n[]")


def test_every_public_name_is_there() -> None:
    missing = [name for name in foretrace.__all__ if getattr(foretrace, name, None) is None]
    assert missing == []
    assert set(foretrace.__all__) <= set(dir(foretrace))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'foretrace' has no attribute 'tracee'"):
        foretrace.tracee  # noqa: B018


def test_the_checkers_see_the_names_that_load_lazily() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == foretrace._HOMES


@pytest.mark.parametrize("name", [name for name in modules() if ".tracer" not in name])
def test_modules_without_torch(name: str) -> None:
    """Only the tracer may import torch: everything else works where it is not installed."""
    code = f"import sys; sys.modules['torch'] = None; import {name}"
    if name.count(".") < 2:
        run_python(code)
    source = ROOT.joinpath(*name.split(".")[1:])
    text = (source / "__init__.py" if source.is_dir() else source.with_suffix(".py")).read_text()
    assert not re.search(r"^\s*(import|from) torch\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_line_imports_the_package_by_its_name() -> None:
    """Inside the package imports are relative, so that it works under any name that it is mounted at."""
    for name in shipped_files():
        if name.endswith(".py"):
            text = (ROOT / Path(name).relative_to("foretrace")).read_text()
            assert not re.search(r"^\s*(import|from) foretrace\b", text, re.MULTILINE), name
