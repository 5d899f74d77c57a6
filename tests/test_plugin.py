"""The pytest plugin, in runs of pytest of their own: limits, the baseline, pytest-xdist, and silence where unused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foretrace.checks.baseline import read

SUPPORT = Path(__file__).parent / "support"
HEADER = """\
import pytest
import torch
from torch import nn


def make(rows=4):
    return nn.Linear(64, 64), (torch.randn(rows, 64),), lambda output: output.sum()


"""
LIMITS = (
    HEADER
    + """\
@pytest.mark.foretrace(peak="1 KiB")
def test_over(foretrace_step):
    report = foretrace_step(make)
    assert report.memory.peak_bytes > 1024


@pytest.mark.foretrace(peak="1 GiB", time="1 s", kept="0 B", on="h100-sxm5-80gb")
def test_under(foretrace_step):
    report = foretrace_step("test_limits.py:make", {"rows": 8}, device="cuda")
    assert report.profile.name == "h100-sxm5-80gb"


@pytest.mark.foretrace(peak="1 GiB")
def test_of_nothing():
    pass


def test_without_a_limit(foretrace_step):
    assert foretrace_step(make).profile.name == "a100-pcie-40gb"


@pytest.mark.foretrace(paek="1 GiB")
def test_misspelt(foretrace_step):
    foretrace_step(make)


@pytest.mark.foretrace(peak="1 KiB")
def test_that_fails_by_itself(foretrace_step):
    foretrace_step(make)
    assert 1 + 1 == 3


def test_of_no_target(foretrace_step):
    foretrace_step("test_limits.py:absent")
"""
)
BATCHES = (
    HEADER.replace("output.sum()", "output.square().sum()")
    + """\
@pytest.mark.foretrace(max_batch=64, vary="rows")
def test_small(foretrace_step):
    foretrace_step("test_batches.py:make")


@pytest.mark.foretrace(max_batch=2**30, vary="rows")
def test_large(foretrace_step):
    foretrace_step("test_batches.py:make", {"rows": 8})


@pytest.mark.foretrace(max_batch=2**30)
@pytest.mark.parametrize("size", ["8/9"])
def test_spec(size, foretrace_step):
    foretrace_step(nn.Linear(64, 64), "input: float32[batch, 64]", sizes={"batch": 8}, loss=lambda y: y.square().sum())


@pytest.mark.foretrace(max_batch=64)
def test_no_such_size(foretrace_step):
    foretrace_step("test_batches.py:make")
"""
)
WRITTEN = """\
import sys
from types import ModuleType

from handmade import perceptron

# What is traced is of no matter here: steps that were written by hand come without torch.
sys.modules["foretrace.tracer"] = tracer = ModuleType("foretrace.tracer")
tracer.trace = tracer.trace_target = perceptron
"""
BASELINE = """\
import pytest

LAYERS = 2


@pytest.mark.parametrize("times", [1, 2])
def test_compared(times, foretrace_step):
    foretrace_step(times * LAYERS)
    foretrace_step.matches_baseline()


@pytest.mark.foretrace(allow=dict.fromkeys(["peak", "reserved", "saved", "flops", "time"], "+900 %"))
def test_allowed(foretrace_step):
    for name in ("first", "second"):
        foretrace_step.matches_baseline(foretrace_step(LAYERS), name)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest with the plugin, as its entry point loads it, and no other ones."""
    command = [sys.executable, "-m", "pytest", "-p", "foretrace.pytest_plugin", "-p", "no:cacheprovider", *arguments]
    search = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    # In CI pytest prints its summary lines whole, so that what is looked for would stand there twice.
    here = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
    environment = {**here, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "120", "PYTHONPATH": search}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_limits(tmp_path: Path) -> None:
    (tmp_path / "test_limits.py").write_text(LIMITS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nforetrace_on = a100-pcie-40gb\naddopts = --strict-markers\n")
    done = pytest_in(tmp_path)
    assert done.returncode == 1
    assert "test_limits.py M.M.FFF" in done.stdout
    # The weight, its gradient, two averages of it and the root of one: five squares of 64 floats; as many rows of 64
    # for the bias; the input and the output, four rows each; the loss: 85,252 bytes.
    (line,) = re.findall(r"the step: peak memory is .* over the limit of 1\.00 KiB on a100-pcie-40gb\n", done.stdout)
    assert "who holds the peak of the step" in done.stdout
    assert "optimizer_state" in done.stdout and line.startswith("the step: peak memory is 83.3 KiB")
    assert "limits are set, and nothing was traced: use the fixture foretrace_step" in done.stdout
    assert "@pytest.mark.foretrace has no 'paek': did you mean 'peak'?" in done.stdout
    assert "assert (1 + 1) == 3" in done.stdout
    assert "ForetraceError: test_limits.py has no 'absent'. It defines make, " in done.stdout
    assert not {"pytest_plugin.py", "target.py"} & set(re.findall(r"\w+\.py", done.stdout))
    assert "MEMORY test_limits.py::test_over - the step: peak memory" in done.stdout


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with tests of steps that were written by hand."""
    (tmp_path / "conftest.py").write_text(WRITTEN)
    (tmp_path / "test_b.py").write_text(BASELINE)
    return tmp_path


