"""The page and the files beside it, compared with the numbers they show: lengths, counts, colours, names."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from rmrkd_cli.comparison.types import Comparison, Interval
from rmrkd_cli.report.figures import draw_sheet
from rmrkd_cli.report.figures import image_sheets as sheets_module
from rmrkd_cli.report.figures.class_bars import class_bars
from rmrkd_cli.report.figures.class_maps import difference_overlay, full_palette, label_positions
from rmrkd_cli.report.figures.confusion import SHADE, confusion_matrix
from rmrkd_cli.report.figures.counts import largest_confusions, shares
from rmrkd_cli.report.figures.curves import curve_panel
from rmrkd_cli.report.figures.group_miou import group_miou
from rmrkd_cli.report.figures.group_styles import GAIN, LOSS, styles_of
from rmrkd_cli.report.figures.series import Panel, Series
from rmrkd_cli.report.figures.style import figure_style
from rmrkd_cli.report.html import write_report, write_results
from rmrkd_cli.report.html.document import render_page
from rmrkd_cli.report.html.files import write_figures
from rmrkd_cli.report.html.header import conclusion
from rmrkd_cli.report.html.images import class_map
from rmrkd_cli.report.html.svg import COLOURS, inline_svg
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import find_log, read_curves
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import abbreviate_labels, file_names
from tests.report.html import synthetic

CLASSES = ["sky", "=1+1", "never"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    comparison = synthetic.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d"))
    curves = {
        group.label: [read_curves(find_log(synthetic.log(folder / f"run{n}")))]
        for n, group in enumerate(comparison.groups)
    }
    images = synthetic.images(comparison, size=(64, 48))
    few = ReportImages(images.images[:2], images.palette, images.checkpoints, images.missing)
    written = write_results(comparison, folder / "out")
    write_report(
        comparison, folder / "out", images=few, curves=curves, provenance=synthetic.PROVENANCE, written=written
    )
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
    matrix = synthetic.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d")).groups[0].matrix
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
    comparison = synthetic.comparison(CLASSES, ("teacher", "b/../x", "$\\frac$ \u202e_d"))
    for group in comparison.groups:
        for value in (*group.iou, *group.accuracy, *group.dice, group.miou):
            assert ("–" if value is None else f"{100 * value:.2f}") in reader.texts
    assert all("style" not in attributes and "onclick" not in attributes for _, attributes in reader.tags)
    links = [attributes["href"] or "" for tag, attributes in reader.tags if tag == "a"]
    files = [unquote(link) for link in links if not link.startswith("#")]
    assert len(files) > 10
    assert all((report / file).is_file() for file in files)  # beside the page, and only followed by a click
    sources = [
        value for tag, attributes in reader.tags for key, value in attributes.items()
        if key == "src" or (key == "href" and tag != "a")
    ]  # fmt: skip
    assert all((value or "").startswith(("data:image/", "#")) for value in sources)
    assert all(attributes.get("alt") is not None for tag, attributes in reader.tags if tag == "img")
    assert page.count("<script") == 1
    assert "\u202e" not in page


@pytest.mark.parametrize("width", [None, 0.03])
def test_bars_begin_at_zero_and_end_at_their_value(width: float | None) -> None:
    comparison = synthetic.comparison(width=width)
    difference = comparison.differences[0]
    with figure_style():
        axes = class_bars(comparison, [difference]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "mean IoU"
    assert sorted(names[1:]) == sorted(synthetic.STREET)
    by_name = dict(zip(comparison.classes, difference.classes, strict=True)) | {"mean IoU": difference.mean}
    whiskers = [line for line in axes.lines if line.get_marker() == "|"]
    assert len(whiskers) == (0 if width is None else 20)
    for row, (name, bar) in enumerate(zip(names, axes.patches, strict=True)):
        interval = by_name[name]
        assert interval.value is not None
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(row)
        assert bar.get_x() == 0
        assert bar.get_width() == pytest.approx(100 * interval.value)
        assert to_hex(bar.get_edgecolor()) == (GAIN if interval.value >= 0 else LOSS)
        assert bool(bar.get_hatch()) == (interval.value < 0)
        assert (bar.get_linestyle() == "-") == (width is None or interval.excludes_zero)
        if interval.low is not None and interval.high is not None:
            assert list(whiskers[row].get_xdata()) == pytest.approx([100 * interval.low, 100 * interval.high])
    values = [by_name[name].value for name in names[1:]]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]


def test_charts_of_one_comparison_have_one_axis() -> None:
    comparison = synthetic.comparison(labels=("teacher", "baseline", "a", "b"))
    with figure_style():
        limits = [class_bars(comparison, [one]).axes[0].get_xlim() for one in comparison.differences]
    assert limits[0] == limits[1]


def test_lines_run_through_their_points() -> None:
    points = ((0.0, 1.0), (50.0, 3.0), (100.0, 2.0))
    with figure_style():
        panel = Panel("x", "", (Series("distill", points),))
        (line,) = curve_panel(panel, styles_of(synthetic.comparison().groups), seconds=False).axes[0].lines
    assert [tuple(point) for point in line.get_xydata()] == list(points)


def test_every_group_and_seed_has_its_mark() -> None:
    groups = synthetic.comparison(seeds=3).groups
    with figure_style():
        figure = group_miou(groups)
        assert figure is not None
        lines = figure.axes[0].lines
    for row, group in enumerate(groups):
        seeds, mean = lines[2 * row], lines[2 * row + 1]
        assert list(seeds.get_xdata()) == pytest.approx([100 * one["metrics"]["miou"] for one in group.records])
        assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([pytest.approx(100 * (group.miou or 0))], [row])


SVG_TEXT = "<script>&\"'$x$ \uffff שלום"


def test_a_figure_on_the_page_has_no_style_of_its_own_and_escapes_text() -> None:
    comparison = synthetic.comparison()
    with figure_style():
        figures = [
            class_bars(comparison, comparison.differences),
            confusion_matrix(comparison.groups[0], synthetic.STREET),
        ]
        figures[0].axes[0].set_title(SVG_TEXT)
        elements = [inline_svg(figure, f"key{n}", "<b>") for n, figure in enumerate((*figures, figures[0]))]
    for element in elements:
        root = ElementTree.fromstring(element)
        attributes = [item for part in root.iter() for item in part.attrib.items()]
        colours = {value for name, value in attributes if name in ("fill", "stroke")}
        assert {colour for colour in colours if not colour.startswith(("var(--", "url(#", "none"))} == set()
        assert not {"style", "font-family"} & {name for name, _ in attributes}
        assert root.attrib["aria-label"] == "<b>"
        assert "<script>" not in element
    assert SVG_TEXT.replace("\uffff", "\ufffd") in ElementTree.fromstring(elements[0]).itertext()
    names = [set(re.findall(r' id="([^"]+)"', element)) for element in elements]
    assert names[0]
    assert not names[0] & names[2]  # the same figure twice on a page


def luminance(colour: Sequence[float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [2, 3], ids=["light", "dark"])
def test_numbers_in_a_matrix_can_be_read_on_every_shade(scheme: int) -> None:
    paper, text = (next(to_rgb(one[scheme]) for one in COLOURS if one[1] == name) for name in ("--paper", "--cell"))
    for alpha in np.linspace(0, 1, 21):
        shade = [alpha * value / 255 + (1 - alpha) * ground for value, ground in zip(SHADE, paper, strict=True)]
        dark, light = sorted((luminance(shade), luminance(text)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_matrix_shows_its_shares() -> None:
    group = synthetic.comparison().groups[0]
    assert group.matrix is not None
    with figure_style():
        axes = confusion_matrix(group, synthetic.STREET).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    for truth, row in enumerate(shares(group.matrix)):
        for guess, share in enumerate(row):
            expected = None if share == 0 else "·" if share < 0.005 else f"{100 * share:.0f}"
            assert texts.get((guess, truth)) == expected
    alpha = axes.images[0].get_array()[..., 3]
    assert np.array_equal(alpha, np.rint(255 * np.sqrt(shares(group.matrix))))


def test_the_conclusion_claims_no_more_than_the_interval() -> None:
    comparison = replace(synthetic.comparison(), warnings=())
    first = comparison.differences[0]

    def text(mean: Interval) -> str:
        changed = type(first)(first.base, first.to, first.classes, mean)
        return re.sub("<[^>]+>", "", conclusion(replace(comparison, differences=(changed,))))

    assert text(Interval(0.0962, 0.05, 0.12)).startswith(
        "distill is better than baseline by 9.62 points of mIoU, 95 % interval +5.00 to +12.00"
    )
    assert text(Interval(-0.02, -0.03, -0.01)).startswith("distill is worse than baseline by 2.00 points")
    undecided = text(Interval(0.01, -0.03, 0.04))
    assert undecided.startswith("The data do not decide whether distill is better than baseline")
    assert "−3.00 to +4.00, includes zero" in undecided
    assert "no interval could be computed" in text(Interval(0.01))
    assert text(Interval(0.00001)).startswith("distill and baseline have the same mIoU")
    assert text(Interval(None)).startswith("There is no difference of mIoU")


def test_the_conclusion_speaks_of_these_images_while_a_warning_holds() -> None:
    """As for 20 iterations, 16 images and one seed."""
    few = synthetic.comparison()
    assert few.warnings
    assert conclusion(few).startswith("On these 60 images, ")
    assert "<b>" not in conclusion(few)
    assert "<b>" in conclusion(replace(few, warnings=()))


def test_shares_and_largest_confusions() -> None:
    matrix = [[6, 3, 1], [0, 0, 0], [2, 9, 9]]
    assert shares(matrix)[0].tolist() == [0.6, 0.3, 0.1]
    assert np.isnan(shares(matrix)[1]).all()
    assert largest_confusions(matrix) == [(2, 1), (0, 1), (2, 0), (0, 2)]


def test_groups_look_different_and_roles_alike_everywhere() -> None:
    four = styles_of(synthetic.comparison(labels=("t", "b", "d", "e")).groups)
    assert len({(style.colour, style.dash, style.marker) for style in four.values()}) == 4
    assert styles_of(synthetic.comparison().groups)["distill"] == four["d"]
    assert len({style.marker for style in four.values()}) == len({style.dash for style in four.values()}) == 4


def test_the_overlay_marks_who_is_correct() -> None:
    photo, truth = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    first, second = truth.copy(), truth.copy()
    first[:12], second[12:24] = 1, 1
    first[24:36], second[24:36] = 1, 2
    truth[36:], second[36:] = 255, 1  # not counted
    marked = difference_overlay(photo, truth, first, second)
    assert (marked[:12] == (0, 114, 178)).all()
    striped = (marked[13:23, 1:-1] == (230, 130, 0)).all(-1).mean()
    assert 0.3 < striped < 0.7
    assert len(np.unique(marked[25:35, 1:-1])) == 2
    assert len(np.unique(marked[36:])) == 1


def test_numbers_stand_inside_their_region() -> None:
    classes = np.zeros((60, 80), np.uint8)
    classes[10:30, 20:60] = 2
    classes[50:52, 0:2] = 1  # too small
    found = {k: (x, y) for k, x, y, _ in label_positions(classes, [(0, 0, 0), (255, 255, 255), (9, 9, 9)])}
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


def page_text(comparison: Comparison, images: ReportImages) -> str:
    page = render_page(
        comparison, images=images, curves={}, missing_curves=(), provenance=synthetic.PROVENANCE, file_names=()
    )
    return " ".join(re.sub("<[^>]*>", "", page).split())


def test_the_legend_names_the_compared_predictions() -> None:
    comparison = synthetic.comparison(CLASSES)
    images = synthetic.images(comparison, size=(32, 24))
    for labels, compared in ((("teacher", "distill"), True), (("baseline", "distill"), True), (("distill",), False)):
        few = [replace(one, predictions={k: one.predictions[k] for k in labels}) for one in images.images[:1]]
        text = page_text(comparison, replace(images, images=tuple(few)))
        assert ("solid blue: only distill is correct" in text) == compared
        assert (f"orange stripes: only {labels[0]} is correct" in text) == compared


def test_every_prediction_is_on_the_sheet_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "a/long/path/that/all/of/them/share/"
    comparison = synthetic.comparison(labels=("truth", f"{path}one/student", f"{path}two/student"))
    images = synthetic.images(comparison, size=(64, 48))
    titles: list[str] = []
    show = sheets_module._show
    monkeypatch.setattr(sheets_module, "_show", lambda *given: (titles.append(given[2]), show(*given)))
    labels = [group.label for group in comparison.groups]
    draw_sheet(images.images[0], images.palette, comparison.classes, (labels[1], labels[2]), tmp_path / "x.png")
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
    comparison = synthetic.comparison(CLASSES)
    assert "curves.png" not in write_figures(replace(comparison, groups=()), ReportImages(), bare, tmp_path / "out")


@given(st.lists(st.text(max_size=80), unique=True, max_size=6))
def test_file_names_are_safe_and_none_is_used_twice(labels: list[str]) -> None:
    names = list(file_names(labels).values())
    assert len({name.lower() for name in names}) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9.-]{0,70}", name) and name != ".." for name in names)
