"""The page: its totals are the JSON's, nothing in a name can start or fetch anything, and it is small."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foretrace import ForetraceError, price
from foretrace.costmodels.story import story
from foretrace.graph import Source, StepGraph
from foretrace.report import Report, save_html, to_html
from foretrace.report import html as page
from foretrace.report import page_data as numbers
from foretrace.report.page_figures import MOST_REASONS
from handmade import perceptron
from hostile import HOSTILE, hostile

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


def report_of(graph: StepGraph) -> Report:
    return price(graph, on=TOY)


class Elements(HTMLParser):
    """What a browser's parser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, str] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = "#data" if dict(attrs).get("id") == "data" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.data[self._inside] = self.data.get(self._inside, "") + data

    def values(self) -> set[str]:
        return {str(attributes["value"]) for tag, attributes in self.tags if tag == "data"}


def parsed(text: str) -> Elements:
    elements = Elements()
    elements.feed(text)
    return elements


def test_the_totals_are_those_of_the_json_to_the_byte() -> None:
    report = report_of(perceptron())
    whole, elements = json.loads(report.to_json()), parsed(to_html(report))
    memory = whole["memory"]
    shown = {memory["peak_bytes"], memory["needed_bytes"], memory["available_bytes"], *memory["at_peak"].values()} - {0}
    assert {
        str(count) for count in (*shown, whole["flops"]["total"], whole["parameters"]["total"])
    } <= elements.values()
    (run,) = json.loads(elements.data["#data"])["runs"]
    for part in ("memory", "flops", "time"):
        assert run["totals"][part].items() <= whole[part].items()


def test_why_the_peak_is_there_is_the_story_of_the_peak() -> None:
    report = report_of(perceptron())
    text, told = to_html(report), story(report.memory, "peak", MOST_REASONS)
    assert all(escape(row.kept_by) in text for row in told.kept)
    values = parsed(text).values()
    assert {str(row.holder.bytes) for row in told.kept} | {str(row.without.peak_bytes) for row in told.kept} <= values


def live_from(run: dict, point: int) -> list[int]:
    """What the browser does: the start, and every change up to a point."""
    timeline, live, at = run["timeline"], list(run["timeline"]["start"]), 0
    for step, category, amount in zip(
        timeline["change_point"], timeline["change_category"], timeline["change_amount"], strict=True
    ):
        at += step
        if at <= point:
            live[category] += run["amounts"][amount]
    return live


@pytest.mark.parametrize("most", [10_000, 12])
def test_every_point_has_the_bytes_of_the_timeline(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MOST_POINTS", most)
    report = report_of(perceptron(layers=6))
    run = numbers.page_data(report)
    events = [sum(run["timeline"]["event"][: i + 1]) for i in range(len(run["timeline"]["event"]))]
    expected = [report.memory.live_bytes[event] if event >= 0 else report.memory.start_bytes for event in events]
    assert [sum(live_from(run, point)) for point in range(len(events))] == expected
    assert report.memory.peak_event in events
    assert run["timeline"]["thinned"] == (most == 12)
    at_peak = live_from(run, events.index(report.memory.peak_event))
    assert dict(zip(numbers.STACK, at_peak, strict=True)) == dict(report.memory.at_peak)


def test_the_groups_add_up_to_the_kernels_of_the_step() -> None:
    report = report_of(perceptron())
    groups = numbers.page_data(report)["groups"]
    assert sum(row[6] for row in groups) == len(report.trace.ops)
    assert sum(row[7] + row[8] for row in groups) == report.flops.total
    assert sum(row[11] for row in groups) == pytest.approx(sum(time.seconds for time in report.time.ops), rel=1e-12)


def test_what_is_not_listed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "MOST_STORAGES", 5)
    monkeypatch.setattr(numbers, "MOST_OPS", 3)
    report = report_of(perceptron())
    run = numbers.page_data(report)
    assert run["storages"]["left_out"] == len(report.trace.storages) - 5
    assert run["ops"]["left_out"] == len(report.trace.ops) - 3
    longest = sorted(time.seconds for time in report.time.ops)[-3:]
    assert run["ops"]["left_out_seconds"] == pytest.approx(sum(time.seconds for time in report.time.ops) - sum(longest))


def test_names_start_nothing() -> None:
    innocent, attacked = parsed(to_html(report_of(perceptron()))), parsed(to_html(report_of(hostile())))
    handlers = [name for _, attributes in attacked.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    for tag in ("script", "img", "iframe", "style", "link"):
        assert len([t for t, _ in attacked.tags if t == tag]) == len([t for t, _ in innocent.tags if t == tag])
    assert HOSTILE in json.loads(attacked.data["#data"])["runs"][0]["texts"]


def test_a_megabyte_of_name_is_cut() -> None:
    assert len(to_html(report_of(hostile("x" * 1_000_000)))) < 300_000


def test_the_policy_admits_only_the_own_scripts_and_no_request() -> None:
    text = to_html(report_of(perceptron()))
    policy = next(a["content"] for t, a in parsed(text).tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert [page._hash(script) in policy for script in scripts] == [True] * len(page.SCRIPTS)
    assert not re.findall(r"\b(?:src|href)=['\"]?(?:https?:|//)", text)


def test_the_same_report_gives_the_same_page() -> None:
    assert to_html(report_of(perceptron())) == to_html(report_of(perceptron()))


def test_a_page_of_two_reports_says_what_changed() -> None:
    before, after = report_of(perceptron()), report_of(perceptron(layers=4))
    elements = parsed(to_html(after, before))
    change = after.memory.peak_bytes - before.memory.peak_bytes
    assert {str(before.memory.peak_bytes), str(after.memory.peak_bytes), str(change)} <= elements.values()
    data = json.loads(elements.data["#data"])
    assert data["names"] == ["before", "after"]
    assert [run["totals"]["memory"]["peak_bytes"] for run in data["runs"]] == [
        before.memory.peak_bytes,
        after.memory.peak_bytes,
    ]


def test_the_lines_of_a_file_that_is_there_and_of_one_that_is_gone(tmp_path: Path) -> None:
    code = tmp_path / "model.py"
    code.write_text("".join(f"line {number}\n" for number in range(1, 31)))
    secret = tmp_path / "secret.txt"
    secret.write_text("password\n" * 9)
    graph = perceptron()
    for file, expected in (
        (code, {str(code): {n: f"line {n}" for n in range(7, 16)}}),
        (secret, {}),
        (tmp_path / "gone.py", {}),
    ):
        ops = tuple(replace(op, source=Source(str(file), 11, "forward")) for op in graph.ops)
        assert numbers.page_data(report_of(replace(graph, ops=ops)))["sources"] == expected


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ForetraceError, match="cannot write"):
        save_html(tmp_path / "no" / "page.html", report_of(perceptron()))
    assert list(tmp_path.iterdir()) == []


def test_the_libraries_are_the_versions_that_the_readme_names() -> None:
    readme = (page.ASSETS / "README.md").read_text()
    for name, pattern in (("uPlot.iife.min.js", r"\(v([\d.]+)\)"), ("d3-hierarchy.min.js", r" v([\d.]+) ")):
        found = re.search(pattern, (page.ASSETS / name).read_text()[:200])
        assert found and any(name in line and found[1] in line for line in readme.splitlines())
    assert all(path.name in readme for path in page.ASSETS.iterdir() if path.name != "README.md")
