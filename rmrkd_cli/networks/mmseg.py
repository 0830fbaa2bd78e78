"""Build mmsegmentation's networks, from the configs in its package or in a checkpoint."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rmrkd_cli.data.normalization import IMAGENET
from rmrkd_cli.errors import RmrkdError, did_you_mean, summarize_error
from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable
from rmrkd_cli.networks.adapter import set_adapter
from rmrkd_cli.networks.limits import MAX_PARAMETERS, limit_network_size, sanitize_config
from rmrkd_cli.networks.mmseg_adapter import MmsegAdapter
from rmrkd_cli.networks.mmseg_file import digest_of, read_config_file
from rmrkd_cli.networks.mmseg_versions import PREPROCESSOR, model_of, split_preprocessor
from rmrkd_cli.presets.config_paths import is_own_config
from rmrkd_cli.presets.network_schema import Network

_OVERRIDES_HINT = "check the `overrides` in the preset"


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the `model` part of an mmsegmentation config, with the overrides of a preset.

    It keeps `pretrained`, the zoo name of the ImageNet backbone, for `weights.fetch_imagenet`.

    Raises:
        RmrkdError: mmsegmentation has no such config, or the overrides do not match it.
    """
    make_mmseg_importable()
    from mmcv import Config

    assert spec.config is not None
    own = own_model(spec)
    config = Config({"model": own if own is not None else _shipped_model(spec.config)})
    try:
        config.merge_from_dict({f"model.{key}": value for key, value in spec.overrides.items()})
        model: dict[str, Any] = config._cfg_dict.to_dict()["model"]
        for head in (model["decode_head"], model.get("auxiliary_head")):
            for part in head if isinstance(head, list) else [head]:
                if part is not None:
                    part["num_classes"] = num_classes
    except (TypeError, KeyError, AttributeError) as error:
        if own is not None and "decode_head" not in own:
            raise RmrkdError(
                f"`{spec.config}` has no `model.decode_head`", "give a config with one decode head"
            ) from error
        raise RmrkdError(f"the overrides do not match the config `{spec.config}`: {error}", _OVERRIDES_HINT) from error
    return model


def own_model(spec: Network) -> dict[str, Any] | None:
    """Return the `model` part of a config file of the user, without overrides; None for a config of mmsegmentation.

    Raises:
        RmrkdError: As `mmseg_file.read_config_file`.
    """
    if spec.library != "mmseg" or spec.config is None or not is_own_config(spec.config):
        return None
    make_mmseg_importable()
    return model_of(read_config_file(spec.config, _config_root()))


def own_config_digests(networks: Mapping[str, Network]) -> dict[str, str]:
    """Return the digests of networks that a config file of the user describes, for `mmseg_file.check_same_configs`.

    Configs of mmsegmentation that do not normalize images as for ImageNet count as such files: runs that began before
    rmrkd heeded this have no digest of them.
    """
    models = {what: own_model(spec) for what, spec in networks.items()}
    for what, spec in networks.items():
        if spec.library == "mmseg" and models[what] is None:
            shipped = _shipped_model(str(spec.config))
            models[what] = shipped if PREPROCESSOR in shipped else None
    return {what: digest_of(model) for what, model in models.items() if model is not None}


@functools.cache  # a run asks for each of its networks several times, and reading takes 30 ms
def _shipped_model(name: str) -> dict[str, Any]:
    """Return the `model` part of a config of mmsegmentation, in the form of that of a user's file. Do not change it.

    Raises:
        RmrkdError: There is no such config.
    """
    make_mmseg_importable()
    from mmcv import Config

    root = _config_root()
    path = (root / name).resolve()
    if root not in path.parents or not path.is_file():
        known = [str(file.relative_to(root)) for file in root.rglob("*.py") if "_base_" not in file.parts]
        raise RmrkdError(
            f"mmsegmentation has no config `{name}`; {did_you_mean(name, known)}",
            f"all names: ls {root}; those of mmsegmentation 1.x differ. A file of your own: the path from the preset's "
            "folder or from the working directory",
        )
    return model_of(Config.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()) or {}


def build_network(
    config: Mapping[str, Any],
    *,
    device: str,
    name: str = "network",
    max_parameters: int = MAX_PARAMETERS,
    hint: str = _OVERRIDES_HINT,
) -> nn.Module:
    """Build an mmsegmentation segmentor with random initial weights.

    The config may come from an unknown author: entries that download or open a file are removed or rejected, and the
    size of the network is limited.

    Args:
        config: As returned by `network_config`; `pretrained` is ignored.
        device: "cpu" replaces SyncBN, which needs a GPU, with batch norm.
        name: Name of the network in messages.
        max_parameters: Largest number of parameters.
        hint: Hint of the error for a config that cannot be built.

    Raises:
        RmrkdError: The config is rejected, or mmsegmentation cannot build it.
    """
    network = _build_segmentor(config, name, max_parameters, hint)
    from mmcv.cnn.utils import revert_sync_batchnorm

    try:
        network.init_weights()  # type: ignore[operator]
    except Exception as error:  # as in `_build_segmentor`
        raise _cannot_build(name, error, hint) from error
    if device == "cpu":
        network = revert_sync_batchnorm(network)
    return network


def build_outline(config: Mapping[str, Any], name: str = "network") -> nn.Module:
    """Build a network without initializing it; `libraries.build_outline` calls it on the device `meta`."""
    return _build_segmentor(config, name, MAX_PARAMETERS, _OVERRIDES_HINT)


def _build_segmentor(config: Mapping[str, Any], name: str, max_parameters: int, hint: str) -> nn.Module:
    make_mmseg_importable()
    from mmcv import ConfigDict
    from mmseg.models import build_segmentor
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    logging.getLogger("mmcv").setLevel(logging.ERROR)
    logging.getLogger("mmseg").setLevel(logging.ERROR)
    fixed = {"pretrained": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}}  # old files have these elsewhere
    own, normalization = split_preprocessor(config)
    plain = ConfigDict(json.loads(json.dumps({**sanitize_config(own, name), **fixed})))
    try:
        with limit_network_size(max_parameters, name):
            network: nn.Module = build_segmentor(plain)
    except Exception as error:  # mmsegmentation does not check configs, and fails anywhere
        raise _cannot_build(name, error, hint) from error
    if not hasattr(network, "extract_feat") or not isinstance(getattr(network, "decode_head", None), BaseDecodeHead):
        raise RmrkdError(
            f"the {name} is a `{config.get('type')}`, which has no single decode head",
            "choose an EncoderDecoder config, such as PSPNet or DeepLabV3",
        )
    return network if normalization == IMAGENET else set_adapter(network, MmsegAdapter(network, normalization))


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Merge each batch norm into the convolution before it, in place; the network must be in eval mode."""
    make_mmseg_importable()
    from mmcv.cnn.utils import fuse_conv_bn

    folded: nn.Module = fuse_conv_bn(network)
    return folded


def _cannot_build(name: str, error: BaseException, hint: str) -> RmrkdError:
    while isinstance(error, RmrkdError) and isinstance(error.__context__, RmrkdError):
        error = error.__context__  # mmcv raises the error again at each level
    if isinstance(error, RmrkdError):
        return error
    return RmrkdError(f"the {name} cannot be built: {summarize_error(error)[:300]}", hint)


def _config_root() -> Path:
    import mmseg

    return (Path(mmseg.__file__).parent / ".mim" / "configs").resolve()
