"""Networks: mmsegmentation's own, from the configs inside its package."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.checkpoints.reader import key_mismatch, load_state_dict_checked, read_checkpoint
from rmrkd_cli.errors import RmrkdError, did_you_mean, summarize_error
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
from rmrkd_cli.networks.feature_maps import MapName, auxiliary_heads, decode
from rmrkd_cli.networks.limits import MOST_PARAMETERS, inert, limit_building
from rmrkd_cli.presets.schema import CheckpointSource, Network
from rmrkd_cli.storage.cache import fetch, sha256_of

Progress = Callable[[int, int], None]
_CHECK_OVERRIDES = "check the `overrides` in the preset"
# What ImageNet files hold beyond the backbone; conv2 is the last layer of mmcls's MobileNetV2, which mmseg's lacks.
_BEYOND_BACKBONE = ("fc.", "head.", "classifier.", "conv2.")


@dataclass(frozen=True)
class Shapes:
    """Channels and stride of the maps that losses compare, by their place (see `feature_maps`)."""

    channels: dict[MapName, int]
    strides: dict[MapName, int]


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """The `model` part of a shipped config with the spec's overrides, as plain dictionaries.

    `pretrained`, the zoo name of the ImageNet backbone, stays in it for `fetch_imagenet`.
    """
    make_mmseg_importable()
    from mmcv import Config

    root = _config_root()
    path = (root / spec.config).resolve()
    if root not in path.parents or not path.is_file():
        known = [str(file.relative_to(root)) for file in root.rglob("*.py")]
        raise RmrkdError(f"mmsegmentation ships no config `{spec.config}`, {did_you_mean(spec.config, known)}")
    config = Config.fromfile(str(path), import_custom_modules=False)
    try:
        config.merge_from_dict({f"model.{key}": value for key, value in spec.overrides.items()})
        model: dict[str, Any] = config._cfg_dict.to_dict()["model"]
        for head in (model["decode_head"], model.get("auxiliary_head")):
            for part in head if isinstance(head, list) else [head]:
                if part is not None:
                    part["num_classes"] = num_classes
    except (TypeError, KeyError, AttributeError) as error:
        raise RmrkdError(f"the overrides of `{spec.config}` do not fit it: {error}", _CHECK_OVERRIDES) from error
    return model


def build_network(
    config: Mapping[str, Any],
    *,
    device: str,
    name: str = "network",
    most_parameters: int = MOST_PARAMETERS,
    hint: str = _CHECK_OVERRIDES,
) -> nn.Module:
    """Builds an mmsegmentation segmentor with its random initial weights.

    Nothing in the config is trusted: what would fetch or open a file is left out or refused, sizes are bounded.

    Args:
        config: As from `network_config`; `pretrained` is not acted on.
        device: "cpu" replaces SyncBN by plain batch norm, which SyncBN needs GPUs for.
        name: For messages.
        most_parameters: Of the network.
        hint: What to do where it cannot be built.
    """
    network = _assembled(config, name, most_parameters, hint)
    from mmcv.cnn.utils import revert_sync_batchnorm

    try:
        network.init_weights()  # type: ignore[operator]
    except Exception as error:  # as in `_assembled`
        raise _cannot_build(name, error, hint) from error
    if device == "cpu":
        network = revert_sync_batchnorm(network)
    return network


def tensors_of(config: Mapping[str, Any], name: str = "network") -> dict[str, Tensor]:
    """Names and shapes of a network's tensors, from a config as for `build_network`; their values are arbitrary."""
    return _assembled(config, name, MOST_PARAMETERS, _CHECK_OVERRIDES).state_dict()


