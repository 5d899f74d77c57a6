"""Closed forms and what fits from the command line and from Python, on a model that PyTorch runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foretrace
from foretrace import cli
from foretrace.costmodels import timeline
from foretrace.costmodels.formula import parse

MODEL = """
import torch
from torch import nn

def make(batch=64, width=128, layers=6):
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)))
    return model, (torch.empty(batch, width),), lambda output: output.sum()
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("formula") / "stack.py"
    path.write_text(MODEL)
    return f"{path}:make"


@pytest.fixture(scope="module")
def found(target: str):
    return foretrace.formula(target, "batch,width,layers", parameters={"layers": 12}, held_out=4)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_the_formulas_of_a_module(found) -> None:
    expected = {
        "parameters": "L*(d*d + d)",
        "parameter_bytes": "4*L*(d*d + d)",
        "gradients": "4*L*(d*d + d)",
        "optimizer_state": "8*L*(d*d + d)",
        "saved_for_backward": "4*B*L*d + 4",  # 4 is the sum, to which the loop's name still refers
    }
    for name, text in expected.items():
        assert found[name].polynomial == parse(text, found.letters), name
    assert found.full == {"batch": 64, "width": 128, "layers": 12}


def test_they_are_what_a_trace_says_elsewhere(target: str, found) -> None:
    report = foretrace.price(
        foretrace.trace_target(target, {"batch": 7, "width": 40, "layers": 5}), on="a100-sxm4-80gb"
    )
    sizes = {"batch": 7, "width": 40, "layers": 5}
    assert found.at("peak", **sizes) == report.memory.peak_bytes
    assert found.at("flops", **sizes) == report.flops.total
    assert found.at("saved_for_backward", **sizes) == report.memory.saved_for_backward_bytes
    assert list(found.function("peak")(**{**sizes, "batch": np.array([7])})) == [report.memory.peak_bytes]


def test_a_callable_is_a_target_too() -> None:
    from torch import nn

    def make(batch: int = 8, width: int = 32):
        return nn.Linear(width, width), f"float32[{batch}, {width}]", lambda output: output.sum()

    made = foretrace.formula(make, ["batch", "width"], optimizer="sgd", held_out=2)
    assert made.parameters.polynomial == parse("d*d + d", made.letters)
    assert "optimizer_state" not in made.quantities


def test_the_python_that_is_printed_computes_the_same(target: str, found) -> None:
    from foretrace.report.formula_exports import formula_python

    names: dict = {}
    exec(formula_python(found, target), names)
    for name in ("parameters", "saved_for_backward", "flops", "peak"):
        assert names[name](batch=9, width=24, layers=4) == found.at(name, batch=9, width=24, layers=4)
    assert names["peak"](batch=np.array([9, 90]), width=24, layers=4)[0] == found.at(
        "peak", batch=9, width=24, layers=4
    )


def test_json_and_latex(target: str, found) -> None:
    from foretrace.report.formula_exports import formula_json, formula_latex

    content = json.loads(formula_json(found, target))
    assert content["quantities"]["saved_for_backward"]["terms"] == [
        {"coefficient": "4", "powers": [{"size": n, "power": 1} for n in ("batch", "layers", "width")]},
        {"coefficient": "4", "powers": []},
    ]
    assert content["quantities"]["parameters"]["at_full"] == 12 * (128 * 128 + 128)
    assert content["proof"]["instances"][0] == found.full
    assert r"\text{saved for backward} &= 4 \left(B L d + 1\right)" in formula_latex(found)


def test_the_screen(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "formula", target, "--over", "batch,width", "-p", "layers=2", "--letter", "width=w")
    assert all(len(line) <= 80 for line in out.splitlines() if str(Path(target).parent) not in line)
    assert "over B batch, w width" in out
    assert "saved for backward: 65,540 bytes at the full size\n  = 8·B·w + 4\n" in out
    assert "keeps its" in out and "stack.py:7" not in out


