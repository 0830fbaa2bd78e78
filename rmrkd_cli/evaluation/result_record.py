"""The result record of an evaluation, in plain JSON types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmrkd_cli.results.record import Record
from rmrkd_cli.results.record_schema import FORMAT

if TYPE_CHECKING:
    from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix


def make_record(
    matrix: ConfusionMatrix,
    protocol: Mapping[str, Any],
    *,
    per_image: Mapping[str, Any] | None = None,
    boundary: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Record:
    """Return a result record: counts, metrics, evaluation protocol and facts about the network.

    Args:
        protocol: Settings that must be equal for a comparison; see `make_protocol`.
        per_image: `names` and `counts` of the images; the counts sum to the matrix.
        boundary: Boundary IoU; see `ImageCounts.boundary`.
        facts: `name`, `role`, `method`, `seed`, `iterations`, `checkpoint`, `parameters`, `macs`, `training`, …
    """
    metrics = matrix.result()
    return {
        "format": FORMAT,
        **facts,
        "protocol": dict(protocol),
        "metrics": {
            "miou": none_if_nan(metrics.miou),
            "macc": none_if_nan(metrics.macc),
            "aacc": none_if_nan(metrics.aacc),
            "mdice": none_if_nan(metrics.mdice),
            "iou": [none_if_nan(value) for value in metrics.iou.tolist()],
            "accuracy": [none_if_nan(value) for value in metrics.accuracy.tolist()],
            "dice": [none_if_nan(value) for value in metrics.dice.tolist()],
        },
        "matrix": matrix.matrix.cpu().tolist(),
        **({"per_image": dict(per_image)} if per_image is not None else {}),
        **({"boundary": dict(boundary)} if boundary is not None else {}),
    }


def none_if_nan(value: float) -> float | None:
    """Return the number; None, which JSON has, for NaN."""
    return None if math.isnan(value) else value
