"""The report as a reader's browser shows it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_runs import FakeRun, paper_like
from playwright.sync_api import Browser, sync_playwright

from rescaler.page import render
from rescaler.results import load_epochs, load_runs

WIDTHS_PX = (1200, 400)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("RESCALER_REQUIRE_CHROMIUM") == "1":
            pytest.fail("RESCALER_REQUIRE_CHROMIUM=1, but there is no chromium")
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons; of the first all that the page can show."""
    folder = tmp_path_factory.mktemp("report")
    long = "cannot write /a/path/without/a/blank/" + 40 * "folder/"
    runs = [
        *(paper_like(resize_epoch) for resize_epoch in ("never", 0, 17, 18, 19)),
        FakeRun(20, [], status="failed", error=long, epochs_planned=55),
        FakeRun(0, [0.5] * 4, comparison="deadbeef"),
        FakeRun(2, [0.5] * 4, comparison="deadbeef"),
    ]
    for index, run in enumerate(runs):
        path = run.write(folder / "runs" / str(index))
        (path / "config.yaml").write_text(f"resize_epoch: {run.resize_epoch}\nmodel: {run.comparison}\n")
    loaded = load_runs(folder / "runs")
    path = folder / "report.html"
    path.write_text(render(loaded, load_epochs(loaded)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_page_is_whole_and_fits(browser: Browser, report: Path, width_px: int) -> None:
    page = browser.new_page(viewport={"width": width_px, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    # What is folded away must fit as well.
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")

    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    figures = page.eval_on_selector_all(
        "figure img", "all => all.map(one => [one.naturalWidth, one.clientWidth, one.clientHeight, one.alt])"
    )
    assert len(figures) >= 2, "at least one a comparison"
    for natural_px, shown_px, height_px, alternative in figures:
        assert natural_px > 0, "the picture can be read"
        assert shown_px > 300
        assert height_px > 100
        assert alternative
    page.close()


def test_wide_parts_scroll_by_themselves_and_by_keyboard(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(report.as_uri())
    assert page.eval_on_selector_all(".scroll", "all => all.some(one => one.scrollWidth > one.clientWidth)")
    reachable = page.eval_on_selector_all(".scroll", "all => all.every(one => one.tabIndex === 0 && one.ariaLabel)")
    assert reachable
    assert page.eval_on_selector_all("table", "all => all.every(one => one.caption && one.tHead)")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_background(browser: Browser, report: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(report.as_uri())
    colours = page.evaluate(
        """() => {
            const luminance = colour => {
                const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(value => value / 255);
                const [r, g, b] = parts.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const background = one => {
                const colour = getComputedStyle(one).backgroundColor;
                return colour === "rgba(0, 0, 0, 0)" ? background(one.parentElement) : colour;
            };
            const text = "h1, p, li, dt, dd, th, td, code, pre, summary, a, .verdict";
            return [...document.querySelectorAll(text)].map(one => {
                const pair = [luminance(getComputedStyle(one).color), luminance(background(one))];
                return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            });
        }"""
    )
    assert len(colours) > 100
    assert min(colours) >= 4.5, "WCAG 2.2, level AA"
    page.close()
