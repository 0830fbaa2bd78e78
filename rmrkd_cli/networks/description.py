"""What a network of a library other than mmsegmentation is built from: plain data, in a student's file too."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import nn

from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.errors import RmrkdError, did_you_mean, summarize_error
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.networks.adapter import MapName
from rmrkd_cli.networks.limits import limit_network_size, sanitize_config
from rmrkd_cli.networks.recorded_maps import map_key

MAX_CLASSES = 4096
_MAX_VALUE = 1e6  # of mean and standard deviation


@dataclass(frozen=True)
class Description:
    """A network of a library.

    Attributes:
        options: Keyword arguments of its constructor.
        maps: Feature map → module, for maps that the user placed.
    """

    name: str
    options: dict[str, Any]
    num_classes: int
    maps: dict[MapName, str] = field(default_factory=dict)
    normalization: Normalization = IMAGENET


def describe(
    library: str,
    name: str,
    options: Mapping[str, Any],
    num_classes: int,
    maps: Mapping[str, str],
    normalization: Normalization = IMAGENET,
) -> dict[str, Any]:
    """Return the description of a network as plain data, without the keys that have their default."""
    config: dict[str, Any] = {"library": library, "name": name, "options": dict(options), "num_classes": num_classes}
    config |= {"maps": dict(maps)} if maps else {}
    return config if normalization == IMAGENET else {**config, "normalization": normalization._asdict()}


def read_description(config: Mapping[str, Any], what: str, hint: str) -> Description:
    """Check a description, which may come from an unknown author.

    Args:
        config: As `describe` returned it.
        what: Name of the network in messages.

    Raises:
        RmrkdError: It is damaged, or an entry is too large.
    """
    plain = sanitize_config(config, what)
    name, options, maps = plain.get("name"), plain.get("options", {}), plain.get("maps", {})
    count = plain.get("num_classes")
    if not isinstance(name, str) or not isinstance(options, dict) or not isinstance(maps, dict):
        raise RmrkdError(f"the {what}'s description is damaged: it has no name, options or maps", hint)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_CLASSES:
        raise RmrkdError(f"the {what}'s description is damaged: `num_classes` is {str(count)[:50]}", hint)
    modules = {map_key(str(key)): str(module) for key, module in maps.items()}
    return Description(name, options, count, modules, _normalization(plain.get("normalization"), what, hint))


def _normalization(value: Any, what: str, hint: str) -> Normalization:
    if value is None:
        return IMAGENET
    try:
        mean, std = ([float(number) for number in value[key]] for key in ("mean", "std"))
        valid = len(mean) == len(std) == 3 and all(math.isfinite(n) and abs(n) <= _MAX_VALUE for n in mean + std)
        if valid and min(std) > 0 and isinstance(value["rgb"], bool):
            return Normalization(mean, std, value["rgb"])
    except (TypeError, KeyError, ValueError):
        pass
    raise RmrkdError(f"the {what}'s description is damaged: its normalization needs three means and deviations", hint)


def check_option_names(
    given: Collection[str], allowed: Collection[str], whose: str, reasons: Mapping[str, str]
) -> None:
    """Check the names of options.

    Args:
        whose: The network in messages.
        reasons: Why an argument of the constructor is no option.

    Raises:
        RmrkdError: With the nearest name.
    """
    for key in given:
        if key in allowed:
            continue
        nearest = f"; {did_you_mean(key, allowed)}" if allowed else ""
        why = f": {reasons[key]}" if key in reasons else nearest
        raise RmrkdError(
            f"{whose} has no option `{key}`{why}", f"allowed in `options`: {', '.join(sorted(allowed)) or 'nothing'}"
        )


@contextmanager
def explain_failed_build(what: str, name: str, max_parameters: int, hint: str) -> Iterator[None]:
    """Limit the size of a network that is built in this block; its library does not check options.

    Args:
        what: The network in messages.
        name: Of the class or function that builds it.

    Raises:
        RmrkdError: The network is too large, or the library raised any exception.
    """
    try:
        with limit_network_size(max_parameters, what):
            yield
    except RmrkdError:
        raise
    except Exception as error:
        raise RmrkdError(f"the {what} `{name}` cannot be built: {summarize_error(error)[:300]}", hint) from error


def require_package(module: str, distribution: str, extra: str) -> None:
    """Raise RmrkdError with the install command where an optional package is missing."""
    if find_spec(module) is None:
        raise RmrkdError(
            f"`library: {extra}` needs the package {distribution}, which is not installed", install_extra_command(extra)
        )


def check_size(network: nn.Module, max_parameters: int, what: str) -> None:
    """Raise RmrkdError for a network that has more parameters than allowed."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > max_parameters:
        raise RmrkdError(f"the {what}'s config describes more than {max_parameters:,} parameters")