def test_a_baseline(written: Path) -> None:
    tmp_path = written
    none = pytest_in(tmp_path, "-k", "compared and 1")
    assert none.returncode == 1
    assert "foretrace-baseline.toml has nothing of test_b.py::test_compared[1]: write it with pytest" in none.stdout
    assert pytest_in(tmp_path, "--foretrace-update").returncode == 0
    path = tmp_path / "foretrace-baseline.toml"
    before = path.read_bytes()
    known = read(path)
    assert known is not None and sorted(known) == [
        "test_b.py::test_allowed first",
        "test_b.py::test_allowed second",
        "test_b.py::test_compared[1]",
        "test_b.py::test_compared[2]",
    ]
    (tmp_path / "test_b.py").write_text(BASELINE.replace("LAYERS = 2", "LAYERS = 3"))
    disabled = pytest_in(tmp_path, "--foretrace-disable")
    assert disabled.returncode == 0 and "3 passed" in disabled.stdout
    grown = pytest_in(tmp_path)
    assert grown.returncode == 1 and "test_b.py MM." in grown.stdout
    assert "M002  peak memory grew by" in grown.stdout
    assert "to accept it:  pytest --foretrace-update" in grown.stdout
    assert path.read_bytes() == before
    assert pytest_in(tmp_path, "--foretrace-update", "-k", "compared and 1").returncode == 0
    after = read(path)
    assert after is not None and {name for name in known if known[name] != after[name]} == {
        "test_b.py::test_compared[1]"
    }


def test_workers_of_xdist_write_one_baseline(written: Path) -> None:
    tmp_path = written
    assert pytest_in(tmp_path, "-p", "xdist.plugin", "-n2", "--foretrace-update").returncode == 0
    both = (tmp_path / "foretrace-baseline.toml").read_bytes()
    assert len(read(tmp_path / "foretrace-baseline.toml") or {}) == 4
    (tmp_path / "foretrace-baseline.toml").unlink()
    assert pytest_in(tmp_path, "--foretrace-update").returncode == 0
    assert (tmp_path / "foretrace-baseline.toml").read_bytes() == both


def test_the_batch_that_must_fit_and_a_page_for_each_step_in_workers(tmp_path: Path) -> None:
    (tmp_path / "test_batches.py").write_text(BATCHES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nforetrace_html = elsewhere\n")
    done = pytest_in(tmp_path, "--foretrace-html", "pages/here", "-p", "xdist.plugin", "-n2")
    assert done.returncode == 1 and "3 failed, 1 passed" in done.stdout
    # 2**30 rows of 64 floats are 256 GiB, and there are five: what goes in, what comes out, and three in the
    # derivative of the square.
    large = r"test_batches\.py:make: rows=1073741824 does not fit on a100-sxm4-80gb: it takes 1\.25 TiB, and there is"
    assert re.search(large, done.stdout), done.stdout
    assert "the step: batch=1073741824 does not fit on a100-sxm4-80gb" in done.stdout
    assert (
        "test_batches.py:make at batch=64: test_batches.py:make: got an unexpected keyword argument 'batch'."
        in done.stdout
    )
    pages = sorted(path.name for path in (tmp_path / "pages" / "here").iterdir())
    assert [re.sub("-[0-9a-f]{8}", "-*", name) for name in pages] == [
        "test_batches.py.test_large.html",
        "test_batches.py.test_no_such_size.html",
        "test_batches.py.test_small.html",
        "test_batches.py.test_spec_8.9_-*.html",
    ]
    assert (tmp_path / "pages" / "here" / pages[0]).read_text().startswith("<!doctype html>")
    assert not (tmp_path / "elsewhere").exists()


def test_where_it_is_not_used_it_says_and_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\n\ndef test_plain():\n"
        "    heavy = {'torch', 'networkx', 'numpy', 'tabulate'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
        "    ours = sorted(name for name in sys.modules if name.startswith('foretrace'))\n"
        "    assert ours == ['foretrace', 'foretrace.pytest_plugin']\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "foretrace" not in done.stdout.partition("rootdir")[2].partition("\n")[2]
    assert [path.name for path in tmp_path.glob("foretrace*")] == []


def test_the_marker_says_what_it_takes(tmp_path: Path) -> None:
    printed = pytest_in(tmp_path, "--markers").stdout
    assert "@pytest.mark.foretrace(on=None, allow=None, peak=None," in printed
