"""Where losses act: each place is the map it is called, for student and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes, segment
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.network_schema import Network

CLASSES = 11
IMAGES, LABELS = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64, dtype=torch.long)
SMALL = {"backbone.base_channels": 8, "backbone.stem_channels": 8}
HEADS = {
    "pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py": {},
    "deeplabv3/deeplabv3_r18-d8_512x1024_80k_cityscapes.py": {},
    "deeplabv3plus/deeplabv3plus_r18-d8_512x1024_80k_cityscapes.py": {"decode_head.c1_in_channels": 8},
}


class Seen(nn.Module):
    """Keeps what it is given."""

    def forward(self, student: Any, teacher: Any, labels: Tensor) -> Tensor:
        self.student, self.teacher, self.labels = student, teacher, labels
        return (student[0] if isinstance(student, tuple) else student).sum()


def network(config: str) -> nn.Module:
    small = {
        **SMALL, **HEADS[config],
        "decode_head.in_channels": 64, "decode_head.channels": 12,
        "auxiliary_head.in_channels": 32, "auxiliary_head.channels": 8,
    }  # fmt: skip
    return build_network(network_config(Network(config=config, overrides=small), CLASSES), device="cpu")


@pytest.mark.parametrize("config", HEADS)
def test_the_head_map_is_the_input_of_the_classifier(config: str) -> None:
    made = network(config).eval()
    with torch.no_grad():
        maps = adapter_of(made).maps(made, IMAGES)
        assert torch.equal(made.decode_head.conv_seg(maps["head"]), maps["logits"])
    assert list(maps) == [1, 2, 3, 4, "logits", "head"]
    shapes = measure_shapes(made)
    assert shapes.channels.keys() == {*maps, "aux"}
    assert shapes.channels["aux"] == shapes.channels["logits"] == CLASSES
    assert {place: value.shape[1] for place, value in maps.items()}.items() <= shapes.channels.items()
    assert not made.decode_head.conv_seg._forward_pre_hooks


def test_in_training_the_head_map_has_passed_dropout() -> None:
    made = network(next(iter(HEADS))).train()
    made.decode_head.dropout.p = 1.0
    assert not adapter_of(made).maps(made, IMAGES)["head"].any()


def seen_at(where: Any) -> tuple[Seen, Distiller]:
    """A loss after one pass of a student at stride 8 under a DeepLabV3+ teacher, whose head works at stride 4."""
    configs = list(HEADS)
    loss = Seen()
    model = Distiller(network(configs[0]), network(configs[2]), {"seen": loss}, {"seen": where})
    model.to_device("cpu").train()
    model.student.decode_head.dropout = None
    model(IMAGES, LABELS)
    return loss, model


@pytest.mark.parametrize("where", [2, 4, "head", "logits", "aux"])
def test_a_loss_gets_the_maps_it_names(where: Any) -> None:
    loss, model = seen_at(where)
    with torch.no_grad():
        theirs = adapter_of(model.teacher).maps(model.teacher, IMAGES, auxiliary=True)
    assert loss.student.shape[2:] == loss.teacher.shape[2:]
    assert loss.student.requires_grad
    assert not loss.teacher.requires_grad
    if loss.teacher.shape == theirs[where].shape:
        assert torch.equal(loss.teacher, theirs[where])
    else:
        assert where in ("head", "logits")
        bigger = nn.functional.interpolate(theirs[where], size=loss.student.shape[2:], mode="bilinear")
        assert torch.allclose(loss.teacher, bigger)


def test_a_loss_on_several_maps_gets_tuples() -> None:
    loss, _ = seen_at(("aux", "head", 4))
    assert [part.shape[1] for part in loss.student] == [CLASSES, 12, 64]
    assert [part.shape[2:] for part in loss.student] == [part.shape[2:] for part in loss.teacher]


def test_a_network_without_an_auxiliary_head_has_no_aux_map(tiny: Path) -> None:
    preset = load_preset(
        str(tiny), overrides=["losses={x: {type: idd, stage: aux}}", "student.overrides.auxiliary_head=null"]
    )
    with pytest.raises(RmrkdError, match="loss `x` at stage `aux`: the student has no such map") as caught:
        build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, with_weights=False)
    assert "head, logits" in caught.value.hint or "logits, head" in caught.value.hint


def test_cwd_learns_a_convolution_on_features_and_nothing_on_logits(tiny: Path) -> None:
    losses = (
        "losses={a: {type: cwd}, b: {type: cwd, stage: aux}, c: {type: cwd, stage: head}, d: {type: cwd, stage: 4}}"
    )
    preset = load_preset(str(tiny), overrides=[losses])
    made = build_distiller(preset, "distill", CLASSES, device="cpu", log=lambda _: None, with_weights=False).distiller
    learned = {name: [tuple(p.shape) for p in loss.parameters()] for name, loss in made.losses.items()}
    assert learned["a"] == learned["b"] == []
    assert [len(shapes) for shapes in (learned["c"], learned["d"])] == [1, 1]


def test_one_image_without_a_batch_is_an_error() -> None:
    with pytest.raises(RmrkdError, match=r"images must have shape \(B, 3, H, W\), got \(3, 64, 64\)") as caught:
        segment(nn.Identity(), IMAGES[0])
    assert caught.value.hint == "images[None] gives one image its batch"
