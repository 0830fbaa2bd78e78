"""Segmentation networks of torchvision: DeepLabV3, FCN and LR-ASPP.

The stages are the last blocks of each stride of the backbone: `layer1` to `layer4` of ResNets, and the blocks 3, 6, 12
and 16 of MobileNetV3-Large, with strides 4, 8, 16 and 16. Logits are taken before torchvision resizes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName, set_adapter
from rmrkd_cli.networks.description import check_option_names, describe, explain_failed_build, read_description
from rmrkd_cli.networks.recorded_maps import check_modules, record_maps
from rmrkd_cli.networks.weight_names import file_has, is_file_name
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

_RESNET: dict[MapName, str] = {1: "backbone.layer1", 2: "backbone.layer2", 3: "backbone.layer3", 4: "backbone.layer4"}
_MOBILENET_V3_LARGE: dict[MapName, str] = {1: "backbone.3", 2: "backbone.6", 3: "backbone.12", 4: "backbone.16"}
_HEAD: dict[MapName, str] = {"head": "classifier.4:input"}  # of DeepLabV3 and FCN: the input of the last convolution
_BACKBONE = "backbone."
_CLASSIFIERS = ("backbone.fc.", "backbone.classifier.")  # of classification networks
_NO_OPTION = {
    "weights": "`weights` beside `options` names them",
    "weights_backbone": "`weights` beside `options` names them",
    "num_classes": "it is that of the data set",
    "progress": "downloads show their progress",
}


class TorchvisionAdapter(Adapter):
    """Of a network with `backbone`, `classifier`, and `aux_classifier` if it was built with `aux_loss`."""

    auxiliary_factor = 0.5  # of torchvision's reference training, references/segmentation/train.py

    def __init__(self, num_classes: int, modules: Mapping[MapName, str], *, is_lraspp: bool) -> None:
        self.num_classes, self.modules, self.is_lraspp = num_classes, dict(modules), is_lraspp

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        with record_maps(network, self.modules) as maps:
            features = network.backbone(images)  # type: ignore[operator]
            maps["logits"] = self._classify(network, features)
        head: Any = getattr(network, "aux_classifier", None)
        if auxiliary and head is not None:
            maps["aux"] = head(features["aux"])
        return maps

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return self._classify(network, network.backbone(images))  # type: ignore[operator]

    def without_training_heads(self, network: nn.Module) -> nn.Module:
        if getattr(network, "aux_classifier", None) is not None:
            network.aux_classifier = None  # type: ignore[assignment]
        return network

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights of a whole network, or of a classification network whose layers the backbone has."""
        if any(key.startswith(_BACKBONE) for key in state):
            has_auxiliary = any(key.startswith("aux_classifier.") for key in own)
            return FittedWeights(dict(state), ignore=() if has_auxiliary else ("aux_classifier.",))
        renamed = {f"{_BACKBONE}{key.removeprefix('features.')}": value for key, value in state.items()}
        if not any(key in own for key in renamed):
            return FittedWeights(dict(state))
        return FittedWeights(renamed, prefix=_BACKBONE if is_student else "", ignore=_CLASSIFIERS)

    def _classify(self, network: nn.Module, features: dict[str, Tensor]) -> Tensor:
        logits: Tensor = network.classifier(features if self.is_lraspp else features["out"])  # type: ignore[operator]
        return logits


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network.

    Raises:
        RmrkdError: torchvision has no such network, or it has no such option.
    """
    name = str(spec.name)
    check_option_names(spec.options, _options(name), f"torchvision's `{name}`", _NO_OPTION)
    return describe("torchvision", name, spec.options, num_classes, spec.maps)


def build_network(config: Mapping[str, Any], *, device: str, name: str, max_parameters: int, hint: str) -> nn.Module:
    """Build a network with random initial weights; see `libraries.build_network`."""
    description = read_description(config, name, hint)
    model = description.name
    check_option_names(description.options, _options(model), f"torchvision's `{model}`", _NO_OPTION)
    with explain_failed_build(name, model, max_parameters, hint):
        network = _builder(model)(
            weights=None, weights_backbone=None, num_classes=description.num_classes, **description.options
        )
    modules = _modules(model, description.maps)
    check_modules(network, modules)
    is_lraspp = model.startswith("lraspp")
    return set_adapter(network, TorchvisionAdapter(description.num_classes, modules, is_lraspp=is_lraspp))


def weights_source(spec: Network, role: str) -> CheckpointSource:
    """Return the file that `weights` names: a file, or one of torchvision's weights of the network or its backbone.

    Raises:
        RmrkdError: torchvision has no weights of this name.
    """
    from torchvision.models import get_model_weights

    text = str(spec.weights)
    if is_file_name(text):
        return CheckpointSource(path=text)
    name = str(spec.name)
    known: dict[str, Any] = {}
    for model in (_backbone_name(name), name):
        known |= {each.name: each for each in get_model_weights(model)}
    if text not in known:
        raise RmrkdError(
            f"`{role}.weights`: torchvision has no weights `{text}` for `{name}`; {did_you_mean(text, list(known))}",
            f"known: {', '.join(known)}; or a file, or `none` for random weights",
        )
    url = known[text].url
    return CheckpointSource(url=url, sha256=url.rsplit("-", 1)[-1].removesuffix(".pth"))


def is_whole(spec: Network) -> bool:
    """Return whether `weights` are those of the whole network, not of its backbone."""
    from torchvision.models import get_model_weights

    text = str(spec.weights)
    if is_file_name(text):
        return file_has(text, (_BACKBONE,))
    return text in {each.name for each in get_model_weights(str(spec.name))}


def _options(name: str) -> list[str]:
    """Return the keyword arguments of a builder that a preset may set."""
    return [key for key in inspect.signature(_builder(name)).parameters if key not in (*_NO_OPTION, "kwargs")]


def _modules(model: str, own: Mapping[MapName, str]) -> dict[MapName, str]:
    """Return map → module: the known ones, and those of the preset in their place."""
    known = _MOBILENET_V3_LARGE if "mobilenet" in model else _RESNET
    return {**known, **({} if model.startswith("lraspp") else _HEAD), **own}


def network_names() -> list[str]:
    """Return torchvision's segmentation networks."""
    from torchvision.models import list_models, segmentation

    return list(list_models(module=segmentation))


def _builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder

    known = network_names()
    if name not in known:
        raise RmrkdError(
            f"torchvision has no segmentation network `{name}`; {did_you_mean(name, known)}",
            f"known: {', '.join(known)}",
        )
    builder: Callable[..., nn.Module] = get_model_builder(name)
    return builder


def _backbone_name(name: str) -> str:
    return name.partition("_")[2]