def _assembled(config: Mapping[str, Any], name: str, most_parameters: int, hint: str) -> nn.Module:
    make_mmseg_importable()
    from mmcv import ConfigDict
    from mmseg.models import build_segmentor
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    logging.getLogger("mmcv").setLevel(logging.ERROR)
    logging.getLogger("mmseg").setLevel(logging.ERROR)
    whole = {"pretrained": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}}  # old files keep these elsewhere
    plain = ConfigDict(json.loads(json.dumps({**inert(config, name), **whole})))
    try:
        with limit_building(most_parameters, name):
            network: nn.Module = build_segmentor(plain)
    except Exception as error:  # mmsegmentation does not check a config, it stumbles over it
        raise _cannot_build(name, error, hint) from error
    if not hasattr(network, "extract_feat") or not isinstance(getattr(network, "decode_head", None), BaseDecodeHead):
        raise RmrkdError(
            f"the {name} is a `{config.get('type')}` without one decode head",
            "choose an EncoderDecoder config, as PSPNet's and DeepLabV3's are",
        )
    return network


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Puts each batch norm into the convolution before it, in place; for networks in eval mode."""
    make_mmseg_importable()
    from mmcv.cnn.utils import fuse_conv_bn

    folded: nn.Module = fuse_conv_bn(network)
    return folded


def shapes_of(network: nn.Module) -> Shapes:
    """Runs a small image through the network to see what its stages give."""
    size = 64
    training = network.training
    network.eval()
    with torch.no_grad():
        features = list(network.extract_feat(torch.zeros(1, 3, size, size, device=next(network.parameters()).device)))  # type: ignore[operator]
        maps = decode(network, features)
        for head in auxiliary_heads(network)[-1:]:
            maps["aux"] = head(features)
    network.train(training)
    return Shapes(
        {key: value.shape[1] for key, value in maps.items()},
        {key: size // value.shape[2] for key, value in maps.items()},
    )


def run(network: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """The backbone's stage maps, and the decode head's logits before upsampling."""
    features = list(network.extract_feat(images))  # type: ignore[operator]
    logits: Tensor = network.decode_head(features)  # type: ignore[operator]
    return features, logits


def fetch_weights(source: CheckpointSource, what: str, on_progress: Progress | None = None) -> Path:
    """The file of a source, fetched into the cache where it is an address.

    Args:
        what: "teacher" or "student", for the hint that names the option to give a file with.
    """
    if source.path is not None:
        return Path(source.path)
    return fetch(str(source.url), str(source.sha256), on_progress, f"give a file with --{what}-checkpoint FILE")


def load_weights(network: nn.Module, source: CheckpointSource, *, what: str) -> dict[str, str]:
    """Loads a whole network, which the weights must cover; a student's file may also hold its backbone alone.

    Returns:
        `source` and `sha256` of the file, for the records; `partial` says what did not fit, where that is allowed.
    """
    path = fetch_weights(source, what)
    state = read_checkpoint(path, lazy=True).student()
    if _is_backbone(state, what):
        told = _load_backbone(network, state, str(path), partial=source.allow_partial)
    else:
        told = load_state_dict_checked(
            network, state, str(path), hint=_give_another(what), partial=source.allow_partial
        )
    found = {"source": source.url or str(path), "sha256": sha256_of(path)}
    return {**found, "partial": told} if told else found


def check_weights(config: Mapping[str, Any], source: CheckpointSource, *, what: str) -> None:
    """Whether `load_weights` would load them into the network of a config; reads no values.

    Raises:
        RmrkdError: As `load_weights`.
    """
    path = fetch_weights(source, what)
    state: Mapping[str, Tensor] = read_checkpoint(path, lazy=True).student()
    own: Mapping[str, Tensor] = tensors_of(config, what)
    ignore: tuple[str, ...] = ()
    if _is_backbone(state, what):
        own = {key.removeprefix("backbone."): own[key] for key in own if key.startswith("backbone.")}
        state, ignore = _without_prefix(state), _BEYOND_BACKBONE
    told = key_mismatch(own, state, str(path), ignore)
    fits = any(key in state and state[key].shape == own[key].shape for key in own)
    if told and not (source.allow_partial and fits):
        raise RmrkdError(told, _give_another(what) if fits else _nothing_fits(what, state))


def _is_backbone(state: Mapping[str, Tensor], what: str) -> bool:
    return what == "student" and not any(key.startswith(("decode_head.", "auxiliary_head.")) for key in state)


def _give_another(what: str) -> str:
    return f"give another file with --{what}-checkpoint FILE, or --allow-partial to load what fits"


def _nothing_fits(what: str, state: Mapping[str, Tensor]) -> str:
    first = next(iter(state), "")
    return f"give another file with --{what}-checkpoint FILE: none of its keys is the network's, the first is `{first}`"


def fetch_imagenet(config: Mapping[str, Any], what: str, on_progress: Progress | None = None) -> tuple[str, Path]:
    """Address and file of the ImageNet backbone that a config from `network_config` names."""
    pretrained = config.get("pretrained")
    if pretrained is None:
        raise RmrkdError(f"the {what}'s config names no ImageNet file", f"--set {what}.init=scratch")
    url = zoo_address(pretrained)
    digest = url.rsplit("-", 1)[-1].removesuffix(".pth")
    without = f"go without with --{what}-checkpoint none"
    give = ", or give a file with --student-checkpoint FILE" if what == "student" else ""
    return url, fetch(url, digest, on_progress, without + give)


def load_imagenet_backbone(network: nn.Module, config: Mapping[str, Any], what: str) -> str:
    """Starts the backbone from that file; returns its address."""
    url, path = fetch_imagenet(config, what)
    _load_backbone(network, read_checkpoint(path, lazy=True).state, str(path))
    return url


def zoo_address(name: str) -> str:
    """The address behind names such as `open-mmlab://resnet18_v1c`, from the tables inside mmcv."""
    import mmcv

    tables = {"open-mmlab": "open_mmlab.json", "mmcls": "mmcls.json"}
    scheme, _, key = name.partition("://")
    if scheme not in tables:
        raise RmrkdError(f"`{name}` is not a zoo name ({', '.join(f'{s}://…' for s in tables)})")
    table = json.loads((Path(mmcv.__file__).parent / "model_zoo" / tables[scheme]).read_text())
    if key not in table:
        raise RmrkdError(f"mmcv's zoo has no `{key}`, {did_you_mean(key, table)}")
    return str(table[key])


def _load_backbone(network: nn.Module, state: Mapping[str, Tensor], source: str, *, partial: bool = False) -> str:
    backbone: nn.Module = network.backbone  # type: ignore[assignment]
    return load_state_dict_checked(backbone, _without_prefix(state), source, ignore=_BEYOND_BACKBONE, partial=partial)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state.items()}


def _cannot_build(name: str, error: BaseException, hint: str) -> RmrkdError:
    while isinstance(error, RmrkdError) and isinstance(error.__context__, RmrkdError):
        error = error.__context__  # mmcv raises an error anew at each level, with the level's name before it
    if isinstance(error, RmrkdError):
        return error
    return RmrkdError(f"the {name} cannot be built: {summarize_error(error)[:300]}", hint)


def _config_root() -> Path:
    import mmseg

    return (Path(mmseg.__file__).parent / ".mim" / "configs").resolve()
