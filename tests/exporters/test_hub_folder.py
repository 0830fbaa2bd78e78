"""`rmrkd export --hub`: a folder that is read as the student's file is, with a model card of measured figures only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rmrkd_cli import load_network, segment
from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.exporters.hub import _without_paths
from rmrkd_cli.exporters.verify import normalize, synthetic_images
from rmrkd_cli.storage.cache import sha256_of
from tests.helpers.cli import rmrkd

FILES = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"}


@pytest.fixture(scope="module")
def folder(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hub") / "tiny-camvid"
    outcome = rmrkd("export", student, "--hub", target)
    assert outcome.exit_code == 0, outcome.message
    assert f"hf upload YOUR-NAME/tiny-camvid {target}" in outcome.stdout
    return target


def front_matter(folder: Path) -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    return contents


def test_the_folder_has_what_the_hub_expects_and_no_path_of_this_machine(folder: Path, student: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    state = torch.load(student, weights_only=True)["state_dict"]
    written = load_file(folder / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (config["library_name"], config["num_labels"], config["id2label"]["1"]) == ("rmrkd", 11, "building")
    assert config["image_size"] == [96, 64]
    preprocessing = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert preprocessing["size"] == {"longest_edge": 96, "shortest_edge": 64}
    assert preprocessing["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert preprocessing["image_std"] == pytest.approx([0.229, 0.224, 0.225])
    meta = torch.load(student, weights_only=True)["meta"]
    root = meta["preset"]["data"]["root"]
    assert root in meta["config"]
    for path in folder.iterdir():
        assert root.encode() not in path.read_bytes()


def test_paths_become_names_and_class_names_stay() -> None:
    given = {
        "classes": ["/", "~x"],
        "a": ["/home/me/data/", "C:\\Users\\me\\x.pth", "~/y", "https://x/y", "/a\nb"],
        "b": ("/x/y",),
    }
    assert _without_paths(given) == {
        "classes": ["/", "~x"],
        "a": ["data", "x.pth", "y", "https://x/y", "/a\nb"],
        "b": ("y",),
    }


def test_the_card_invents_no_figures(folder: Path) -> None:
    front = front_matter(folder)
    assert front["library_name"] == "rmrkd"
    assert front["pipeline_tag"] == "image-segmentation"
    assert front["datasets"] == ["camvid"]
    assert not front.keys() & {"license", "metrics", "model-index"}
    assert "Nothing was measured." in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("same", [True, False])
def test_the_card_has_the_figures_of_the_result_of_this_file(
    same: bool, student: Path, camvid: Path, tmp_path: Path
) -> None:
    shutil.copy(student, tmp_path / "student.pth")
    outcome = rmrkd(
        "eval", tmp_path / "student.pth", "--workers", 0, "--json", tmp_path / "result.json", "--data-root", camvid
    )
    assert outcome.exit_code == 0, outcome.message
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["checkpoint_sha256"] == sha256_of(student)
    if not same:
        (tmp_path / "result.json").write_text(json.dumps({**record, "checkpoint_sha256": "0" * 64}))
    assert rmrkd("export", tmp_path / "student.pth", "--hub", tmp_path / "hub").exit_code == 0
    front = front_matter(tmp_path / "hub")
    assert ("model-index" in front) == same
    if same:
        (result,) = front["model-index"][0]["results"]
        assert result["dataset"] == {"name": "camvid", "type": "camvid", "split": "val"}
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values["mean_iou"] == round(record["metrics"]["miou"], 4)
        text = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
        assert f"| mIoU | {100 * record['metrics']['miou']:.2f} % |" in text


def test_predictions_are_equal_bit_for_bit(folder: Path, student: Path, camvid: Path, tmp_path: Path) -> None:
    image = torch.from_numpy(normalize(synthetic_images((150, 110), 2)))
    with torch.no_grad():
        logits = [segment(load_network(source), image) for source in (student, folder)]
    assert torch.equal(*logits)
    for name, source in (("file", student), ("folder", folder)):
        assert rmrkd("predict", source, camvid / "val", "--out", tmp_path / name, "--workers", 0).exit_code == 0
    for path in (tmp_path / "file").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "folder" / path.name).read_bytes()


def test_every_command_takes_the_folder(folder: Path, student: Path, camvid: Path, tmp_path: Path) -> None:
    options = ("--data-root", camvid, "--workers", 0)
    outcome = rmrkd("compare", student, folder, *options, "--json", tmp_path / "c.json")
    assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd("eval", folder, *options, "--json", tmp_path / "e.json")
    assert outcome.exit_code == 0, outcome.message
    assert json.loads((tmp_path / "e.json").read_text())["parameters"] > 0
    outcome = rmrkd("export", folder, tmp_path / "x.pt")
    assert outcome.exit_code == 0, outcome.message
    outcome = rmrkd("transfer", folder, tmp_path / "x.pth")
    assert outcome.exit_code == 0, outcome.message
    again = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    state = torch.load(student, weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_an_exported_file_lies_in_the_folder_too(student: Path, tmp_path: Path) -> None:
    assert rmrkd("export", student, tmp_path / "x.pt", "--hub", tmp_path / "hub").exit_code == 0
    assert (tmp_path / "hub" / "x.pt").read_bytes() == (tmp_path / "x.pt").read_bytes()
    assert "| `x.pt` |" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")


def test_a_folder_with_files_is_not_replaced(folder: Path, student: Path) -> None:
    outcome = rmrkd("export", student, "--hub", folder)
    assert outcome.exit_code == 2
    assert "is not empty" in outcome.message
    outcome = rmrkd("export", student)
    assert outcome.exit_code == 2
    assert "no file and no folder to write are given" in outcome.message


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    change(config)
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


PYTHON = {"library": "python", "name": "/tmp/x.py:net", "num_classes": 2}
HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda config: config["checkpoint"].pop("config"), "does not describe its network"),
    (lambda config: config.update(checkpoint=[]), "it has no `checkpoint`"),
    (lambda config: config.update(format=99), "has the format 99, this rmrkd reads 1"),
    (lambda config: config["checkpoint"].update(network={"library": "onnx", "file": "/etc/passwd"}), "another file"),
    (lambda config: config["checkpoint"].update(network=PYTHON), "--code"),
    (lambda config: config["checkpoint"].update(
        config=config["checkpoint"]["config"].replace("'base_channels': 8", "'base_channels': 131072")), "parameters"),
    (lambda config: config["checkpoint"].update(config="model = __import__('os').system('touch mark')"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_hostile_configs_are_refused_and_not_executed(
    change: Callable[[dict[str, Any]], object],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    target = changed(folder, tmp_path / "x", change)
    with pytest.raises(RmrkdError) as error:
        load_checkpoint_network(str(target / "model.safetensors"), None, "cpu")
    assert message in error.value.message + error.value.hint
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", '{"library_name": "rmrkd", "format": 1e999999}', "\0", "é".encode("latin1")]
)
def test_a_damaged_config_is_named(text: str | bytes, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RmrkdError, match=r"config\.json"):
        read_checkpoint(tmp_path / "x" / "model.safetensors")


def test_hostile_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    outcome = rmrkd("eval", tmp_path / "x")
    assert outcome.exit_code != 0
    with pytest.raises(RmrkdError, match="its header claims"):
        read_checkpoint(tmp_path / "x" / "model.safetensors")


def test_a_folder_of_another_library_is_not_taken_for_one_of_rmrkd(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    assert read_checkpoint(tmp_path / "model.safetensors").meta == {}
