"""The page in a browser: phone and desktop, light and dark, mouse, keyboard and hostile names."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report.html.document import render_page
from rmrkd_cli.results.training_log import find_log, read_curves
from tests.helpers.browser import HOW_TO_INSTALL, NAMES, find_browser
from tests.report.html import synthetic

pytestmark = pytest.mark.browser
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e" + "long" * 30
CLASSES = ["<b>sky</b>", "x" * 300, "שלום", *(f"class {n}" for n in range(5))]

# Contrast of every element's own text with what lies behind it, the lowest first.
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const part = [r, g, b].map((n) => (n /= 255) <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a] = parse(getComputedStyle(element).backgroundColor);
      if (a === undefined || a > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest(".numbers, .frame") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const a = light(parse(element.closest("svg") ? style.fill : style.color)), b = light(behind(element));
    const what = element.tagName + "." + element.getAttribute("class");
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), what]);
  }
  return found.sort((x, y) => x[0] - y[0]).slice(0, 5);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = find_browser()
    assert found, f"none of {', '.join(NAMES)} is on PATH: {HOW_TO_INSTALL}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def written(comparison: Comparison, folder: Path) -> Path:
    curves = {
        group.label: [read_curves(find_log(synthetic.log(folder / f"{n}", seed=n)))]
        for n, group in enumerate(comparison.groups)
    }
    path = folder / "index.html"
    text = render_page(
        comparison, images=synthetic.images(comparison, size=(96, 64)), curves=curves, missing_curves=(),
        provenance=synthetic.PROVENANCE, file_names=("classes.csv",),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    many = [f"class {n}" for n in range(150)]
    return {
        "street": written(synthetic.comparison(seeds=3), tmp_path_factory.mktemp("street")),
        "hostile": written(
            synthetic.comparison(CLASSES, (HOSTILE, "truth", "שלום"), width=None), tmp_path_factory.mktemp("hostile")
        ),
        "alike": written(
            synthetic.comparison(labels=("teacher", *(f"psp18w32-psp18w8-camvid student {name}" for name in "ab"))),
            tmp_path_factory.mktemp("alike"),
        ),
        "many": written(synthetic.comparison(many), tmp_path_factory.mktemp("many")),
    }


@pytest.fixture
def opened(browser: Browser, files: dict[str, Path]) -> Iterator[Any]:
    """Opens a page; at the end nothing may have been asked for, and nothing gone wrong."""
    pages: list[Page] = []
    wrong: list[str] = []

    def open_page(name: str, width: int = 1440, scheme: Any = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        here = files[name].as_uri()

        def gate(route: Route) -> None:
            if route.request.url.split("#")[0] == here or route.request.url.startswith("data:"):
                route.continue_()
            else:
                wrong.append(route.request.url)
                route.abort()

        page.route("**/*", gate)
        page.goto(here)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["street", "hostile", "many"])
def test_it_fits_and_can_be_read(name: str, width: int, scheme: str, opened: Any) -> None:
    page = opened(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    lowest = page.evaluate(CONTRAST)
    assert len(lowest) == 5
    assert lowest[0][0] >= 4.5, lowest
    heights = "all => all.map((one) => one.getBBox().height * one.getScreenCTM().a).filter((height) => height > 0)"
    assert min(page.locator(".chart text").evaluate_all(heights)) >= 9  # pixels
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_difference_and_that_a_table_scrolls(scheme: str, opened: Any) -> None:
    page = opened("street", 390, scheme)
    box = page.locator("#classes .beside .scroll")
    heading = box.locator("thead th").nth(1)
    assert heading.inner_text() == "distill − baseline"
    right = heading.bounding_box()["x"] + heading.bounding_box()["width"]
    assert right <= 390
    shown = "boxes => boxes.map((box) => box.hasAttribute('data-more') && !box.nextElementSibling.hidden)"
    assert page.locator("#summary > .scroll, #confusion .scroll").evaluate_all(shown) == [True] * 4
    assert box.evaluate_all(shown) == [True]
    assert "scroll sideways" in box.locator("xpath=following-sibling::p[1]").inner_text()
    assert "linear-gradient" in box.evaluate("box => getComputedStyle(box).maskImage")
    box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
    page.wait_for_function("!document.querySelector('#classes .beside .scroll').hasAttribute('data-more')")
    assert opened("street", 1440, scheme).locator(".more:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_row_lines_go_on_below_the_sticky_column(scheme: str, opened: Any) -> None:
    page = opened("street", 390, scheme)
    box = page.locator("#classes .beside .scroll")
    for scrolled in (0, 60):
        box.evaluate("(box, left) => { box.scrollLeft = left }", scrolled)
        for number in range(4):
            cell = box.locator("tbody th").nth(number).bounding_box()
            bottom = round(cell["y"] + cell["height"]) - 1
            clip = {"x": cell["x"] + 2, "y": bottom - 3, "width": cell["width"] + 60, "height": 5}
            image = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True))).convert("L")
            lines = [[image.getpixel((x, y)) for y in range(image.height)] for x in (3, image.width - 8)]
            assert lines[0] == lines[1]
            assert len(set(lines[0])) > 1


@pytest.mark.parametrize("width", [390, 1440])
def test_long_names_that_begin_alike_are_shown_apart(width: int, opened: Any) -> None:
    """A name that is cut by its box says nothing of what was cut."""
    page = opened("alike", width)
    heading = page.locator("h1").text_content()
    assert [name for name in ("student a", "student b") if name not in heading] == []
    for what in (".panel figcaption", "tbody th bdi", ".legend li span"):
        cut = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0).length"
        assert page.locator(what).count() > 2
        assert page.locator(what).evaluate_all(cut) == 0, what
    for chart in (page.locator("svg[aria-label^=mIoU]"), page.locator("svg[aria-label=Legend]")):
        texts = chart.locator("text").all_text_contents()
        assert [end for end in ("student a", "student b") if not any(text.endswith(end) for text in texts)] == []
    names = page.locator("tbody th bdi").evaluate_all("all => all.map((one) => [one.textContent, one.clientHeight])")
    assert all(height < 30 for name, height in names if len(name) < 14)  # no short name is broken
    options = page.locator("select.left").first.locator("option").all_text_contents()
    assert len(set(options)) == len(options) == 4


def test_names_are_text(opened: Any) -> None:
    page = opened("hostile")
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("main b >> text=sky").count() == 0
    assert page.get_by_text("<b>sky</b>").count() > 3
    for chart in ("mIoU", "Confusion", "Difference"):
        assert page.locator(f"svg[aria-label^={chart}] text").filter(has_text="<").count() > 0
    label = page.locator("#summary tbody th bdi").first
    assert label.text_content().startswith("<script>alert(1)</script><img")
    assert "\\u202e" in label.get_attribute("title")


def test_the_slider_follows_mouse_and_keyboard(opened: Any) -> None:
    page = opened("street")
    slider = page.locator(".slider").first
    slider.scroll_into_view_if_needed()
    frame, over = slider.locator(".frame"), slider.locator("img.over")
    box = frame.bounding_box()
    before = frame.screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 30, steps=5)
    page.mouse.up()
    clipped = over.evaluate("image => image.style.clipPath")
    assert 5 <= float(clipped.split()[1].removesuffix("%")) <= 15
    moved = frame.screenshot()
    assert moved != before
    page.keyboard.press("Home")
    assert over.evaluate("image => image.style.clipPath").split()[1] == "100%"
    page.keyboard.press("ArrowRight")
    assert over.evaluate("image => image.style.clipPath").split()[1] == "99%"
    assert frame.screenshot() not in (before, moved)


def test_any_two_maps_can_be_compared(opened: Any) -> None:
    page = opened("street")
    first = page.locator(".example").first
    sources = first.locator(".panel.map img").evaluate_all("images => images.map((image) => image.src)")
    assert len(sources) == 4  # truth and three groups
    over, under = (first.locator(f"img.{side}") for side in ("over", "under"))
    assert [over.get_attribute("src"), under.get_attribute("src")] == [sources[2], sources[3]]
    first.locator("select.left").select_option("truth")
    first.locator("select.right").select_option("teacher")
    assert [over.get_attribute("src"), under.get_attribute("src")] == sources[:2]
    assert over.get_attribute("alt") == "truth, left of the slider"
    assert page.locator(".example").last.locator("select.left").input_value() == "0"  # all follow


def test_the_classes_at_the_pointer_are_shown(opened: Any) -> None:
    page = opened("street")
    figure = page.locator(".example").first
    image = figure.locator(".panel.map img").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 0.3 * box["height"])
    text = figure.locator(".readout").text_content()
    assert text.startswith("truth: ")
    assert [part.split(":")[0] for part in text.split(" · ")] == ["truth", "teacher", "baseline", "distill"]


def test_bars_are_ordered_by_their_difference(opened: Any) -> None:
    texts = opened("street").locator("svg[aria-label^=Difference] text").all_text_contents()
    values = [float(text.replace("−", "-")) for text in texts if text[0] in "+−" and "." in text]
    assert len(values) == 1 + len(synthetic.STREET)
    assert values[1:] == sorted(values[1:], reverse=True)
    assert set(synthetic.STREET) < set(texts)


def test_curves_over_iterations_or_time(opened: Any) -> None:
    page = opened("street")
    assert page.locator(".charts.by-iteration").is_visible()
    assert not page.locator(".charts.by-time").is_visible()
    page.get_by_text("by training time").click()
    assert page.locator(".charts.by-time").is_visible()
    assert not page.locator(".charts.by-iteration").is_visible()


def test_a_small_matrix_is_read_by_keyboard(opened: Any) -> None:
    page = opened("street")
    figure = page.locator(".matrix").first
    figure.locator(".heat").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    group = synthetic.comparison(seeds=3).groups[0]
    assert group.matrix is not None
    count, whole = group.matrix[1][0], sum(group.matrix[1])
    expected = f"sidewalk predicted as road: {100 * count / whole:.2f} % ({count:,} of {whole:,} pixels)"
    assert figure.locator(".readout").text_content() == expected


def test_a_large_matrix_is_read_by_mouse_and_keyboard(opened: Any) -> None:
    page = opened("many", 390)
    figure = page.locator(".matrix").first
    heat, readout = figure.locator(".heat"), figure.locator(".readout")
    heat.scroll_into_view_if_needed()
    box = heat.locator("image").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 20.5 / 150, box["y"] + box["height"] * 10.5 / 150)
    assert readout.text_content().startswith("class 10 predicted as class 20: ")
    heat.focus()
    page.keyboard.press("ArrowDown")
    assert readout.text_content().startswith("class 11 predicted as class 20: ")
    assert figure.locator("aside li").count() == 10


def test_headings_and_tables_are_marked_up(opened: Any) -> None:
    page = opened("street")
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("table").count() == page.locator("table > caption").count()
    assert page.locator("thead th:not([scope])").count() == 0
    assert page.locator("figure:not(:has(figcaption))").count() == 0


def test_printed_it_is_black_on_white_and_whole(opened: Any) -> None:
    page = opened("many", 1440, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.long')).maxHeight") == "none"
    assert not page.locator("nav").is_visible()
