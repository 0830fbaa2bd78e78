"""Segmentation networks of torchvision: DeepLabV3, FCN and LR-ASPP.

The stages are the last blocks of each stride of the backbone: `layer1` to `layer4` of ResNets, and the blocks 3, 6, 12
and 16 of MobileNetV3-Large, with strides 4, 8, 16 and 16. Logits are taken before torchvision resizes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean, summarize_error
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName, cross_entropy, set_adapter
from rmrkd_cli.networks.limits import MAX_PARAMETERS, limit_network_size
from rmrkd_cli.networks.recorded_maps import check_modules, map_key, record_maps
from rmrkd_cli.networks.weight_names import is_file_name
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

_RESNET: dict[MapName, str] = {1: "backbone.layer1", 2: "backbone.layer2", 3: "backbone.layer3", 4: "backbone.layer4"}
_MOBILENET_V3_LARGE: dict[MapName, str] = {1: "backbone.3", 2: "backbone.6", 3: "backbone.12", 4: "backbone.16"}
_HEAD: dict[MapName, str] = {"head": "classifier.4:input"}  # of DeepLabV3 and FCN: the input of the last convolution
_OWN_OPTIONS = ("weights", "weights_backbone", "num_classes", "progress")  # set by rmrkd
_AUXILIARY_FACTOR = 0.5  # of torchvision's reference training, references/segmentation/train.py


class TorchvisionAdapter(Adapter):
    """Of a network with `backbone`, `classifier`, and `aux_classifier` if it was built with `aux_loss`."""

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

    def losses(self, network: nn.Module, maps: Mapping[MapName, Tensor], labels: Tensor) -> dict[str, Tensor]:
        losses = {"ce": cross_entropy(maps["logits"], labels, self.align_corners)}
        if "aux" in maps:
            losses["aux_ce"] = _AUXILIARY_FACTOR * cross_entropy(maps["aux"], labels, self.align_corners)
        return losses

    def without_training_heads(self, network: nn.Module) -> nn.Module:
        if getattr(network, "aux_classifier", None) is not None:
            network.aux_classifier = None  # type: ignore[assignment]
        return network

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights of a whole network, or of a classification network whose layers the backbone has."""
        if any(key.startswith("backbone.") for key in state):
            has_auxiliary = any(key.startswith("aux_classifier.") for key in own)
            return FittedWeights(dict(state), ignore=() if has_auxiliary else ("aux_classifier.",))
        renamed = {f"backbone.{key.removeprefix('features.')}": value for key, value in state.items()}
        kept = {key: value for key, value in renamed.items() if key in own}
        return FittedWeights(kept or dict(state), prefix="backbone." if kept and is_student else "")

    def _classify(self, network: nn.Module, features: dict[str, Tensor]) -> Tensor:
        logits: Tensor = network.classifier(features if self.is_lraspp else features["out"])  # type: ignore[operator]
        return logits


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network.

    Raises:
        RmrkdError: torchvision has no such network, or it has no such option.
    """
    name = str(spec.name)
    allowed = [key for key in inspect.signature(_builder(name)).parameters if key not in _OWN_OPTIONS]
    allowed = [key for key in allowed if key != "kwargs"]
    for key in spec.options:
        if key not in allowed:
            raise RmrkdError(
                f"torchvision's `{name}` has no option `{key}` that can be set; {did_you_mean(key, allowed)}",
                f"allowed in `options`: {', '.join(allowed) or 'nothing'}",
            )
    config = {"library": "torchvision", "name": name, "options": dict(spec.options), "num_classes": num_classes}
    return {**config, "maps": dict(spec.maps)} if spec.maps else config


def build_network(
    config: Mapping[str, Any], *, device: str, name: str = "network", max_parameters: int = MAX_PARAMETERS,
    hint: str = "",
) -> nn.Module:  # fmt: skip
    """Build a network with random initial weights; see `libraries.build_network`."""
    del device  # `libraries` chooses the kind of batch norm
    return _build(config, name, max_parameters, hint)


def build_outline(config: Mapping[str, Any], name: str) -> nn.Module:
    """Build a network whose values do not matter."""
    return _build(config, name, MAX_PARAMETERS, "")


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
    return is_file_name(text) or text in {each.name for each in get_model_weights(str(spec.name))}


def _build(config: Mapping[str, Any], name: str, max_parameters: int, hint: str) -> nn.Module:
    model, options, num_classes = str(config.get("name")), config.get("options", {}), config.get("num_classes")
    if not isinstance(options, Mapping) or not isinstance(num_classes, int) or not 1 <= num_classes <= 4096:
        raise RmrkdError(f"the {name}'s description is damaged", hint)
    builder = _builder(model)
    arguments = {key: value for key, value in options.items() if key not in _OWN_OPTIONS}
    try:
        with limit_network_size(max_parameters, name):
            network = builder(weights=None, weights_backbone=None, num_classes=num_classes, **arguments)
    except RmrkdError:
        raise
    except Exception as error:  # torchvision does not check options
        raise RmrkdError(f"the {name} `{model}` cannot be built: {summarize_error(error)[:300]}", hint) from error
    modules = _modules(model, config.get("maps", {}))
    check_modules(network, modules)
    return set_adapter(network, TorchvisionAdapter(num_classes, modules, is_lraspp=model.startswith("lraspp")))


def _modules(model: str, own: object) -> dict[MapName, str]:
    """Return map → module: the known ones, and those of the preset in their place."""
    modules: dict[MapName, str] = {**(_MOBILENET_V3_LARGE if "mobilenet" in model else _RESNET)}
    if not model.startswith("lraspp"):
        modules |= _HEAD
    if isinstance(own, Mapping):
        modules |= {map_key(str(key)): str(module) for key, module in own.items()}
    return modules


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
