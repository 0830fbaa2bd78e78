"""How the values of an image become the input of a network."""

from __future__ import annotations

from typing import NamedTuple

_TOLERANCE = 0.5  # of 255


class Normalization(NamedTuple):
    """Mean and standard deviation of three channels, of values from 0 to 255, and whether the first channel is red."""

    mean: list[float]
    std: list[float]
    rgb: bool

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean} and std {std} in {'RGB' if self.rgb else 'BGR'} order"

    def matches(self, other: Normalization) -> bool:
        """Return whether both are equal up to rounding."""
        pairs = zip(self.mean + self.std, other.mean + other.std, strict=True)
        return self.rgb == other.rgb and all(abs(one - two) <= _TOLERANCE for one, two in pairs)


IMAGENET = Normalization([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], rgb=True)
