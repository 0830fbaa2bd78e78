"""Read the Markdown pages: code blocks, inline code, headings, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)
NOT_A_PRESET = "<!-- not a preset -->"  # on the line before a YAML block that is something else
_FENCE = re.compile(r"^( *)```(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        line: Line number of the opening fence, from 1.
        above: The last line of text before the fence.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    above: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """Return the fenced code blocks of a page."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    body: list[str] = []
    above = ""
    for number, line in enumerate(page_text(page).splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and opened is None:
            opened, body = (number, fence[1], fence[2].strip()), []
        elif fence and opened is not None:
            title = re.search(r'title="([^"]+)"', opened[2])
            language = opened[2].split(" ")[0]
            text = "\n".join(part.removeprefix(opened[1]) for part in body) + "\n"
            found.append(Block(page, opened[0], language, title[1] if title else "", text, above))
            opened = None
        elif opened is not None:
            body.append(line)
        elif line.strip():
            above = line.strip()
    assert opened is None, f"{page}:{opened} is not closed"
    return tuple(found)


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


@cache
def prose(page: str) -> str:
    """Return the page with its code blocks and HTML comments blanked; line numbers stay."""
    lines = page_text(page).splitlines()
    inside = False
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence or inside:
            lines[number] = ""
        if fence:
            inside = not inside
    return re.sub(r"<!--.*?-->", "", "\n".join(lines))


def inline_code(page: str) -> Iterator[str]:
    for found in re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose(page)):
        yield " ".join(found[1].split())


@cache
def anchors(page: str) -> frozenset[str]:
    """Return the anchors of a page's headings, as Python-Markdown and GitHub name them."""
    names: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\s-]", "", plain).strip().lower()
        names.append(re.sub(r"[-\s]+", "-", slug))
    return frozenset(names)


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def tables(page: str) -> Iterator[list[list[str]]]:
    """Yield each table as rows of cells, the heading first."""
    rows: list[list[str]] = []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                rows.append(cells)
        elif rows:
            yield rows
            rows = []
