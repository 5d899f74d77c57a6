"""The page as a person uses it: headless Chromium opens it, clicks, sorts, filters, toggles; nothing is requested."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foretrace import price
from foretrace.costmodels import timeline
from foretrace.hardware.fit import fit
from foretrace.report import Report, save_html
from foretrace.report.format import bytes_text, count_text, seconds_text, share_text
from foretrace.report.page_fit import stops
from handmade import perceptron
from hostile import hostile

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

TOY = Path(__file__).parents[1] / "support" / "toy.toml"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report() -> Report:
    return price(perceptron(), on=TOY)


def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: trouble.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.set_default_timeout(3_000)
    page.goto(path.as_uri())
    trouble[:] = [word for word in trouble if not word.startswith((path.as_uri(), "data:"))]
    return page, trouble


@pytest.fixture
def page(browser: Any, report: Report, tmp_path: Path) -> Iterator[Any]:
    save_html(tmp_path / "page.html", report)
    page, trouble = opened(browser, tmp_path / "page.html")
    yield page
    assert trouble == []
    page.close()


# --- three steps that people have, opened as they would ---

EXAMPLES = Path(__file__).parents[2] / "examples"
SUPPORT = Path(__file__).parents[1] / "support"
LOOKS = [(1280, "light"), (1280, "dark"), (375, "light"), (375, "dark")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GPT-2 XL with a slider, a detector with what it assumes, and what autocast changes of GPT-2 XL."""
    pytest.importorskip("torch", reason="torch is not installed")
    from foretrace.tracer import trace_target

    folder = tmp_path_factory.mktemp("pages")
    large = [
        price(trace_target(f"{EXAMPLES / 'gpt2_xl.py'}:gpt2_xl", {"batch": 8}, autocast=autocast), on="a100-sxm4-80gb")
        for autocast in (None, "bfloat16")
    ]
    found = price(trace_target(f"{SUPPORT / 'detector.py'}:detector"), on="a100-sxm4-80gb")
    smaller = fit(lambda batch: perceptron(batch=batch), "batch", 2**30)
    for name, reports, more in (
        ("large", large[:1], {"fit": smaller}),
        ("detector", [found], {}),
        ("diff", large[::-1], {}),
    ):
        save_html(folder / f"{name}.html", *reports, **more)
    return {name: folder / f"{name}.html" for name in ("large", "detector", "diff")}


