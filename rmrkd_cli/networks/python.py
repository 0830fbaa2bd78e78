"""Networks from a Python file of the user, which runs only if the command line names it with `--code FILE`.

The function gets `num_classes` and the options, and returns a module. Its forward gives logits (B, K, h, w): alone,
first in a tuple, or as `logits` or `out` of a mapping. A mapping may also hold `stage1` to `stage4`, `head`, and `aux`,
the logits of an auxiliary head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, RunError, did_you_mean
from rmrkd_cli.networks.adapter import Adapter, MapName, set_adapter
from rmrkd_cli.networks.description import Description, describe, read_description
from rmrkd_cli.networks.limits import MAX_PARAMETERS
from rmrkd_cli.networks.recorded_maps import check_modules, map_key, record_maps
from rmrkd_cli.presets import user_code
from rmrkd_cli.presets.fields import MAP_KEYS
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

_MAX_KEYS = 8  # in a message
_LOGITS = ("logits", "out")  # keys of a mapping, the second as in torchvision
_OUTPUT_HINT = (
    "return logits (B, K, h, w), or a mapping with `logits` and, if there are any, `stage1` to `stage4`, `head`"
)


class PythonAdapter(Adapter):
    """Of a module whose forward gives logits, and maybe feature maps."""

    auxiliary_factor = 0.4  # as in mmsegmentation's configs

    def __init__(self, description: Description, file: str) -> None:
        self.num_classes, self.modules, self.file = description.num_classes, description.maps, file

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        with record_maps(network, self.modules) as recorded:
            maps = self._read(self._run(network, images))
        if not auxiliary:
            maps.pop("aux", None)
        return {**maps, **recorded}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return self._read(self._run(network, images))["logits"]

    def _run(self, network: nn.Module, images: Tensor) -> Any:
        try:
            return network(images)
        except (torch.OutOfMemoryError, RmrkdError):
            raise
        except (Exception, SystemExit) as error:
            if not network.training and isinstance(error, Exception):  # the caller explains it
                raise
            raise RunError(
                f"`{self.file}` failed: {user_code.error_summary(error, self.file)}", "fix the file"
            ) from error

    def _read(self, output: Any) -> dict[MapName, Tensor]:
        """Return the maps in what the network returned."""
        maps: dict[MapName, Tensor] = {}
        logits = output
        if isinstance(output, Mapping):
            logits = next((output[key] for key in _LOGITS if key in output), None)
            maps = {map_key(key): output[key] for key in (*MAP_KEYS, "aux") if isinstance(output.get(key), Tensor)}
        elif isinstance(output, (tuple, list)) and output:
            logits = output[0]
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != self.num_classes:
            shape = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(output).__name__}"
            if isinstance(output, Mapping) and not isinstance(logits, Tensor):
                shape += f" with the keys {', '.join(f'`{key}`' for key in [*output][:_MAX_KEYS])}"
            raise RmrkdError(
                f"the network of `{self.file}` returns {shape}; expected are logits (B, {self.num_classes}, h, w)",
                _OUTPUT_HINT,
            )
        return {**maps, "logits": logits}


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network, with the SHA-256 of its file, which is not run.

    Raises:
        RmrkdError: The file does not exist.
    """
    file, _ = _split(str(spec.name))
    config = describe("python", str(spec.name), spec.options, num_classes, spec.maps)
    return {**config, "sha256": user_code.hashes([file])[file]}


def build_network(config: Mapping[str, Any], *, device: str, name: str, max_parameters: int, hint: str) -> nn.Module:
    """Run the file and build its network; see `libraries.build_network`. Its size is not limited.

    Raises:
        RmrkdError: The command line does not name the file, the file has changed, or it fails.
    """
    description = read_description(config, name, hint)
    file, function = _split(description.name)
    path = _allowed_path(file, str(config.get("sha256")), name)
    builder = _function(path, function)
    try:
        network = builder(num_classes=description.num_classes, **description.options)
    except (Exception, SystemExit) as error:
        raise RmrkdError(
            f"the {name} `{description.name}` cannot be built: {user_code.error_summary(error, path)}",
            f"the function is called as {function}(num_classes=K, **options)",
        ) from error
    if not isinstance(network, nn.Module):
        raise RmrkdError(
            f"`{description.name}` returns a {type(network).__name__}; expected is a `torch.nn.Module`", _OUTPUT_HINT
        )
    check_modules(network, description.maps)
    return set_adapter(network, PythonAdapter(description, path))


def build_outline(config: Mapping[str, Any], name: str) -> nn.Module:
    """Build the network with values: code of a user may need them."""
    with torch.device("cpu"):
        return build_network(config, device="cpu", name=name, max_parameters=MAX_PARAMETERS, hint="")


def weights_source(spec: Network, role: str) -> CheckpointSource:
    """Return the file that `weights` names."""
    del role
    return CheckpointSource(path=str(spec.weights))


def is_whole(spec: Network) -> bool:
    """Return whether `weights` are those of the whole network."""
    del spec
    return True


def _split(name: str) -> tuple[str, str]:
    """Return file and function of `FILE.py:function`."""
    file, _, function = name.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise RmrkdError(f"a network of `library: python` is named FILE.py:function, got `{name:.80}`")
    return file, function


def _allowed_path(file: str, digest: str, what: str) -> str:
    """Return the file that the command line names, by its path or, where a student's file was moved, by its text."""
    named = user_code.allowed_files()
    same_text = [each for each in named if Path(each).is_file() and user_code.hashes([each])[each] == digest]
    if same_text:
        return file if user_code.is_named(file, same_text) else same_text[0]
    if user_code.is_named(file, named) or [each for each in named if Path(each).name == Path(file).name]:
        raise RmrkdError(
            f"the {what} was built by another text of `{file}`: its SHA-256 begins with {digest[:12]}",
            "name the file as it was, with --code FILE",
        )
    raise RmrkdError(
        f"the {what} is Python code in `{file}`, which runs only if the command line names that file",
        f"check the file, then add --code {file}",
    )


def _function(path: str, name: str) -> Callable[..., Any]:
    module = user_code.run_code(path)
    found = vars(module).get(name)
    if not callable(found):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise RmrkdError(f"`{path}` has no function `{name}`; {did_you_mean(name, own)}", "name it FILE.py:function")
    return found  # type: ignore[no-any-return]
