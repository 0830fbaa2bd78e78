"""Which keys of `data` fit together when some training images have no label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WITHOUT_LABELS = ("none", "teacher")  # values of `labels` that are no folder; `./none` is a folder of that name


def label_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between the keys about labels; values may have any type, which their own checks report."""
    train, unlabelled = (_labels(data.get(key)) for key in ("train", "unlabelled"))
    has_unlabelled = data.get("unlabelled") is not None
    if has_unlabelled and train in WITHOUT_LABELS and train != unlabelled:
        yield (
            f"`train.labels` is `{train}` and `unlabelled.labels` is `{unlabelled}`; as no image has a label map, both "
            "must be equal"
        )
    if data.get("labelled_share") is not None and (not has_unlabelled or train in WITHOUT_LABELS):
        missing = f"`train.labels` is `{train}`" if has_unlabelled else "there are no `unlabelled` images"
        yield f"`labelled_share` needs labelled and unlabelled images, but {missing}"
    if data.get("label_threshold") is not None and "teacher" not in (train, unlabelled):
        yield "`label_threshold` needs `train.labels: teacher` or `unlabelled.labels: teacher`"


def _labels(folder: Any) -> str:
    """Return the `labels` of a folder as written, `none` where it has none, and an empty text for anything else."""
    folder = folder.model_dump() if hasattr(folder, "model_dump") else folder
    labels = folder.get("labels", "none") if isinstance(folder, Mapping) else ""
    return labels if isinstance(labels, str) else ""
