"""In a notebook: the table, the data frame and the picture have the report's own numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foretrace import ForetraceError, price
from foretrace.report import Report
from foretrace.report.format import bytes_text
from foretrace.report.notebook import stacked
from foretrace.report.page_data import STACK
from handmade import perceptron
from hostile import HOSTILE, hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


@pytest.fixture(scope="module")
def report() -> Report:
    return price(perceptron(), on=TOY)


def test_the_table_answers(report: Report) -> None:
    shown = report._repr_html_()
    assert f"<td>{bytes_text(report.memory.peak_bytes)}, in " in shown
    assert f"{bytes_text(report.needed_bytes)} of {bytes_text(report.available_bytes)}" in shown


def test_names_in_a_notebook_are_text() -> None:
    attacked = price(hostile(), on=TOY)
    for shown in (attacked._repr_html_(), attacked.trace._repr_html_()):
        assert "<script" not in shown and "<img" not in shown and HOSTILE not in shown


def test_the_trace_shows_its_phases() -> None:
    graph = perceptron()
    shown = graph._repr_html_()
    for span in graph.spans:
        assert f">{span.phase.replace('_', ' ')}</th><td>{span.end_op - span.first_op}</td>" in shown


def test_the_data_frame_is_the_rows(report: Report) -> None:
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert list(frame.index) == [op.id for op in report.trace.ops]
    assert int(frame["tensor_flops"].sum() + frame["vector_flops"].sum()) == report.flops.total
    assert frame["seconds"].sum() == pytest.approx(sum(time.seconds for time in report.time.ops), rel=1e-12)


def test_the_stack_is_the_timeline(report: Report) -> None:
    columns = stacked(report)
    assert [sum(column) for column in zip(*columns, strict=True)] == [
        report.memory.start_bytes,
        *report.memory.live_bytes,
    ]
    at_peak = {category: columns[place][report.memory.peak_event + 1] for place, category in enumerate(STACK)}
    assert at_peak == dict(report.memory.at_peak)


def test_the_picture_reaches_the_peak(report: Report) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    axes = report.plot()
    top = max(path.vertices[:, 1].max() for drawn in axes.collections for path in drawn.get_paths())
    assert top == pytest.approx(report.memory.peak_bytes / 2**30, rel=1e-12)
    assert report.plot(axes) is axes


def test_a_library_that_is_missing(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ForetraceError, match="pandas is not installed"):
        report.to_pandas()
