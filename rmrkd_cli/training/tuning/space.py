"""What is searched: the weight of each loss, and those of its options that have a range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loss_schema import is_custom_loss, search_range
from rmrkd_cli.presets.schema import Preset

WEIGHT_FACTORS = (0.1, 10.0)  # of the weight that the preset or the rule of equal gradients gives
_WEIGHT = "weight"


@dataclass(frozen=True)
class Parameter:
    """A number that is searched on a logarithmic scale.

    Attributes:
        key: `LOSS.OPTION`, as in `--set losses.LOSS.OPTION=VALUE`.
        default: The value to start from; of a weight None until the first run has measured it.
        low, high: Its range; of a weight with `default` None the factors of the default.
    """

    key: str
    default: float | None
    low: float
    high: float

    def describe(self) -> str:
        if self.default is None:
            return f"{self.key} {self.low:g} to {self.high:g} times the automatic weight"
        return f"{self.key} {self.low:g} to {self.high:g}"


def search_space(preset: Preset, weights: Mapping[str, float] | None = None) -> list[Parameter]:
    """Return what is searched for a preset's losses.

    Args:
        weights: The weights that the first run used; None before it.

    Raises:
        RmrkdError: The preset has no losses, or nothing to search.
    """
    if not preset.losses:
        raise RmrkdError(f"`{preset.name}` has no distillation losses to tune", "--method NAME")
    space = []
    for name, spec in preset.losses.items():
        known = spec.weight if isinstance(spec.weight, float) else None
        weight = weights.get(name, known) if weights is not None else known
        if weight is None:
            space.append(Parameter(f"{name}.{_WEIGHT}", None, *WEIGHT_FACTORS))
        elif weight > 0:
            space.append(Parameter(f"{name}.{_WEIGHT}", weight, *(factor * weight for factor in WEIGHT_FACTORS)))
        for option, (low, high) in ({} if is_custom_loss(spec.type) else search_range(spec.type)).items():
            default = float(getattr(spec, option))
            space.append(Parameter(f"{name}.{option}", default, min(low, default), max(high, default)))
    if not space:
        raise RmrkdError("nothing to tune: every loss has the weight 0, and no option with a range", "rmrkd methods")
    return space


def settings_of(values: Mapping[str, float]) -> list[str]:
    """Return the texts of `--set` for values of parameters."""
    return [f"losses.{key}={value:.6g}" for key, value in values.items()]


def check_validation_split(preset: Preset) -> None:
    """Raise RmrkdError if a preset validates on its test images: they are for the final measurement."""
    data = preset.data
    hint = "tune on a part of the training images: give it as `data.val` of the preset"
    val, test = data.val, data.test
    if val is not None and test is not None and (val.images, val.names) == (test.images, test.names):
        raise RmrkdError("`data.val` and `data.test` are the same images: tune does not use the test split", hint)
    for key, path in (("images", data.val and data.val.images), ("names", data.val and data.val.names)):
        if path is not None and _is_test(str(path)):
            raise RmrkdError(f"`data.val.{key}: {path}` is a test split, which tune does not use", hint)


def _is_test(path: str) -> bool:
    words: Sequence[str] = [PurePosixPath(part).stem.lower() for part in path.split("/")]
    return any(
        word in ("test", "testing") or word.startswith(("test_", "test-")) or word.endswith(("_test", "-test"))
        for word in words
    )
