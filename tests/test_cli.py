"""The command line as a person sees it: standard output, standard error and exit code of each case, word for word.

Each case is a folder in ``golden/``; ``pytest --update-golden`` rewrites them from what is printed now.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foretrace import cli, load, save
from foretrace.commands.options import parameter
from foretrace.graph import Op, Source, StepGraph
from handmade import perceptron

TESTS = Path(__file__).parent
MODEL = """
import torch

def make(width=8, bias=True):
    return torch.nn.Linear(width, 1, bias=bias), (torch.zeros(4, width),), lambda output: output.sum()

def broken():
    raise RuntimeError("no weights here")

number = 3
"""

CASES = {
    "run": "run step.foretrace --on toy.toml",
    "run-json": "run step.foretrace --on toy.toml --format json",
    "run-too-large": "run large.foretrace --on toy.toml",
    "run-on-cpu": "run cpu.foretrace --on toy.toml",
    "run-with-assumptions": "run assumed.foretrace --on toy.toml",
    "sweep-of-no-callable": "sweep model.py --on toy.toml",
    "sweep-into-no-table": "sweep model.py:make --on toy.toml --out table.txt",
    "sweep-into-no-folder": "sweep model.py:make --on toy.toml --out no/folder/table.csv",
    "sweep-into-no-store": "sweep model.py:make --on toy.toml --store model.py",
    "sweep-on-one-device-twice": "sweep model.py:make --on toy.toml,toy.toml",
    "sweep-without-time": "sweep model.py:make --on toy.toml --timeout 0",
    "explain": "explain toy.toml",
    "plan": "plan step.foretrace --on toy.toml --steps 900000 --global-batch 4096 --gpus 2 --price-per-hour 1.5",
    "plan-json": "plan step.foretrace --on toy.toml --steps 900000 --global-batch 4096 --mfu 0.4 --format json",
    "plan-not-whole": "plan step.foretrace --on toy.toml --steps 1000 --global-batch 62",
    "plan-impossible-mfu": "plan step.foretrace --on toy.toml --steps 1000 --global-batch 64 --mfu 50",
    "calibrate": "calibrate --from-trace profiled.json",
    "calibrate-other-device": "calibrate --from-trace profiled.json --on h100-sxm5-80gb",
    "calibrate-without-shapes": "calibrate --from-trace shapeless.json",
    "calibrate-own-profile": "calibrate --measure --on toy.toml",
    "calibrate-into-no-folder": "calibrate --from-trace profiled.json --output no/folder/mine.toml",
    "no-trace-file": "run nothing.foretrace --on toy.toml",
    "no-callable": "run model.py --on toy.toml",
    "foreign-file": "run toy.toml --on toy.toml",
    "damaged-file": "run damaged.foretrace --on toy.toml",
    "newer-file": "run newer.foretrace --on toy.toml",
    "run-with-less-memory": "run large.foretrace --on toy.toml --memory 1.2GiB --alloc-conf max_split_size_mb:64",
    "size-without-number": "run step.foretrace --on toy.toml --memory lots",
    "memory-for-a-step-on-the-cpu": "run cpu.foretrace --on toy.toml --memory 1GiB",
    "unknown-allocator-setting": "run step.foretrace --on toy.toml --alloc-conf expandable_segment:True",
    "explain-peak": "explain step.foretrace --most 4",
    "explain-end-of-forward": "explain step.foretrace --at forward --most 2",
    "unknown-instant": "explain step.foretrace --at nowhere",
    "unknown-profile": "run step.foretrace --on b200-sxm6-192gb",
    "no-profile-file": "run step.foretrace --on nothing.toml",
    "broken-profile": "run step.foretrace --on broken.toml",
    "parameter-without-value": "run model.py:make --on toy.toml -p batch",
    "parameter-for-saved-trace": "run step.foretrace --on toy.toml -p batch=8",
    "device-for-saved-trace": "run step.foretrace --on toy.toml --device cpu",
    "save-into-no-folder": "run step.foretrace --on toy.toml --save no/folder/step.foretrace",
    "run-several": "run step.foretrace large.foretrace --on toy.toml,a100-sxm4-80gb",
    "run-several-csv": "run step.foretrace cpu.foretrace --on toy.toml --format csv",
    "several-with-html": "run step.foretrace large.foretrace --on toy.toml --html page.html",
    "svg-into-no-folder": "run step.foretrace --on toy.toml --svg no/folder/page.svg",
    "fit-of-a-saved-trace": "run step.foretrace --on toy.toml --fit batch",
    "against-without-html": "run step.foretrace --on toy.toml --against step.foretrace",
    "against-no-trace": "run step.foretrace --on toy.toml --html page.html --against nothing.foretrace",
    "html-into-no-folder": "run step.foretrace --on toy.toml --html no/folder/page.html",
    "html-over-a-folder": "run step.foretrace --on toy.toml --html folder",
    "save-over-a-folder": "run step.foretrace --on toy.toml --save folder",
    "run-tree": "run step.foretrace --on toy.toml --tree",
    "tree-as-json": "run step.foretrace --on toy.toml --tree --format json",
    "export-mermaid": "export step.foretrace --to mermaid --on toy.toml",
    "export-dot": "export step.foretrace --to dot --depth 1 --on toy.toml",
    "export-svg": "export step.foretrace --to svg --on toy.toml",
    "export-binary-to-the-terminal": "export step.foretrace --to memory-viz --on toy.toml",
    "export-of-a-step-on-the-cpu": "export cpu.foretrace --to memory-viz --on toy.toml -o cpu.pickle",
    "export-into-no-folder": "export step.foretrace --to csv --on toy.toml -o no/folder/step.csv",
}
TRACING = {
    "no-target-file": "run nothing.py:make --on toy.toml",
    "no-target-module": "run no.such.module:make --on toy.toml",
    "no-target-name": "run model.py:mak --on toy.toml",
    "target-not-callable": "run model.py:number --on toy.toml",
    "target-raises": "run model.py:broken --on toy.toml",
    "unknown-parameter": "run model.py:make --on toy.toml -p wide=3",
    "unknown-optimizer": "run model.py:make --on toy.toml --optimizer adamv",
    "formula-unknown-size": "formula model.py:make --over wide",
    "formula-no-size": "formula model.py:make --over bias",
    "formula-does-not-parse": "formula model.py:make --over width --compare 4*width*",
    "formula-unknown-letter": "formula model.py:make --over width --explain 4*Q",
    "formula-values-of-no-kind": "formula model.py:make --over width --at width=8,ten",
    "formula-no-pieces": "formula model.py:make --over width --pieces 0",
    "formula-values-not-spaced": "formula model.py:make --over width --at width=8,16,32",
    "memory-within-the-context": "run model.py:make --on toy.toml --memory 20MiB",
    "export-within-the-context": "export model.py:make --to svg --on toy.toml --memory 20MiB",
    "allocator-setting-on-the-cpu": "run model.py:make --on toy.toml --device cpu --alloc-conf backend:native",
    "fit-no-memory": "fit model.py:make --vary width --memory 0GiB",
    "fit-without-unit": "fit model.py:make --vary width --memory 80",
    "fit-no-size": "fit model.py:make --vary bias",
    "fit-three-sizes": "fit model.py:make --vary width --vary bias --vary depth",
    "fit-headroom": "fit model.py:make --vary width --headroom 5",
}


def profiled(shapes: bool) -> str:
    """What a profiler writes of two products and a copy."""
    dims = [[4, 8], [8, 8]] if shapes else []
    op = {"cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "dur": 9}
    calls = [
        {**op, "ts": 10 * n, "args": {"External id": n, "Input Dims": dims, "Input type": ["float"] * len(dims)}}
        for n in (1, 2)
    ]
    kernels = [{"cat": "kernel", "name": "gemm", "dur": 3.0 + n, "args": {"External id": n}} for n in (1, 2)]
    device = {"name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 84_990_623_744}
    return json.dumps({"deviceProperties": [device], "traceEvents": [*calls, *kernels]})


def with_assumptions() -> StepGraph:
    graph = perceptron()
    mystery = Op(
        id=len(graph.ops),
        name="my::fused_rope.default",
        phase=graph.ops[-1].phase,
        args={"x": graph.ops[1].result},
        result=None,
        source=Source("model.py", 30, "forward"),
    )
    x = graph.ops[-1].inputs[0]
    mystery = replace(mystery, args={"x": x}, mutates=("x",))
    optimizer, zero_grad = graph.spans[-2:]
    spans = (
        *graph.spans[:-2],
        replace(optimizer, end_op=optimizer.end_op + 1),
        replace(zero_grad, first_op=zero_grad.first_op + 1, end_op=zero_grad.end_op + 1),
    )
    assumption = {"op": "aten.nonzero.default", "assumed": "every element counts", "at": "moe.py:40", "count": 2}
    facts = replace(graph.facts, assumptions=(assumption,), notes=("3 times: a note of the tracer's",))
    return replace(graph, ops=(*graph.ops, mystery), spans=spans, facts=facts)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something of each kind that the command line may be pointed at."""
    folder = tmp_path_factory.mktemp("desk")
    graph = perceptron()
    save(graph, folder / "step.foretrace")
    save(perceptron(layers=80), folder / "large.foretrace")
    on_cpu = tuple(replace(storage, device="cpu") for storage in graph.storages)
    save(replace(graph, storages=on_cpu, facts=replace(graph.facts, device="cpu")), folder / "cpu.foretrace")
    save(with_assumptions(), folder / "assumed.foretrace")
    whole = (folder / "step.foretrace").read_bytes()
    (folder / "damaged.foretrace").write_bytes(whole[:-20])
    newer = json.loads(gzip.decompress(whole)) | {"schema_version": 99}
    (folder / "newer.foretrace").write_bytes(gzip.compress(json.dumps(newer).encode()))
    shutil.copy(TESTS / "support" / "toy.toml", folder)
    (folder / "broken.toml").write_text('base = "a100-sxm4-80gb"\nsm_cout = 3\n')
    (folder / "model.py").write_text(MODEL)
    (folder / "profiled.json").write_text(profiled(True))
    (folder / "shapeless.json").write_text(profiled(False))
    (folder / "folder").mkdir()
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "__pycache__")


