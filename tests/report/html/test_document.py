"""The page as text: what needs no browser to see."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from rmrkd_cli.comparison.types import Boundary, Comparison
from rmrkd_cli.report.figures import draw_curves
from rmrkd_cli.report.html.document import render_page
from rmrkd_cli.report.html.files import write_results
from rmrkd_cli.report.html.header import title_of
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import Curves, find_log, read_curves
from tests.report.html import synthetic


def logs(comparison: Comparison, folder: Path, steps: int) -> dict[str, list[Curves]]:
    groups = enumerate(comparison.groups)
    return {
        group.label: [read_curves(find_log(synthetic.log(folder / str(n), steps=steps, seed=n)))] for n, group in groups
    }


def page_of(comparison: Comparison, folder: Path, *, steps: int = 60, files: tuple[str, ...] = ()) -> str:
    return render_page(
        comparison, images=ReportImages(), curves=logs(comparison, folder, steps), missing_curves=(),
        provenance=synthetic.PROVENANCE, file_names=files,
    )  # fmt: skip


def test_runs_of_one_logged_step_get_no_empty_frames(tmp_path: Path) -> None:
    """As 20 iterations, of which every 50th is logged."""
    comparison = synthetic.comparison()
    page = page_of(comparison, tmp_path, steps=1)
    assert page.count("<small>one point only</small>") == 6  # mIoU, total and one loss, over iterations and seconds
    assert "at iteration 10</li>" in page
    assert 'aria-label="validation mIoU, %' not in page
    assert "one point only" not in page_of(comparison, tmp_path / "long")
    draw_curves(logs(comparison, tmp_path / "drawn", 1), tmp_path / "curves.svg")
    assert "one point only" in (tmp_path / "curves.svg").read_text()


def test_the_files_beside_the_page_are_links(tmp_path: Path) -> None:
    page = page_of(synthetic.comparison(), tmp_path, files=("classes.csv", "pictures/001-a b.png"))
    assert '<a href="classes.csv"><code>classes.csv</code></a>' in page
    assert '<a href="pictures/001-a%20b.png"><code>pictures/001-a b.png</code></a>' in page


def test_the_title_names_the_preset_of_a_custom_data_set() -> None:
    comparison = synthetic.comparison()
    assert title_of(comparison).endswith("on street val")
    custom = replace(comparison, protocol={**comparison.protocol, "dataset": "custom"})
    for record in custom.records:
        record["name"] = "mine"
    assert title_of(custom) == "distill compared with baseline on mine val"
    custom.records[0]["name"] = "other"
    assert title_of(custom).endswith("on custom val")


def test_limits_of_the_latency_are_on_the_page(tmp_path: Path) -> None:
    warned = replace(synthetic.comparison(), latency_warnings=("the machine was busy",), latency_notes=("pooled",))
    page = page_of(warned, tmp_path)
    assert "<li>the machine was busy</li>" in page
    assert "pooled." in page
    assert "<b>distill" not in page.partition("</header>")[0]
    assert 'class="totals soft"' in page


def test_boundary_iou_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    comparison = synthetic.comparison()
    assert "oundary" not in page_of(comparison, tmp_path / "without")
    scores = [Boundary(0.02, 0.3 + 0.1 * n, None, group.iou) for n, group in enumerate(comparison.groups)]
    groups = tuple(replace(group, boundary=each) for group, each in zip(comparison.groups, scores, strict=True))
    known = replace(
        comparison, groups=groups, boundary_differences=comparison.differences, boundary_warnings=("none of <b>x",)
    )
    page = page_of(known, tmp_path / "with")
    assert "<summary>Boundary IoU of each class</summary>" in page
    assert re.search(r'<th scope="row">.*mean boundary IoU.*</th><td>', page)
    assert re.search(r'<th scope="col">.*boundary IoU.*</th>', page)
    assert "<li>none of &lt;b&gt;x</li>" in page
    assert "Boundary IoU: IoU of the pixels within 2 % of the image&#39;s diagonal from an edge." in page
    assert "boundary.csv" in write_results(known, tmp_path)
    assert "mean boundary IoU,30.00,40.00,50.00," in (tmp_path / "boundary.csv").read_text()
    assert "boundary.csv" not in write_results(comparison, tmp_path / "without")
