"""What stands on the page and beside it, held against the comparison: lengths, counts, colours, names."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmrkd_cli.comparison.types import Interval
from rmrkd_cli.report.figures import draw_sheet
from rmrkd_cli.report.figures import image_sheets as sheets_module
from rmrkd_cli.report.figures.class_maps import disagreement, full_palette, numbered
from rmrkd_cli.report.figures.counts import largest, shares
from rmrkd_cli.report.figures.group_styles import styles_of
from rmrkd_cli.report.figures.series import Panel, Series
from rmrkd_cli.report.html import write_report, write_results
from rmrkd_cli.report.html.axes import Scale, nice
from rmrkd_cli.report.html.bar_charts import chart_bounds, difference_chart
from rmrkd_cli.report.html.files import write_figures
from rmrkd_cli.report.html.gallery import gallery_section
from rmrkd_cli.report.html.header import verdict
from rmrkd_cli.report.html.images import class_map
from rmrkd_cli.report.html.line_charts import apart, line_chart
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import find_log, read_curves
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import abbreviate_labels, file_names
from tests.report.html import made

CLASSES = ["sky", "=1+1", "never"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    comparison = made.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d"))
    curves = {
        group.label: [read_curves(find_log(made.log(folder / f"run{n}")))] for n, group in enumerate(comparison.groups)
    }
    shown = made.pictures(comparison, size=(64, 48))
    few = ReportImages(shown.shown[:2], shown.palette, shown.predicted_by, shown.missing)
    there = write_results(comparison, folder / "out")
    write_report(comparison, folder / "out", pictures=few, curves=curves, provenance=made.PROVENANCE, there=there)
    return folder / "out"


def test_files_beside_the_page_have_harmless_names_and_are_pictures(report: Path) -> None:
    names = sorted(path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file())
    assert names == [
        "classes.csv", "classes.png", "confusion-b-..-x.csv", "confusion-b-..-x.png", "confusion-frac-d.csv",
        "confusion-frac-d.png", "confusion-teacher.csv", "confusion-teacher.png", "curves.csv", "curves.png",
        "index.html", *(f"pictures/00{n}-{name}.png" for n, name in sheets(report)),
        "results.json", "summary.csv",
    ]  # fmt: skip
    page = (report / "index.html").read_text()
    assert [name for name in names if f"<code>{name}</code>" not in page] == ["index.html"]
    for path in report.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 250
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # something is drawn


def sheets(report: Path) -> list[tuple[int, str]]:
    return [(int(path.name[:3]), path.stem[4:]) for path in sorted((report / "pictures").iterdir())]


def test_counts_in_csv_are_the_comparisons(report: Path) -> None:
    rows = list(csv.reader((report / "confusion-teacher.csv").open(newline="")))
    matrix = made.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d")).groups[0].matrix
    assert matrix is not None
    assert [tuple(map(int, row[1:])) for row in rows[1:]] == list(matrix)
    assert [row[0] for row in rows[1:]] == ["sky", "'=1+1", "never"]
    curves = list(csv.DictReader((report / "curves.csv").open(newline="")))
    log = read_curves(report.parent / "run0" / "log.jsonl")
    of_teacher = [row for row in curves if row["group"] == "teacher"]
    assert len(of_teacher) == len(log.iterations) + len(log.validated)
    assert [float(row["total"]) for row in of_teacher if row["total"]] == pytest.approx(log.total)
    assert [float(row["val mIoU %"]) for row in of_teacher if row["val mIoU %"]] == pytest.approx(
        [100 * value for value in log.miou], abs=1e-4
    )


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_says_every_figure_and_asks_for_nothing(report: Path) -> None:
    page = (report / "index.html").read_text()
    reader = Texts()
    reader.feed(page)
    comparison = made.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d"))
    for group in comparison.groups:
        for value in (*group.iou, *group.accuracy, *group.dice, group.miou):
            assert ("–" if value is None else f"{100 * value:.2f}") in reader.texts
    assert all("style" not in attributes and "onclick" not in attributes for _, attributes in reader.tags)
    sources = [value for _, attributes in reader.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all((value or "").startswith(("data:image/", "#")) for value in sources)
    assert all(attributes.get("alt") is not None for tag, attributes in reader.tags if tag == "img")
    assert page.count("<script") == 1
    assert "\u202e" not in page


@pytest.mark.parametrize("width", [None, 0.03])
def test_bars_begin_at_zero_and_end_at_their_value(width: float | None) -> None:
    comparison = made.comparison(width=width)
    difference = comparison.differences[0]
    bounds = chart_bounds([difference])
    drawn = difference_chart(comparison, difference, bounds)
    rows = re.findall(r'<li class="row" data-class="(\d+)".*?</li>', drawn, re.S)
    assert sorted(map(int, rows)) == list(range(19))
    for match in re.finditer(r'<li class="row" data-class="(\d+)" data-value="([^"]*)">(.*?)</li>', drawn, re.S):
        found = difference.classes[int(match[1])]
        assert found.value is not None
        place = re.search(r'<rect class="(\w+)( open)?" x="([\d.]+)%" width="([\d.]+)%"', match[3])
        assert place is not None
        scale = Scale(*bounds)
        low, high = sorted((scale(0), scale(100 * found.value)))
        assert (float(place[3]), float(place[4])) == (pytest.approx(low, abs=2e-3), pytest.approx(high - low, abs=2e-3))
        assert place[1] == ("gain" if found.value >= 0 else "loss")
        assert bool(place[2]) == (width is not None and not found.decided)
        ends = re.findall(r'class=whisker x1="([\d.]+)%" x2="([\d.]+)%"', match[3])
        assert len(ends) == (0 if width is None else 3)
        if found.low is not None:
            assert [float(end) for end in ends[0]] == pytest.approx(
                [scale(100 * found.low), scale(100 * found.high)], abs=2e-3
            )
    values = [float(value) for value in re.findall(r'class="row" data-class="\d+" data-value="([^"]+)"', drawn)]
    assert values == sorted(values, reverse=True)


def test_lines_run_through_their_points() -> None:
    comparison = made.comparison()
    styles = styles_of(comparison.groups)
    points = ((0.0, 1.0), (50.0, 3.0), (100.0, 2.0))
    drawn = line_chart(Panel("x", "", (Series("distill", points),)), styles)
    path = re.search(r'<polyline[^>]*points="([^"]+)"', drawn)
    assert path is not None
    places = [tuple(map(float, pair.split(","))) for pair in path[1].split()]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 < y0  # up is more


@given(st.lists(st.floats(0, 200), max_size=9))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    placed = apart(sorted(wanted), 10, 190)
    assert all(second - first >= 14.999 for first, second in pairwise(placed))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 9))
def test_ticks_are_even_and_enclose(low: float, size: float, count: int) -> None:
    ticks = nice(low, low + size, count)
    steps = [second - first for first, second in pairwise(ticks)]
    assert ticks[0] <= low + 1e-6 * size + 1e-9 * abs(low)
    assert ticks[-1] >= low + size - 1e-6 * size - 1e-9 * abs(low)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    assert len(ticks) <= count + 3


def test_the_verdict_does_not_say_more_than_the_interval() -> None:
    comparison = made.comparison()
    first = comparison.differences[0]

    def said(mean: Interval) -> str:
        changed = type(first)(first.base, first.to, first.classes, mean)
        return re.sub("<[^>]+>", "", verdict(type(comparison)(**{**vars(comparison), "differences": (changed,)})))

    assert said(Interval(0.0962, 0.05, 0.12)).startswith(
        "distill is better than baseline by 9.62 points of mIoU (95 % interval +5.00 to +12.00)"
    )
    assert said(Interval(-0.02, -0.03, -0.01)).startswith("distill is worse than baseline by 2.00 points")
    assert said(Interval(0.01, -0.03, 0.04)).startswith("It is not decided whether distill is better than baseline")
    assert "no interval could be computed" in said(Interval(0.01))
    assert said(Interval(None)).startswith("No two of these results")


def test_shares_and_largest_confusions() -> None:
    matrix = [[6, 3, 1], [0, 0, 0], [2, 9, 9]]
    assert shares(matrix)[0].tolist() == [0.6, 0.3, 0.1]
    assert np.isnan(shares(matrix)[1]).all()
    assert largest(matrix) == [(2, 1), (0, 1), (2, 0), (0, 2)]


def test_groups_look_different_and_roles_alike_everywhere() -> None:
    four = styles_of(made.comparison(labels=("t", "b", "d", "e")).groups)
    assert len({(style.colour, style.dash, style.marker) for style in four.values()}) == 4
    assert styles_of(made.comparison().groups)["distill"] == four["d"]
    assert len({style.marker for style in four.values()}) == len({style.dash for style in four.values()}) == 4


def test_disagreement_tells_won_lost_and_both_wrong_apart() -> None:
    photo, truth = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    first, second = truth.copy(), truth.copy()
    first[:12], second[12:24] = 1, 1
    first[24:36], second[24:36] = 1, 2
    truth[36:], second[36:] = 255, 1  # not counted
    marked = disagreement(photo, truth, first, second)
    assert (marked[:12] == (0, 114, 178)).all()
    striped = (marked[13:23, 1:-1] == (230, 130, 0)).all(-1).mean()
    assert 0.3 < striped < 0.7
    assert len(np.unique(marked[25:35, 1:-1])) == 2
    assert len(np.unique(marked[36:])) == 1


def test_numbers_stand_inside_their_region() -> None:
    classes = np.zeros((60, 80), np.uint8)
    classes[10:30, 20:60] = 2
    classes[50:52, 0:2] = 1  # too small
    found = {k: (x, y) for k, x, y, _ in numbered(classes, [(0, 0, 0), (255, 255, 255), (9, 9, 9)])}
    assert set(found) == {0, 2}
    assert all(classes[y, x] == k for k, (x, y) in found.items())


def test_a_class_map_is_read_back_from_its_colours() -> None:
    classes = np.array([[0, 1], [2, 255]], np.uint8)
    palette = [(10, 20, 30), (200, 0, 0), (0, 0, 250)]
    data = base64.b64decode(class_map(classes, palette).partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), classes)
        assert np.asarray(picture.convert("RGB")).tolist() == [[[10, 20, 30], [200, 0, 0]], [[0, 0, 250], [255] * 3]]


def test_no_two_classes_share_a_colour_and_none_has_that_of_what_is_not_counted() -> None:
    """VOC's background is black, ADE20K has one colour twice, and others may have anything."""
    rng = np.random.default_rng(0)
    greys = [(n // 9 * 32, n // 3 % 3 * 120, n % 3 * 120) for n in range(27)]
    for palette in ([(0, 0, 0), (128, 0, 0)], [(9, 9, 9)] * 255, greys, rng.integers(0, 256, (150, 3)).tolist()):
        colours = full_palette(palette)
        assert len(np.unique(colours, axis=0)) == len(palette) + 1
        first = [list(palette).index(colour) for colour in palette]
        assert all((colours[k] == palette[k]).all() for k, n in enumerate(first) if k == n)
    ground = full_palette([(0, 0, 0), (128, 0, 0)])[255]
    assert ground.min() > 200
    assert full_palette([(128, 64, 128), (70, 70, 70)])[255].tolist() == [0, 0, 0]


def test_the_legend_names_the_predictions_that_are_held_against_each_other() -> None:
    comparison = made.comparison()
    whole = made.pictures(comparison, size=(32, 24))
    for there, said in ((("teacher", "distill"), True), (("baseline", "distill"), True), (("distill",), False)):
        few = [replace(one, predictions={k: one.predictions[k] for k in there}) for one in whole.shown[:1]]
        text = re.sub("<[^>]*>", "", gallery_section(comparison, replace(whole, shown=tuple(few))))
        assert (f"full: distill is right, {there[0]} is not" in text) == said
        assert text.count("is right") == 2 * said


def test_every_prediction_is_on_the_sheet_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "a/long/path/that/all/of/them/share/"
    comparison = made.comparison(labels=("truth", f"{path}one/student", f"{path}two/student"))
    whole = made.pictures(comparison, size=(64, 48))
    titles: list[str] = []
    show = sheets_module._show
    monkeypatch.setattr(sheets_module, "_show", lambda *given: (titles.append(given[2]), show(*given)))
    labels = [group.label for group in comparison.groups]
    draw_sheet(whole.shown[0], whole.palette, comparison.classes, (labels[1], labels[2]), tmp_path / "x.png")
    assert titles[:3] == ["image", "truth", "truth"]
    assert [title[-11:] for title in titles[3:5]] == ["one/student", "two/student"]
    assert len(titles) == 6


@given(st.lists(st.text(max_size=80), unique=True, max_size=6), st.integers(8, 30))
def test_labels_that_are_cut_stay_apart(labels: list[str], longest: int) -> None:
    shown = abbreviate_labels(labels, longest)
    assert list(shown) == labels
    assert all(len(text) <= longest for text in shown.values())
    distinct = len({escape_control(label) for label in labels}) == len(labels)
    assert len(set(shown.values())) == len(labels) or not distinct


def test_a_log_that_says_nothing_has_no_figure(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"iter": 1, "losses": {}}\n')
    bare = {"teacher": [read_curves(tmp_path / "log.jsonl")]}
    comparison = made.comparison(CLASSES)
    assert "curves.png" not in write_figures(replace(comparison, groups=()), ReportImages(), bare, tmp_path / "out")


@given(st.lists(st.text(max_size=80), unique=True, max_size=6))
def test_file_names_are_safe_and_none_is_used_twice(labels: list[str]) -> None:
    names = list(file_names(labels).values())
    assert len({name.lower() for name in names}) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9.-]{0,70}", name) and name != ".." for name in names)