def run(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    try:
        code = cli.main(command.split())
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return {"command": f"foretrace {command}\n", "stdout": printed.out, "stderr": printed.err, "exit": f"{code}\n"}


def compare(name: str, got: dict[str, str], update: bool) -> None:
    folder = TESTS / "golden" / name
    if update:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part, text in got.items():
            if text:
                (folder / part).write_text(text)
    assert got == {part: (folder / part).read_text() if (folder / part).exists() else "" for part in got}


@pytest.mark.parametrize("name", [*CASES, *TRACING])
def test_golden(
    name: str,
    desk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    monkeypatch.chdir(desk)
    before = listed(desk)
    got = run((CASES | TRACING)[name], capsys)
    compare(name, got, pytestconfig.getoption("update_golden"))
    assert listed(desk) == before
    is_wide = any(word in name for word in ("json", "csv", "export")) or name == "calibrate"
    assert is_wide or all(len(line) <= 80 for line in got["stdout"].splitlines())


def test_every_golden_folder_has_a_case() -> None:
    assert {path.name for path in (TESTS / "golden").iterdir()} == {*CASES, *TRACING}


def test_a_mistake_prints_an_error_and_a_mend_and_nothing_else() -> None:
    failed = [name for name in {*CASES, *TRACING} if (TESTS / "golden" / name / "exit").read_text() == "2\n"]
    assert len(failed) > 20
    for name in failed:
        folder = TESTS / "golden" / name
        error, mend = (folder / "stderr").read_text().splitlines()
        assert error.startswith("error: ") and mend.startswith("mend: ")
        assert not (folder / "stdout").exists()


def test_the_same_trace_gives_the_same_bytes(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    first = run("run step.foretrace --format json", capsys)
    assert first["exit"] == "0\n"
    assert run("run step.foretrace --format json", capsys) == first


def test_a_saved_trace_is_priced_without_torch(desk: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom foretrace.cli import main\n"
        "raise SystemExit(main(['run', 'step.foretrace', '--on', 'toy.toml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ((TESTS / "golden/run/stdout").read_text(), "", 0)


def test_a_reader_that_leaves_early_is_no_error(desk: Path) -> None:
    command = [sys.executable, "-m", "foretrace", "run", "step.foretrace", "--on", "toy.toml"]
    with subprocess.Popen(command, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_target_is_traced_saved_and_priced(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    traced = run(f"run model.py:make -p width=16 -p bias=false --device cpu --save {tmp_path}/linear.foretrace", capsys)
    assert traced["exit"] == "0\n", traced["stderr"]
    assert "ops in" in traced["stderr"].splitlines()[-1]
    graph = load(tmp_path / "linear.foretrace")
    assert [named.shape for named in graph.facts.parameters] == [(1, 16)]
    assert run(f"run {tmp_path}/linear.foretrace", capsys)["stdout"] == traced["stdout"]


def test_a_sweep_is_written_whole_and_its_end_is_one_line(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    command = "sweep model.py:make model.py:broken -p width=8,16 --on toy.toml --workers 1 --store"
    got = run(f"{command} {tmp_path}/store --out {tmp_path}/table.csv", capsys)
    assert (got["stdout"], got["exit"]) == ("", "1\n")
    *failures, last = got["stderr"].splitlines()
    raised = "RuntimeError: model.py:broken raised RuntimeError: no weights here at model.py:8"
    assert failures == [f"model.py:broken width={width} on toy: {raised}" for width in (8, 16)]
    assert re.fullmatch(rf"4 points in [0-9.]+ s; 2 failed; written to {tmp_path}/table.csv", last)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["width"], row["parameters"]) for row in rows] == [("8", "9"), ("16", "17"), ("8", ""), ("16", "")]
    again = run(f"sweep model.py:make -p width=8 --on toy.toml --store {tmp_path}/store", capsys)
    assert again["exit"] == "0\n" and again["stderr"].endswith("; 1 from the store\n")
    assert again["stdout"].splitlines()[1].startswith("model.py:make width=8  toy   yes 2 %")


def test_a_fault_of_ours_keeps_its_traceback(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr("foretrace.report.price", lambda *_, **__: 1 / 0)
    got = run("run step.foretrace --on toy.toml", capsys)
    assert (got["stdout"], got["exit"]) == ("", "2\n")
    assert got["stderr"].startswith("Traceback") and "ZeroDivisionError" in got["stderr"]
    assert "Please report it" in got["stderr"].splitlines()[-1]


def test_an_interrupt_is_one_word(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(desk)
    monkeypatch.setattr("foretrace.report.price", interrupt)
    got = run("run step.foretrace --on toy.toml", capsys)
    assert (got["stdout"], got["stderr"], got["exit"]) == ("", "interrupted\n", "2\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n=8", 8),
        ("n=-8", -8),
        ("n=1e-3", 0.001),
        ("n=true", True),
        ("n=False", False),
        ("n=gelu", "gelu"),
        ("n=", ""),
        ("n=a=b", "a=b"),
    ],
)
def test_parameters(text: str, value: object) -> None:
    name, parsed = parameter(text)
    assert (name, parsed, type(parsed)) == ("n", value, type(value))


def test_an_export_is_written_whole_and_said(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    got = run(f"export step.foretrace --to memory-viz --on toy.toml -o {tmp_path}/step.pickle", capsys)
    size = (tmp_path / "step.pickle").stat().st_size
    assert (got["stdout"], got["exit"]) == ("", "0\n")
    assert got["stderr"] == f"wrote {tmp_path}/step.pickle, {size:,} bytes\n"


def test_several_steps_are_drawn(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    assert cli.main(["run", "step.foretrace", "large.foretrace", "--on", "toy.toml", "--svg", "both.svg"]) == 0
    assert (desk / "both.svg").read_text().count("<rect") == 1 + 2 * 2  # a bar for each step and measure
    assert cli.main(["run", "step.foretrace", "--on", "toy.toml", "--svg", "one.svg"]) == 0
    assert "memory over the step" in (desk / "one.svg").read_text()


def test_the_largest_size_is_said_with_the_report(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(desk)
    command = "run model.py:make --on toy.toml -p width=64 --fit width"
    assert cli.main([*command.split(), "--html", "fit.html"]) == 0
    screen = capsys.readouterr().out
    again = "fit model.py:make --on toy.toml -p width=64 --vary width --format json"
    assert cli.main(again.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"\nlargest width  {found['largest_reserved']:,}, " in screen
    assert cli.main(["run", "model.py:make", "--on", "toy.toml", "--fit", "height"]) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and "got an unexpected keyword argument 'height'" in refused.err
    assert refused.err.endswith("mend: Vary a size that the target takes, such as batch.\n")
    page = (desk / "fit.html").read_text()
    assert f"<data value='{found['largest_reserved']}'>" in page and "--fit width" in page


def test_explain_without_a_name_lists_the_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("explain", capsys)["stdout"].splitlines()
    assert printed[0] == "hardware profiles:"
    assert "  a100-sxm4-80gb" in printed


PRINTING = """
import torch

print("loading")
if torch.cuda.is_available():
    table = torch.zeros(4).cuda()


def make(batch=4):
    print("building")

    def loss(output):
        print("losing")
        return output.sum()

    return torch.nn.Linear(8, 1), (torch.zeros(batch, 8),), loss
"""


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("run printing.py:make --on toy.toml --format json", "{"),
        ("run printing.py:make --on toy.toml --format json --fit batch", "{"),
        ("export printing.py:make --on toy.toml --to csv", "id,name"),
        ("measure printing.py:make --format json", "{"),
        ("fit printing.py:make --on toy.toml --format json", "{"),
        ("formula printing.py:make --over batch --format json", "{"),
    ],
)
def test_what_the_users_code_prints_is_no_part_of_the_result(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, first: str
) -> None:
    (desk / "printing.py").write_text(PRINTING)
    monkeypatch.chdir(desk)
    got = run(command, capsys)
    assert got["stdout"].startswith(first), got
    assert not {"loading", "building", "losing"} & set(got["stdout"].split())
    assert {"loading", "building", "losing"} <= set(got["stderr"].split())


def test_a_name_that_is_nothing_is_told_what_is_configured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foretrace.toml").write_text('[targets.small]\nstep = "model.py:make"\n[targets.large]\nstep = "a:b"\n')
    monkeypatch.chdir(tmp_path)
    for command in ("run smal", "plan smal --steps 1 --global-batch 1", "export smal --to csv"):
        got = run(command, capsys)
        assert got["exit"] == "2\n"
        assert got["stderr"].startswith("error: there is no trace file smal, and no configured target of that name")
        assert "Configured are small, large; " in got["stderr"]
    twice = "error: -p width is given twice\nmend: Give it once; several numbers are -p width=1,2.\n"
    for command in ("run", "sweep", "fit", "measure", "explain"):
        assert run(f"{command} model.py:make -p width=8 -p width=16", capsys)["stderr"] == twice
    assert run("run model.py::make", capsys)["stderr"].startswith("error: 'model.py::make' is not a target\n")
