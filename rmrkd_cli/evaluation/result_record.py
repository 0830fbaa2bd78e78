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
    **facts: Any,
) -> Record:
    """Return a result record: counts, metrics, evaluation protocol and facts about the network.

    Args:
        protocol: Settings that must be equal for a comparison; see `make_protocol`.
        per_image: `names` and `counts` of the images; the counts sum to the matrix.
        facts: `name`, `role`, `method`, `seed`, `iterations`, `checkpoint`, `parameters`, `macs`, `training`, …
    """
    metrics = matrix.result()
    return {
        "format": FORMAT,
        **facts,
        "protocol": dict(protocol),
        "metrics": {
            "miou": _number(metrics.miou),
            "macc": _number(metrics.macc),
            "aacc": _number(metrics.aacc),
            "mdice": _number(metrics.mdice),
            "iou": [_number(value) for value in metrics.iou.tolist()],
            "accuracy": [_number(value) for value in metrics.accuracy.tolist()],
            "dice": [_number(value) for value in metrics.dice.tolist()],
        },
        "matrix": matrix.matrix.cpu().tolist(),
        **({"per_image": dict(per_image)} if per_image is not None else {}),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
