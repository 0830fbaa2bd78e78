"""Some commands and all Python blocks of the docs, run for real on one short run of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.docs.commands import rmrkd_commands
from tests.docs.pages import ROOT, all_blocks, blocks
from tests.helpers import forked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory after README's first command, cut to four iterations, with the student and some photos."""
    folder = tmp_path_factory.mktemp("docs")
    first = next(block for block in blocks("README.md") if block.above == "<!-- first command -->")
    (command,) = rmrkd_commands(first.text)
    printed = run([*command, "--max-iters", "4"], folder)
    assert "mean IoU" in printed
    assert "distill - baseline" in printed
    run(command_in("docs/predict-and-export.md", "transfer"), folder)
    (folder / "photos").mkdir()
    for image in demo_files("val")[:2]:
        (folder / "photos" / image.name).write_bytes(image.read_bytes())
    return folder


def demo_files(part: str) -> list[Path]:
    return sorted(Path(os.environ["RMRKD_CACHE"]).glob(f"demo*/{part}/*.png"))


def run(arguments: list[str], folder: Path) -> str:
    end = forked.run(forked.server(), arguments, folder, 600)
    assert end.exit_code == 0, end.text
    return end.text


def command_in(page: str, *words: str) -> list[str]:
    """Return the first command of a page that holds the words."""
    every = (
        arguments for block in blocks(page) if block.language == "bash" for arguments in rmrkd_commands(block.text)
    )
    return next(arguments for arguments in every if set(words) <= set(arguments))


def test_the_run_writes_the_files_that_the_page_names(folder: Path) -> None:
    for role in ("teacher", "baseline", "distill"):
        written = {path.name for path in (folder / "work_dirs/demo" / role).iterdir()}
        assert {"config.yaml", "log.jsonl", "tensorboard", "last.pth", "student.pth", "result.json"} <= written


def test_the_same_command_stops_and_resume_shows_the_result(folder: Path) -> None:
    resumed = command_in("docs/resume.md", "--resume")
    again = [word for word in resumed if word != "--resume"]
    with pytest.raises(AssertionError, match="--resume"):
        run([*again, "--max-iters", "4"], folder)
    assert "mean IoU" in run([*resumed, "--max-iters", "4"], folder)


def test_evaluation_of_the_extracted_student(folder: Path) -> None:
    assert "IoU" in run(["eval", "student.pth", "--max-images", "4"], folder)


def test_compare_of_results_writes_the_report(folder: Path) -> None:
    results = [f"work_dirs/demo/{role}/result.json" for role in ("baseline", "distill")]
    assert "distill - baseline" in run(["compare", *results], folder)


def test_plot_draws_the_curves(folder: Path) -> None:
    run(command_in("docs/compare-and-report.md", "plot"), folder)
    assert (folder / "curves.svg").is_file()


def test_predict_segments_photos(folder: Path) -> None:
    run(command_in("docs/first-run.md", "predict"), folder)
    assert len(list((folder / "predictions").rglob("*.png"))) >= 4


def test_export_writes_torchscript(folder: Path) -> None:
    run(command_in("docs/predict-and-export.md", "export", "student.pt"), folder)
    assert (folder / "student.pt").is_file()


def test_own_data_is_checked_and_trained(folder: Path) -> None:
    page = "docs/own-data.md"
    preset = yaml.safe_load(next(block for block in blocks(page) if block.title == "mine.yaml").text)
    demo = yaml.safe_load((ROOT / "presets/demo.yaml").read_text())
    preset |= {"teacher": demo["teacher"], "student": demo["student"]}  # narrow ones, for a CPU
    preset["schedule"] = {"iters": 2, "batch_size": 2, "crop": [64, 64]}
    preset["teacher"]["schedule"] = {"iters": 2}
    preset["data"] |= {"classes": list("abcdefgh"), "train_scale": [128, 128]}
    del preset["data"]["palette"]
    for split in ("train", "val"):
        for kind, source in (("images", split), ("masks", f"{split}annot")):
            (folder / "data/mine" / kind / split).mkdir(parents=True)
            for file in demo_files(source)[:4]:
                suffix = ".jpg" if kind == "images" else ".png"
                Image.open(file).save(folder / "data/mine" / kind / split / f"{file.stem}{suffix}")
    (folder / "mine.yaml").write_text(yaml.safe_dump(preset))
    assert "Pixels of each class" in run(command_in(page, "data", "check", "mine.yaml"), folder)
    assert "mean IoU" in run([word for word in command_in(page, "train", "mine.yaml") if word != "--dry-run"], folder)


def test_a_custom_loss_trains(folder: Path) -> None:
    loss = next(block for block in blocks("docs/methods.md") if block.title == "mine.py")
    (folder / "mine.py").write_text(loss.text)
    command = command_in("docs/methods.md", "mine.py:Difference")
    assert "distill" in run([*command, "--max-iters", "2", "--work-dir", "custom"], folder)


RUN_EACH = """
import json, sys
for place, text in json.load(sys.stdin):
    print(place, file=sys.stderr)
    exec(compile(text, place, "exec"), {"__name__": "example"})
"""


def test_the_python_blocks_run(folder: Path) -> None:
    run(command_in("docs/predict-and-export.md", "export", "student.onnx"), folder)
    Image.open(demo_files("val")[0]).save(folder / "photo.jpg")
    texts = json.dumps([(str(block), block.text) for block in all_blocks("python")])
    process = subprocess.run(
        [sys.executable, "-c", RUN_EACH], cwd=folder, input=texts, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
