"""Weights that are named on the Hugging Face hub: a dry run downloads nothing, and a run moves between machines."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from rmrkd_cli.networks.hub import cached_hub_file
from tests.helpers.cli import Outcome, rmrkd

smp = pytest.importorskip("segmentation_models_pytorch")
transformers = pytest.importorskip("transformers")

MODEL, CLASSES = "someone/segformer", 11
SIZES = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 1, 2],
    "decoder_hidden_size": 16,
}  # fmt: skip
SEGFORMER = "library: transformers, name: SegformerForSemanticSegmentation"
PRESET = """
dataset: camvid
role: distill
data: {{root: {root}, train_scale: [96, 64], eval_scale: [96, 64]}}
teacher: {{{teacher}}}
student: {{{student}}}
losses: {{kd: {{type: kd, weight: 1.0}}}}
schedule: {{iters: 4, crop: [48, 48], batch_size: 2, workers: 0, eval_interval: 2, checkpoint_interval: 2}}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no connection."""

    def download(*_: object, **__: object) -> str:
        pytest.fail("a download was tried")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path / "hub"


def publish(cache: Path) -> None:
    """Put a model with weights of the whole network into a cache, as the hub's client keeps it."""
    folder = cache / "models--someone--segformer"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    torch.manual_seed(1)
    config = transformers.SegformerConfig(**SIZES, num_labels=CLASSES)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder / "snapshots" / ("0" * 40))


def write_preset(camvid: Path, tmp_path: Path, student: str) -> Path:
    path = tmp_path / "preset.yaml"
    path.write_text(PRESET.format(root=camvid, teacher=f"{SEGFORMER}, weights: {MODEL}", student=student))
    return path


def train(preset: Path, tmp_path: Path, *options: str) -> Outcome:
    return rmrkd("train", "--preset", preset, "--work-dir", tmp_path / "work", "--device", "cpu", *options)


def test_a_dry_run_names_what_training_downloads_and_downloads_nothing(
    camvid: Path, tmp_path: Path, cache: Path
) -> None:
    """Without the teacher's `config.json` its network is unknown; with it, everything is checked."""
    student = "library: smp, name: FPN, options: {encoder_name: resnet18}, weights: imagenet"
    preset = write_preset(camvid, tmp_path, student)
    unknown = train(preset, tmp_path, "--dry-run")
    assert unknown.exit_code == 0, unknown.message
    assert "nothing is downloaded by --dry-run" in unknown.stdout
    revision = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]["revision"]
    missing = f"training first downloads smp-hub/resnet18.imagenet@{revision} on the Hugging Face hub to "
    missing += f"`{cache / 'models--smp-hub--resnet18.imagenet'}`"
    assert missing in unknown.stdout
    assert (
        f"first downloads {MODEL} on the Hugging Face hub to `{cache / 'models--someone--segformer'}`" in unknown.stdout
    )
    assert f"`{MODEL}` on the Hugging Face hub is not on this machine: its config.json would be" in unknown.stdout
    assert not cache.exists()
    publish(cache)
    known = train(preset, tmp_path, "--dry-run")
    assert known.exit_code == 0, known.message
    file = cached_hub_file(MODEL, "model.safetensors")
    assert f"already downloaded: {MODEL} on the Hugging Face hub, in `{file}`" in known.stdout
    assert missing in known.stdout
    assert "would stop" not in known.stdout
    assert "step 2" in known.stdout


def test_a_run_names_the_model_and_resumes_where_its_cache_is_elsewhere(
    camvid: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(cache)
    preset = write_preset(camvid, tmp_path, f"{SEGFORMER}, options: {SIZES}")
    outcome = train(preset, tmp_path, "--max-iters", "2")
    assert outcome.exit_code == 0, outcome.message
    config = tmp_path / "work/distill/config.yaml"
    assert yaml.safe_load(config.read_text())["teacher"]["checkpoint"]["hub"] == MODEL
    assert str(cache) not in config.read_text()
    meta = torch.load(tmp_path / "work/distill/student.pth", weights_only=True)["meta"]
    assert meta["sources"]["teacher"]["source"] == MODEL
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(shutil.move(cache, tmp_path / "other")))
    resumed = train(config, tmp_path, "--resume", "--max-iters", "3")
    assert resumed.exit_code == 0, resumed.message
    file = str(cached_hub_file(MODEL, "model.safetensors"))
    config.write_text(config.read_text().replace(f"hub: {MODEL}", f"path: {file}"))  # as earlier versions wrote it
    resumed = train(preset, tmp_path, "--resume", "--max-iters", "4")
    assert resumed.exit_code == 0, resumed.message
