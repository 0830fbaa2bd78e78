"""Links between pages, anchors and named files resolve; README keeps its length and its two marked commands."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, anchors, blocks, inline_code, links, page_text

FOLDERS = ("rmrkd_cli", "presets", "docs", "tests", "benchmarks", "examples", ".ci", ".github")


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if page.startswith("docs/"):
            assert (ROOT / "docs").resolve() in target.resolve().parents, f"{link} leaves the site"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page: str) -> None:
    new = {block.title for block in blocks("CONTRIBUTING.md")}  # the recipes write these
    for code in inline_code(page):
        if (
            code not in new
            and re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code)
            and code.split("/")[0] in FOLDERS
            and "/" in code
        ):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", PAGES)
def test_links_in_code_spans_are_no_links(page: str) -> None:
    assert not re.search(r"(?<!!)\[[^\]]*\]\(\s*\)", page_text(page))


def test_the_site_shows_every_page() -> None:
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    nav = yaml.safe_load(text)["nav"]
    listed = {page for section in nav for entries in section.values() for entry in entries for page in entry.values()}
    assert listed == {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}


def test_readme_links_to_the_site_and_is_short() -> None:
    assert len(page_text("README.md").splitlines()) <= 150
    linked = {link.split("#")[0] for link in links("README.md")}
    assert {page for page in PAGES if page.startswith("docs/")} - linked == {"docs/index.md"} - linked


@pytest.mark.parametrize(
    ("marker", "words"), [("first command", "rmrkd train --preset demo"), ("test command", "pytest")]
)
def test_readme_marks_the_commands_that_continuous_integration_runs(marker: str, words: str) -> None:
    marked = [block for block in blocks("README.md") if block.above == f"<!-- {marker} -->"]
    assert len(marked) == 1
    assert words in marked[0].text
    assert len(marked[0].text.splitlines()) == 1
    assert f"<!-- {marker} -->\n```" in page_text("README.md")
