"""A student from a config file of the user: trained, resumed exactly, refused when the file has changed, used again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.mmseg import own_config_digests
from rmrkd_cli.networks.mmseg_file import check_same_configs
from rmrkd_cli.presets.loader import load_preset, to_yaml
from rmrkd_cli.presets.network_schema import Network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import rmrkd

NET = """
_base_ = ["../_base_/models/pspnet_r50-d8.py"]  # which mmsegmentation ships
width = 8
norm_cfg = dict(type="SyncBN", requires_grad=True)
img_norm_cfg = dict(mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0], to_rgb=False)
model = dict(
    pretrained=None,
    backbone=dict(depth=18, base_channels=width, stem_channels=width, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=8 * width, channels=8, num_classes=3),
    auxiliary_head=dict(in_channels=4 * width, channels=8),
)
"""


@pytest.fixture(scope="module")
def preset(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a preset and its student's config beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NET)
    contents = yaml.safe_load(tiny.read_text())
    contents["student"] = {"config": "net.py", "init": "scratch"}
    (folder / "own.yaml").write_text(yaml.safe_dump({**contents, "role": "baseline"}))
    return folder / "own.yaml"


@pytest.fixture(scope="module")
def trained(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    train(load_preset(str(preset)), work, "cpu", Cluster())
    return work / "baseline"


def test_the_file_describes_the_network(trained: Path, preset: Path, tiny: Path) -> None:
    student = read_checkpoint(trained / "student.pth")
    expected = network_config(load_preset(str(tiny)).student, 11)
    shapes = load_checkpoint_network(str(trained / "student.pth"), None, "cpu").network.state_dict()
    assert shapes.keys() == student.state.keys()
    assert expected["backbone"]["base_channels"] == 8
    written = yaml.safe_load((trained / "config.yaml").read_text())
    assert written["student"]["config"] == str(preset.parent / "net.py")
    assert Preset.model_validate(written) == load_preset(str(preset))
    assert load_preset(str(trained / "config.yaml")).student == load_preset(str(preset)).student


def test_the_file_says_how_images_are_normalized_also_in_the_students_file(trained: Path) -> None:
    loaded = load_checkpoint_network(str(trained / "student.pth"), None, "cpu").network
    assert adapter_of(loaded).normalization == Normalization([120.0, 110.0, 100.0], [50.0, 60.0, 70.0], False)
    text = read_checkpoint(trained / "student.pth").meta["config"]
    assert "'Normalize', 'mean': [120.0, 110.0, 100.0], 'std': [50.0, 60.0, 70.0], 'to_rgb': False" in " ".join(
        text.split()
    )
    assert "data_preprocessor" not in text  # mmsegmentation 0.x does not know it


def test_a_run_is_resumed_exactly_with_the_same_network_only(trained: Path, preset: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "work", symlinks=True)
    run = tmp_path / "work" / "baseline"
    net = preset.parent / "net.py"
    resolved = load_preset(str(preset))
    net.write_text(NET.replace("channels=8, num", "channels=16, num"))
    for finished in (True, False):
        with pytest.raises(RmrkdError, match=r"config file of the student has changed since .*baseline`") as caught:
            train(resolved, tmp_path / "work", "cpu", Cluster(), resume=True)
        assert caught.value.hint == "restore the file, or --fresh to start over"
        if finished:
            for name in ("student.pth", "result.json", "iter_4.pth", "last.pth", "best.pth"):
                (run / name).unlink()
    net.write_text(f"# A comment changes nothing.\n{NET}")
    train(resolved, tmp_path / "work", "cpu", Cluster(), resume=True)
    once, again = (read_checkpoint(folder / "student.pth").state for folder in (trained, run))
    assert all(torch.equal(value, again[key]) for key, value in once.items())


def test_the_config_that_transfer_writes_is_a_presets_config(trained: Path, tiny: Path, tmp_path: Path) -> None:
    outcome = rmrkd("transfer", trained / "last.pth", tmp_path / "student.pth", "--config", tmp_path / "again.py")
    assert outcome.exit_code == 0, outcome.message
    settings = f"student={{config: {tmp_path / 'again.py'}, checkpoint: {{path: {tmp_path / 'student.pth'}}}}}"
    preset = load_preset(str(tiny), overrides=["role=baseline", settings, "schedule.iters=1"])
    config = network_config(preset.student, 11)
    assert config["data_preprocessor"]["mean"] == [120.0, 110.0, 100.0]
    train(preset, tmp_path / "work", "cpu", Cluster())
    assert (
        read_checkpoint(tmp_path / "work" / "baseline" / "student.pth").state.keys()
        == read_checkpoint(tmp_path / "student.pth").state.keys()
    )


@pytest.mark.parametrize(
    "name", ["cgnet/cgnet_680x680_60k_cityscapes.py", "segmenter/segmenter_vit-t_mask_8x1_512x512_160k_ade20k.py"]
)
def test_a_config_that_mmsegmentation_ships_is_the_same_network_by_name_and_as_a_file(
    name: str, tmp_path: Path
) -> None:
    """Both normalize images as the config says; a run that did not is not resumed."""
    (tmp_path / "net.py").write_text(f"_base_ = ['../{name}']\n")
    shipped, own = Network(config=name), Network(config=str(tmp_path / "net.py"))
    config = network_config(shipped, 11)
    assert config == network_config(own, 11)
    mean = config["data_preprocessor"]["mean"]
    assert mean != IMAGENET.mean
    if name.startswith("segmenter"):  # CGNet needs tuples where a config has lists, and is not built
        assert adapter_of(build_network(config, device="cpu")).normalization.mean == mean
    digests = [own_config_digests({"student": spec}) for spec in (shipped, own)]
    assert digests[0] == digests[1] != {}
    check_same_configs({"sources": {"configs": digests[0]}}, digests[0], tmp_path)
    with pytest.raises(RmrkdError, match="earlier versions of rmrkd normalized them as for ImageNet"):
        check_same_configs({"sources": {}}, digests[0], tmp_path)


def test_a_config_that_needs_python_runs_only_if_it_is_named(preset: Path, tmp_path: Path) -> None:
    """In a dry run, as in training."""
    net = tmp_path / "net.py"
    net.write_text(NET.replace("width = 8", "width = [n for n in (4, 8)][-1]"))
    options = ("--preset", preset, "--set", f"student.config={net}", "--dry-run", "--device", "cpu")
    refused = rmrkd("train", *options)
    assert refused.exit_code == 2
    assert "net.py` needs Python: line 3: `[n for n in (4, 8)]`; a config is read as data" in refused.message
    assert f"--code {net}" in refused.hint
    assert "trained network       0.19 M" in rmrkd("train", *options, "--code", net).stdout


def test_a_preset_is_printed_with_the_path_of_its_config(preset: Path) -> None:
    assert f"config: {preset.parent / 'net.py'}" in to_yaml(load_preset(str(preset)))
