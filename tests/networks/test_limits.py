"""A network's config from a stranger builds a network within bounds, and does nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.libraries import build_network, network_config
from rmrkd_cli.networks.limits import MAX_LAYERS, limit_network_size, sanitize_config
from rmrkd_cli.presets.loader import load_preset, preset_names


def small(**head: Any) -> dict[str, Any]:
    head = {"type": "FCNHead", "in_channels": 32, "channels": 4, "num_convs": 1, "num_classes": 2, **head}
    loss = {"type": "CrossEntropyLoss"}
    backbone = {"type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4}
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": {"loss_decode": loss, **head}}


@pytest.mark.parametrize("name", preset_names())
def test_shipped_networks_pass_unchanged(name: str) -> None:
    for spec in (load_preset(name).teacher, load_preset(name).student):
        config = network_config(spec, 19)
        config.pop("pretrained", None)
        assert sanitize_config(config) == config


def test_initial_weights_in_a_config_are_removed() -> None:
    kept = {"type": "Normal", "std": 0.01, "override": {"name": "conv_seg"}}
    fetched = {"type": "Pretrained", "checkpoint": "https://example.org/x.pth"}
    config = small(init_cfg=kept)
    config["backbone"] |= {"pretrained": "x.pth", "init_cfg": [dict(kept), fetched]}
    config["auxiliary_head"] = [{"type": "FCNHead", "init_cfg": {**kept, "override": {"name": "x", **fetched}}}]
    made = sanitize_config(config)
    assert made["decode_head"]["init_cfg"] == kept
    assert not {"init_cfg", "pretrained"} & made["backbone"].keys()
    assert made["auxiliary_head"] == [{"type": "FCNHead"}]
    assert "init_cfg" not in sanitize_config(small(init_cfg=5))["decode_head"]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"loss_decode": {"type": "CrossEntropyLoss", "class_weight": "x.pkl"}}, r"class_weight.*x\.pkl"),
        ({"type": "mmcls.TIMMBackbone"}, "mmcls.TIMMBackbone"), ({"type": "TIMMBackbone"}, "TIMMBackbone"),
        ({"type": 5}, "decode_head.type"), ({"channels": 10**9}, "decode_head.channels.*1000000000"),
        ({"x": {1, 2}}, "is a set"), ({"x": 1 << 5000}, "huge"),
        ({"num_convs": 100_000}, "parameters|layers"),
        ({"in_channels": 100_000, "channels": 100_000}, "parameters|memory"),
        ({"type": "NoSuchHead"}, "cannot be built.*NoSuchHead"), ({"channels": "many"}, "cannot be built"),
        ({"norm_cfg": {"type": "GN", "num_groups": 0}}, "cannot be built"),
    ],
)  # fmt: skip
def test_configs_that_open_files_or_are_too_large_are_rejected(part: dict[str, Any], told: str) -> None:
    with pytest.raises(RmrkdError, match=told) as caught:
        build_network(small(**part), device="cpu", max_parameters=10_000_000)
    assert len(caught.value.message) < 500


def test_a_network_within_its_limit_is_built() -> None:
    network = build_network(small(), device="cpu")
    held = sum(parameter.numel() for parameter in network.parameters())
    build_network(small(), device="cpu", max_parameters=held)
    with pytest.raises(RmrkdError, match=f"more than {held - 1:,} parameters"):
        build_network(small(), device="cpu", max_parameters=held - 1)


def test_limits_end_with_their_block() -> None:
    from torch import nn

    with pytest.raises(RmrkdError, match="layers"), limit_network_size():
        nn.Sequential(*(nn.ReLU() for _ in range(MAX_LAYERS + 1)))
    nn.Sequential(*(nn.ReLU() for _ in range(MAX_LAYERS + 1)))


def test_mmsegmentation_opens_files_nowhere_else() -> None:
    """If a new version reads files in other places, `sanitize_config` must remove them."""
    import mmseg

    opens = re.compile(
        r"mmcv\.load\(|np\.load\(|torch\.load\(|load_checkpoint\(|(?<![\w.])open\(|load_url|create_model\("
    )
    models = Path(mmseg.__file__).parent / "models"
    found = {path.relative_to(models).as_posix() for path in models.rglob("*.py") if opens.search(path.read_text())}
    by_init_cfg = {f"backbones/{name}.py" for name in ("beit", "mae", "swin", "vit")}
    assert found == {*by_init_cfg, "backbones/timm_backbone.py", "losses/utils.py"}