@pytest.mark.parametrize("name", ["large", "detector", "diff"])
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_real_steps_open_without_a_word_and_can_be_used(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    assert pages[name].stat().st_size < 2_000_000
    page, trouble = opened(browser, pages[name], width, scheme)
    peak = alive(page)
    page.locator("[data-jump='end of forward']").click()
    assert alive(page) < peak
    page.locator("[data-by=line]").click()
    page.locator("[data-as=treemap]").click()
    assert page.locator("#tree [role=treeitem]").count() > 3
    page.locator("[data-rows=ops]").click()
    page.locator("[data-sort=seconds]").click()
    page.locator("#filter").fill("backward")
    assert page.locator("#table tbody tr").count() > 3
    if name == "diff":
        page.get_by_role("button", name="before").click()
        assert alive(page) != peak
    if name == "detector":
        assert "every element counts (aten.nonzero.default" in page.locator("#doubts").inner_text()
        assert page.locator("#code .lines").count()
    if name == "large":
        page.locator("#size").fill("0")
        assert "Yes" in page.locator("#size-says").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert trouble == []
    page.close()


def test_the_slider_says_what_each_size_takes(browser: Any, tmp_path: Path, report: Report) -> None:
    limit = 67_000_000
    found = fit(
        lambda batch: perceptron(batch=batch), "batch", limit, reserved=lambda g: timeline(g).peak_bytes + 2**18
    )
    assert found.largest_reserved is not None and found.largest_reserved < found.largest
    save_html(tmp_path / "page.html", report, fit=found)
    page, trouble = opened(browser, tmp_path / "page.html")
    values = stops(found, 4)
    assert page.locator("#size").get_attribute("max") == str(len(values) - 1)
    assert page.locator("#size-value").inner_text() == "4"

    def said(value: int) -> str:
        page.locator("#size").fill(str(values.index(value)))
        assert page.locator("#size-value").inner_text() == f"{value:,}"
        assert int(page.locator("#size-says data").get_attribute("value")) == found.peak(value)
        return str(page.locator("#size-says").inner_text())

    assert said(4).startswith(f"Yes {bytes_text(int(found.peak(4)))} of {bytes_text(limit)}")
    assert "not what the caching allocator reserves" in said(found.largest)
    over = int(found.peak(found.largest + 1)) - limit
    assert said(found.largest + 1).startswith("No") and f"{bytes_text(over)} too much" in said(found.largest + 1)
    page.locator("#size").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#size-value").inner_text() == f"{values[values.index(found.largest + 1) - 1]:,}"
    chart = page.locator("#curve .u-over")
    chart.click(position={"x": 0.9 * chart.bounding_box()["width"], "y": 40})
    assert 0.89 < int(page.locator("#size-value").inner_text().replace(",", "")) / values[-1] < 0.91
    assert trouble == []
    page.close()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_opens_without_a_word_and_fits_the_width(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    before, after = price(perceptron(), on=TOY), price(hostile(), on=TOY)
    save_html(tmp_path / "diff.html", after, before)
    page, trouble = opened(browser, tmp_path / "diff.html", width, scheme)
    page.get_by_role("button", name="before").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("canvas").count() == 2
    assert trouble == []
    page.close()


def alive(page: Any) -> int:
    return int(page.locator("#categories tr.total data").get_attribute("value"))


def test_an_instant_shows_what_is_alive_then(page: Any, report: Report) -> None:
    assert alive(page) == report.memory.peak_bytes
    page.locator("[data-jump=start]").click()
    assert alive(page) == report.memory.start_bytes
    box = page.locator("#plot .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + 40)
    assert alive(page) == report.memory.end_bytes
    page.locator("#instant").focus()
    page.keyboard.press("ArrowLeft")
    assert alive(page) == report.memory.live_bytes[-2]
    page.locator("[data-axis=time]").click()
    assert alive(page) == report.memory.live_bytes[-2]


def test_at_every_point_the_listed_storages_are_the_live_bytes(page: Any, report: Report) -> None:
    totals = page.evaluate(
        "() => { const r = foretrace.runs[0]; return r.event.map(e => r.storages.filter(s => s.born <= e && "
        "(s.died < 0 || s.died > e)).reduce((sum, s) => sum + s.bytes, 0)); }"
    )
    assert totals == [report.memory.start_bytes, *report.memory.live_bytes]


def test_the_table_sorts_and_filters(page: Any, report: Report) -> None:
    def column(number: int) -> list[str]:
        return page.locator(f"#table tbody td:nth-child({number})").all_inner_texts()

    page.locator("[data-rows=ops]").click()
    page.locator("[data-sort=count]").click()
    assert column(5) == [str(op.id) for op in reversed(report.trace.ops)]
    page.locator("#filter").fill("relu model.py")
    assert set(column(1)) == {"relu"}
    page.locator("#filter").fill("")
    page.locator("#phase").select_option("optimizer")
    assert len(column(1)) == sum(op.phase == "optimizer" for op in report.trace.ops)
    assert page.evaluate("foretrace.csvText()").count("\n") == len(column(1)) + 1


def test_flame_and_treemap_by_module_and_by_line(page: Any, report: Report) -> None:
    def whole() -> str:
        return str(page.locator("#tree [role=treeitem]").first.get_attribute("aria-label"))

    expected = f"everything: {bytes_text(report.memory.peak_bytes)}, 100 %"
    for by in ("module", "line"):
        for shape in ("flame", "treemap"):
            page.locator(f"[data-by={by}]").click()
            page.locator(f"[data-as={shape}]").click()
            assert whole() == expected
    page.locator("#tree [role=treeitem]").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#path button").count() == 1
    page.keyboard.press("Escape")
    assert whole() == expected


def test_the_theme_goes_round(page: Any) -> None:
    seen = []
    for _ in range(3):
        page.locator("#theme").click()
        seen.append(page.evaluate("getComputedStyle(document.documentElement).colorScheme"))
    assert seen == ["light", "dark", "light"]


def test_everything_that_can_be_used_has_a_name(page: Any) -> None:
    names = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(e => !e.closest('[hidden]')).map(e => "
        "[e.getAttribute('aria-label'), e.textContent, ...[...(e.labels || [])].map(l => l.textContent)]"
        ".join('').trim())"
    )
    assert names and all(names)


def test_numbers_read_as_in_the_terminal(page: Any) -> None:
    counts = [0, 1, 512, 1023, 1024, 102_401, 264 * 2**20, 1023 * 2**30, 41_231_686_144, 2**52]
    assert page.evaluate("counts => counts.map(foretrace.bytesText)", counts) == [bytes_text(n) for n in counts]
    assert page.evaluate("counts => counts.map(n => foretrace.countText(n, 'FLOP'))", counts) == [
        count_text(n, "FLOP") for n in counts
    ]
    times = [0, 4.2e-9, 4.2e-6, 0.2123, 1.5, 615]
    assert page.evaluate("times => times.map(foretrace.secondsText)", times) == [seconds_text(t) for t in times]
    assert page.evaluate("[[48, 100], [1, 1000], [0, 5], [1, 0]].map(([a, b]) => foretrace.shareText(a, b))") == [
        share_text(a, b) for a, b in ((48, 100), (1, 1000), (0, 5), (1, 0))
    ]
