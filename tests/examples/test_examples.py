"""Every example runs, with a few steps: the scripts as a user starts them, and the notebook in a kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "shapes.py")


def test_there_are_examples() -> None:
    assert {"plain_pytorch.py", "lightning_module.py", "transformers_trainer.py"} == set(SCRIPTS)


def test_the_plain_loop_has_thirty_lines() -> None:
    text = (EXAMPLES / "plain_pytorch.py").read_text(encoding="utf-8").partition('"""\n\nimport')[2]
    assert len([line for line in text.splitlines() if line.strip()]) <= 36  # with the imports


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_trains_and_measures(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--steps", "2"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = re.search(r"mIoU (\d+\.\d\d)\s*$", run.stdout)
    assert found is not None, run.stdout
    assert 0 < float(found[1]) < 100


@pytest.mark.slow
def test_the_notebook_runs_without_a_line_on_stderr(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source.count("ITERATIONS = 100") == 1
    first.source = first.source.replace("ITERATIONS = 100", "ITERATIONS = 2")
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    texts = [str(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in outputs]
    assert any(re.search(r"distill 2/2, loss \d", text) for text in texts), texts
    assert any("'teacher'" in text and "'baseline'" in text and "'distill'" in text for text in texts)
    assert any(text.startswith("distill - baseline: ") for text in texts)
    assert any("image/png" in output.get("data", {}) for output in outputs)
