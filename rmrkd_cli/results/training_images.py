"""How many labelled and unlabelled images a network was trained on, and what stood in for missing labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmrkd_cli.terminal.text import plural, shorten


def training_images(labelled: int, unlabelled: int, *, from_teacher: bool, threshold: float | None) -> dict[str, Any]:
    """Return the entries of a result's `training` about its images.

    Args:
        from_teacher: The teacher's prediction was the label map of the unlabelled images.
        threshold: Its pixels of a smaller probability had no label.
    """
    entries: dict[str, Any] = {"labelled_images": labelled, "unlabelled_images": unlabelled}
    if unlabelled:
        entries["unlabelled_labels"] = "teacher" if from_teacher else "none"
        entries["label_threshold"] = threshold
    return entries


def describe_images(entries: Mapping[str, Any]) -> str:
    """Return in words what `training_images` returned; an empty text where it is unknown."""
    labelled, unlabelled = entries.get("labelled_images"), entries.get("unlabelled_images")
    if not isinstance(labelled, int) or not isinstance(unlabelled, int):
        return ""
    if not unlabelled:
        return f"{labelled} labelled images" if labelled != 1 else "1 labelled image"
    threshold = entries.get("label_threshold")
    if entries.get("unlabelled_labels") == "teacher":
        above = f" from a probability of {shorten(threshold)} on" if threshold else ""
        labels = f"labelled by the teacher{above}"
    else:
        labels = "without labels" if labelled else "without labels, from the teacher alone"
    first = f"{labelled} labelled and " if labelled else ""
    return f"{first}{plural(unlabelled, 'image' if not labelled else 'unlabelled image')} {labels}"