def test_a_comparison_and_an_explanation(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    over = ("formula", target, "--over", "batch", "-p", "layers=2", "-p", "width=8", "--of", "saved_for_backward")
    assert "B: 100 by hand, 64 by trace, surplus 36" in printed(capsys, *over, "--compare", "100*B")
    assert "64·B in saved for backward" in printed(capsys, *over, "--explain", "B")


def test_what_fits(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "curve.svg"
    command = ("fit", target, "--vary", "batch", "--memory", "6MB", "-p", "width=64", "--svg", str(picture))
    out = printed(capsys, *command, "--format", "json")
    answer = json.loads(out)["largest"]
    peaks = []
    for batch in (answer, answer + 1):
        graph = foretrace.trace_target(target, {"batch": batch, "width": 64})
        peaks.append(foretrace.price(graph, on="a100-sxm4-80gb").memory.peak_bytes)
    assert peaks[0] <= 6_000_000 < peaks[1]
    assert picture.read_text().startswith("<svg ")
    assert foretrace.fit(target, "batch", memory="6 MB", parameters={"width": 64}).largest == answer


def test_a_picture_that_cannot_be_written(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", target, "--memory", "6MB", "--svg", "/no/such/folder/curve.svg"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_sympy_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, foretrace.costmodels.formula, foretrace.hardware.fit, foretrace.report.formula;"
        "print('sympy' in sys.modules, 'torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


def test_a_bound_on_the_screen_and_from_python(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    over = ("formula", target, "--over", "batch", "-p", "batch=12", "-p", "layers=2", "-p", "width=8")
    out = printed(capsys, *over, "--bound", "above", "--of", "saved_for_backward")
    assert out.startswith("saved_for_backward is never above (a bound, not a formula)\n  = 64·B + 4\n")
    assert "elsewhere nothing is known of it" in out
    below = json.loads(printed(capsys, *over, "--bound", "below", "--of", "saved_for_backward", "--format", "json"))
    assert (below["bound"], below["expression"], below["at_full"]) == ("below", "64*batch + 4", 772)
    found = foretrace.bound(target, "batch", "parameters", parameters={"batch": 12, "layers": 2, "width": 8})
    assert found.polynomial.at() == 2 * (8 * 8 + 8)


def test_a_loop_over_time_whose_peak_is_at_a_step_in_the_middle() -> None:
    """Counted from three steps on, the step of backward that has the peak would not be seen."""
    families = Path(foretrace.__file__).parent / "examples" / "families.py"
    target = f"{families}:lstm_cells"
    found = foretrace.formula(
        target, "batch,time,width", parameters={"batch": 8, "time": 12, "width": 128, "vocab": 190}
    )
    for sizes in ({"batch": 12, "time": 5, "width": 320}, {"batch": 3, "time": 9, "width": 64}):
        trace = foretrace.trace_target(target, {**sizes, "vocab": 190})
        assert found.at("peak", **sizes) == timeline(trace).peak_bytes


# --- piece by piece ---

BRANCHING = str(Path(__file__).parent.parent / "examples" / "branching.py")


def test_attention_whose_kernel_depends_on_the_width_of_a_head() -> None:
    """In float32 the memory-efficient kernel wants a multiple of 4; else attention is written out and keeps scores."""
    target = f"{BRANCHING}:attention"
    found = foretrace.formula(target, "width,heads", parameters={"seq": 64}, pieces=2, held_out=4)
    assert [str(piece) for piece in found.pieces] == ["width/heads = 0 mod 4", "width/heads ≠ 0 mod 4"]
    assert "without _scaled_dot_product_efficient_attention * " in found.further[0].differs
    for width, heads in ((96, 4), (90, 5), (512, 8), (126, 2)):
        trace = foretrace.trace_target(target, {"seq": 64, "width": width, "heads": heads})
        assert found.at("peak", width=width, heads=heads) == timeline(trace).peak_bytes


def test_a_window_is_said_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-p", "width=32", "-p", "window=64", "-p", "seq=512")
    text = printed(capsys, "formula", f"{BRANCHING}:windowed", "--over", "seq", *options, "--pieces", "2")
    assert "piece 1 of 2, that of the full size; below are 2, seq <= 64" in text
    assert "piece 2: seq <= 64\n  different there: without clone " in text
    assert "FLOPs of forward = " in text.partition("piece 2:")[2]


def test_padding_in_latex(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-p", "width=32", "--pieces", "--format", "latex")
    text = printed(capsys, "formula", f"{BRANCHING}:padded", "--over", "seq", *options)
    assert r"& T = 0 \bmod 64 \\" in text and r"& T \ne 0 \bmod 64 \end{cases}" in text
