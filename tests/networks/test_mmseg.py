from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller, build_losses
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.feature_maps import measure_shapes
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.memory_format import fastest_format
from rmrkd_cli.networks.weights import load_weights
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.network_schema import CheckpointSource, Network
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.cache import cache_dir


@pytest.fixture(scope="module")
def preset(tiny: Path) -> Preset:
    return load_preset(str(tiny))


@pytest.fixture(scope="module")
def student(preset: Preset) -> nn.Module:
    return build_network(network_config(preset.student, 11), device="cpu")


def test_shapes_are_those_of_the_stages(student: nn.Module) -> None:
    shapes = measure_shapes(student)
    assert shapes.channels == {1: 8, 2: 16, 3: 32, 4: 64, "head": 8, "logits": 11, "aux": 11}
    assert shapes.strides == {1: 4, 2: 8, 3: 8, 4: 8, "head": 8, "logits": 8, "aux": 8}


def test_a_shipped_config_is_read_once_and_no_caller_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Network(config="pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py", overrides={"backbone.base_channels": 8})
    first = network_config(spec, 19)
    kept = copy.deepcopy(first)
    first["backbone"]["depth"] = 999
    first["decode_head"]["norm_cfg"].clear()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("read again")

    monkeypatch.setattr("mmcv.Config.fromfile", refuse)
    assert network_config(spec, 19) == kept
    assert network_config(Network(config=spec.config), 19)["backbone"] != kept["backbone"]  # without the overrides


def test_unknown_configs_and_wrong_overrides_are_rejected() -> None:
    with pytest.raises(RmrkdError, match=r"did you mean `pspnet/pspnet_r18-d8_512x1024_80k_cityscapes\.py`"):
        network_config(Network(config="pspnet/pspnet_r18-d8_512x1024_80k_cityscape.py"), 19)
    with pytest.raises(RmrkdError, match=r"the config `../../../../etc/passwd` must end with \.py"):
        network_config(Network(config="../../../../etc/passwd"), 19)
    with pytest.raises(RmrkdError, match="the nearest of 6") as caught:
        network_config(Network(config="torchvision.models"), 19)
    assert len(caught.value.message) < 500
    spec = Network(config="pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py", overrides={"backbone.base_chanels": 8})
    with pytest.raises(RmrkdError, match="base_chanels"):
        build_network(network_config(spec, 19), device="cpu", name="student")


def test_sync_bn_becomes_plain_on_cpus_only(preset: Preset, student: nn.Module) -> None:
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in student.modules())
    on_gpu = build_network(network_config(preset.student, 11), device="cuda")
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in on_gpu.modules())
    assert on_gpu.state_dict().keys() == student.state_dict().keys()


def test_few_channels_keep_the_safe_memory_format(preset: Preset, student: nn.Module) -> None:
    teacher = build_network(network_config(preset.teacher, 11), device="cpu")
    assert fastest_format(student, "cpu") == torch.contiguous_format
    assert fastest_format(student, "cuda") == torch.channels_last
    assert fastest_format(teacher, "cpu") == torch.channels_last


def test_a_student_starts_from_a_network_a_backbone_or_nothing(
    student: nn.Module, preset: Preset, tmp_path: Path
) -> None:
    state = student.state_dict()
    torch.save(state, tmp_path / "network.pth")
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    torch.save({"state_dict": {**backbone, "fc.weight": torch.zeros(3)}}, tmp_path / "backbone.pth")
    for name in ("network.pth", "backbone.pth"):
        torch.manual_seed(5)
        other = build_network(network_config(preset.student, 11), device="cpu")
        load_weights(other, CheckpointSource(path=str(tmp_path / name)), role="student")
        assert torch.equal(other.backbone.stem[0].weight, student.backbone.stem[0].weight)
        same_head = torch.equal(other.decode_head.conv_seg.weight, student.decode_head.conv_seg.weight)
        assert same_head == (name == "network.pth")


def test_mmcls_mobilenet_matches_in_spite_of_one_more_layer(tmp_path: Path) -> None:
    spec = load_preset("dl101-dlmbv2-city").student
    network = build_network(network_config(spec, 19), device="cpu")
    state = {f"backbone.{key}": torch.full_like(value, 0.5) for key, value in network.backbone.state_dict().items()}
    more = {"backbone.conv2.conv.weight": torch.zeros(1), "backbone.conv2.bn.bias": torch.zeros(1)}
    torch.save({"state_dict": {**state, **more, "head.fc.weight": torch.zeros(1)}}, tmp_path / "mobilenet.pth")
    load_weights(network, CheckpointSource(path=str(tmp_path / "mobilenet.pth")), role="student")
    assert (network.backbone.conv1.conv.weight == 0.5).all()


