"""Build the network of any library: choose the file of the library, which does the work.

A network is described by plain data: the `model` part of a config for mmsegmentation, and `{"library": …, "name": …}`
with more keys for any other library. A student's file contains this description.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import nn

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.limits import MAX_PARAMETERS
from rmrkd_cli.networks.outline import on_meta
from rmrkd_cli.presets.network_schema import FILE_LIBRARIES, CheckpointSource, Library, Network
from rmrkd_cli.presets.schema import Preset

MMSEG = "mmseg"
NO_WEIGHTS = "none"
_DESCRIPTION_HINT = "check the network in the preset"


def library_of(config: Mapping[str, Any]) -> str:
    """Return the library of a network's description."""
    return str(config.get("library", MMSEG))


def network_config(spec: Network, num_classes: int, info: DatasetInfo | None = None) -> dict[str, Any]:
    """Return the description of a preset's network, plain data.

    Args:
        info: The data set, whose class names and image size a teacher that is a file refers to.

    Raises:
        RmrkdError: The library is not installed, or has no such network.
    """
    module = _module(spec.library)
    if spec.library in FILE_LIBRARIES:
        described: dict[str, Any] = module.network_config(spec, num_classes, info)
        return described
    config: dict[str, Any] = module.network_config(spec, num_classes)
    return config


def build_network(
    config: Mapping[str, Any],
    *,
    device: str,
    name: str = "network",
    max_parameters: int = MAX_PARAMETERS,
    hint: str = _DESCRIPTION_HINT,
) -> nn.Module:
    """Build a network with random initial weights.

    The description may come from an unknown author: nothing is downloaded or opened, and the size is limited.

    Args:
        config: As returned by `network_config`.
        device: "cpu" or "cuda". The modules stay on the CPU; on GPUs batch norm is synchronized between workers.
        name: Name of the network in messages.
        max_parameters: Largest number of parameters.
        hint: Hint of the error for a description that cannot be built.

    Raises:
        RmrkdError: The description is rejected, or its library cannot build it.
    """
    library = library_of(config)
    network: nn.Module = _module(library).build_network(
        config, device=device, name=name, max_parameters=max_parameters, hint=hint
    )
    if device != "cpu" and library != MMSEG:  # mmsegmentation's configs name the kind of batch norm
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network


def build_outline(config: Mapping[str, Any], name: str = "network") -> nn.Module:
    """Build a network on the device `meta`: it has names and shapes, and no memory for values. Run it in `on_meta`.

    Raises:
        RmrkdError: As `build_network`.
    """
    module = _module(library_of(config))
    with on_meta(), torch.no_grad():
        network: nn.Module = (
            module.build_outline(config, name)
            if hasattr(module, "build_outline")  # where building a whole network does more than its shapes need
            else module.build_network(config, device="cpu", name=name, max_parameters=MAX_PARAMETERS, hint="")
        )
    return network.eval()


def start_source(spec: Network, what: str) -> CheckpointSource | None:
    """Return the file that a network starts from when it is trained.

    Args:
        what: "student", or "teacher", which is trained without regard to its `checkpoint`.

    Returns:
        None for random weights, and for the ImageNet weights that a config of mmsegmentation names.

    Raises:
        RmrkdError: `weights` is a name that the library does not know.
    """
    if what == "student" and spec.checkpoint is not None:
        return spec.checkpoint
    return _named_weights(spec, what)


def resolve_weights(preset: Preset) -> Preset:
    """Return a preset whose teacher has a `checkpoint` where its `weights` are those of the whole network.

    Raises:
        RmrkdError: `weights` is a name that the library does not know.
    """
    teacher = preset.teacher
    source = _named_weights(teacher, "teacher") if teacher.checkpoint is None else None
    if source is None or not _module(teacher.library).is_whole(teacher):
        return preset
    return preset.model_copy(update={"teacher": teacher.model_copy(update={"checkpoint": source})})


def _named_weights(spec: Network, what: str) -> CheckpointSource | None:
    if spec.weights in (None, NO_WEIGHTS):
        return None
    source: CheckpointSource = _module(spec.library).weights_source(spec, what)
    return source


def _module(library: str) -> Any:
    if library not in get_args(Library):
        raise RmrkdError(f"library `{library:.50}` is unknown", f"known are {', '.join(get_args(Library))}")
    return importlib.import_module(f"rmrkd_cli.networks.{library}")
