"""The pictures of the docs: pages are made, opened in headless Chromium, and what the window shows is kept.

    python benchmarks/pictures.py [--times]  # needs playwright, pillow and a chromium; torchvision for the detector

Each picture is looked at before it is committed. With ``--times`` no picture is kept: the time from opening a page to
its first paint, with charts and tables drawn, is printed by the page's own clock.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import foretrace
from foretrace.commands.fit import fit_step
from foretrace.report import Report, save_html
from foretrace.report.sweep_svg import sweep_svg

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
XL = f"{ROOT / 'examples' / 'gpt2_xl.py'}:gpt2_xl"
ON = "a100-sxm4-80gb"
PAINTED = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
DETECTOR = """
import torch

def detector(batch=2):
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    boxes = torch.tensor([[10.0, 20.0, 200.0, 300.0], [50.0, 60.0, 400.0, 500.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in range(batch)]
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    return model, ([torch.rand(3, 800, 800) for _ in range(batch)], targets), lambda losses: sum(losses.values())
"""
SHOTS = (
    ("page", "page", 1280, 1000, "light", ""),
    ("dark", "detector", 1280, 1000, "dark", ""),
    ("diff", "diff", 1280, 900, "light", ""),
    ("diff-dark", "diff", 375, 800, "dark", ""),
    ("narrow", "page", 375, 800, "dark", ""),
    ("narrow-light", "detector", 375, 800, "light", ""),
    ("holders", "page", 1280, 900, "light", "#holders"),
    ("fit", "page", 1280, 900, "light", "#fit"),
    ("fit-dark", "page", 375, 900, "dark", "#fit"),
)
"""Name, page, width and height of the window, colours, and the part of the page; the window where none is named."""


def traced(**options: object) -> Report:
    """GPT-2 XL on the device."""
    parameters = {"batch": 8, "seq": 1024}
    return foretrace.price(foretrace.trace_target(XL, parameters, **options), on=ON)


def pages(folder: Path) -> Iterator[str]:
    """Make the pages, and say which there are."""
    before = traced()
    save_html(folder / "page.html", before, fit=fit_step(before.trace, before.profile, "batch"))
    save_html(folder / "diff.html", traced(autocast="bfloat16"), before)
    yield from ("page", "diff")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    (folder / "detector.py").write_text(DETECTOR)
    graph = foretrace.trace_target(f"{folder / 'detector.py'}:detector")
    save_html(folder / "detector.html", foretrace.price(graph, on=ON))
    yield "detector"


def shots(folder: Path, made: set[str]) -> None:
    """Open the pages and keep what is seen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        for name, page, width, height, scheme, part in SHOTS:
            if page in made:
                window = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                window.goto((folder / f"{page}.html").as_uri())
                seen = window.locator(part).screenshot() if part else window.screenshot()
                (PICTURES / f"{name}.png").write_bytes(smaller(seen))
                window.close()


def times(folder: Path, made: set[str]) -> None:
    """Open each page five times, at two widths and in both themes, and print when it was painted."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        for page in sorted(made):
            for width, scheme in ((1280, "light"), (1280, "dark"), (375, "light"), (375, "dark")):
                window = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                painted = []
                for _ in range(5):
                    window.goto((folder / f"{page}.html").as_uri())
                    while not (found := window.evaluate(PAINTED)):
                        window.wait_for_timeout(10)
                    painted.append(found[0])
                window.close()
                print(f"{page:<10} {width:>4} {scheme:<5}  {min(painted):.0f} to {max(painted):.0f} ms")


def smaller(png: bytes) -> bytes:
    """The same picture in 128 colours."""
    from PIL import Image

    written = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return written.getvalue()


def sweep() -> None:
    """The picture of a sweep over batches on two devices."""
    graphs = [foretrace.trace_target(XL, {"batch": batch, "seq": 1024}) for batch in (1, 2, 4, 8, 16)]
    reports = [foretrace.price(graph, on=on) for graph in graphs for on in (ON, "h100-sxm5-80gb")]
    (PICTURES / "sweep.svg").write_text(sweep_svg(reports))


def main() -> None:
    """Take the pictures, or the times."""
    parser = argparse.ArgumentParser(description="The pictures of the docs, or how soon pages are painted.")
    parser.add_argument("--times", action="store_true", help="print the time to the first paint, and keep no picture")
    timed = parser.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        (times if timed else shots)(Path(name), set(pages(Path(name))))
    if not timed:
        sweep()


if __name__ == "__main__":
    main()
