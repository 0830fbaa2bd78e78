"""The messages of the troubleshooting page are those of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.pages import ROOT, tables

PAGE = "docs/troubleshooting.md"
OTHER_PROGRAMS = r"\(of .*\)$"  # pip, and typer
MESSAGES = [row[0] for table in tables(PAGE) if table[0][0] == "message" for row in table[1:]]


@cache
def texts() -> tuple[str, ...]:
    """Return every text in the package, with … for its values and without backticks."""
    found: list[str] = []
    for path in sorted((ROOT / "rmrkd_cli").rglob("*.py")):
        found += _texts(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(found)


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        text = _text(node)
        if text:
            yield " ".join(text.replace("`", "").split())


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return "".join(_text(side) or "…" for side in (node.left, node.right))
    return ""


def test_there_are_messages_to_check() -> None:
    assert len(MESSAGES) > 40
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", [message for message in MESSAGES if not re.search(OTHER_PROGRAMS, message)])
def test_a_message_of_the_page_is_one_of_the_code(message: str) -> None:
    parts = [re.escape(part.strip()) for part in message.replace("`", "").split("…")]
    pattern = re.compile(r".*?".join(parts).removeprefix(".*?"))
    assert any(pattern.search(text) for text in texts())
