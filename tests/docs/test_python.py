"""Every Python block compiles, and what it imports from rmrkd_cli exists."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import rmrkd_cli
from tests.docs.pages import Block, all_blocks

BLOCKS = all_blocks("python")


def test_there_are_blocks_to_check() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_python_block_compiles_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, str(block), "exec")
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rmrkd_cli"
        for alias in node.names
        if not exists(str(node.module), alias.name)
    ]
    assert not missing


def exists(module: str, name: str) -> bool:
    """Whether a module has a name, without importing torch; the package's own names are loaded lazily."""
    if module == "rmrkd_cli":
        return name in dir(rmrkd_cli)
    if (Path(rmrkd_cli.__file__).parents[1] / f"{module}.{name}".replace(".", "/")).with_suffix(".py").is_file():
        return True
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return False
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return name in defined