def test_test_cfg_is_always_whole_images(preset: Preset) -> None:
    config = {**network_config(preset.student, 11), "test_cfg": {"mode": "slide", "crop_size": 3, "stride": 2}}
    assert build_network(config, device="cpu").test_cfg.mode == "whole"


def test_networks_with_several_decode_heads_are_rejected() -> None:
    several = Network(config="ocrnet/ocrnet_hr18s_512x1024_40k_cityscapes.py")
    with pytest.raises(RmrkdError, match=r"no single decode head|do not match the config"):
        build_network(network_config(several, 19), device="cpu", name="teacher")


def test_a_loss_cannot_have_a_name_reserved_by_torch(preset: Preset, student: nn.Module) -> None:
    renamed = preset.model_copy(update={"losses": {"keys": preset.losses["mgd"]}})
    with pytest.raises(RmrkdError, match="cannot be called `keys`"):
        build_losses(renamed, measure_shapes(student), measure_shapes(student), 11)


def test_distilling_without_losses_is_rejected(preset: Preset) -> None:
    with pytest.raises(RmrkdError, match="has no distillation losses"):
        build_distiller(
            preset.model_copy(update={"losses": {}}),
            "distill",
            11,
            device="cpu",
            log=lambda _: None,
            with_weights=False,
        )


def test_a_teacher_checkpoint_must_match_completely(student: nn.Module, preset: Preset, tmp_path: Path) -> None:
    state = {key: value for key, value in student.state_dict().items() if "layer4" not in key}
    torch.save({"state_dict": state}, tmp_path / "teacher.pth")
    with pytest.raises(RmrkdError, match=r"missing: backbone\.layer4"):
        load_weights(student, CheckpointSource(path=str(tmp_path / "teacher.pth")), role="teacher")


def test_without_the_imagenet_file_the_hint_names_the_alternatives(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path))
    monkeypatch.setattr("rmrkd_cli.networks.weights.zoo_url", lambda name: "https://localhost:1/resnet-00000000.pth")
    wanting = preset.model_copy(update={"student": preset.student.model_copy(update={"init": "imagenet"})})
    with pytest.raises(RmrkdError, match="https://localhost:1/resnet") as failure:
        build_distiller(wanting, "baseline", 11, device="cpu", log=lambda _: None)
    for part in (str(cache_dir() / "checkpoints"), "--student-checkpoint none", "--student-checkpoint FILE"):
        assert part in failure.value.hint


def test_the_teacher_stays_frozen_in_training(preset: Preset) -> None:
    model = build_distiller(preset, "distill", 11, device="cpu", log=lambda _: None, with_weights=False).distiller
    model.train()
    assert model.teacher is not None
    assert not any(module.training for module in model.teacher.modules())
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not any(key.startswith("teacher") for key in model.state_dict())
    before = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    model.total(model(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 1, 48, 48)))).backward()
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())


def test_the_initial_student_is_equal_in_every_role(preset: Preset) -> None:
    states = [
        build_distiller(
            preset, role, 11, device="cpu", log=lambda _: None, with_weights=False
        ).distiller.student.state_dict()
        for role in ("baseline", "distill")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unequal_strides_are_rejected(preset: Preset, student: nn.Module) -> None:
    shapes = measure_shapes(student)
    other = type(shapes)(shapes.channels, {**shapes.strides, 4: 16})
    with pytest.raises(RmrkdError, match="stride 8, the teacher's 16"):
        build_losses(preset, shapes, other, 11)


def test_teacher_logits_of_another_size_are_resized(student: nn.Module) -> None:
    from rmrkd_cli.distillation.distiller import _resize_like

    logits, like = torch.randn(2, 11, 12, 12), torch.zeros(2, 11, 6, 6)
    assert _resize_like(logits, like).shape == like.shape
    assert _resize_like(logits, logits) is logits
    assert torch.allclose(
        _resize_like(torch.full((1, 2, 4, 4), 3.0), torch.zeros(1, 2, 2, 2)), torch.full((1, 2, 2, 2), 3.0)
    )


def test_losses_need_a_teacher(student: nn.Module) -> None:
    with pytest.raises(RmrkdError, match="need a teacher"):
        Distiller(student, losses={"x": nn.Identity()})
