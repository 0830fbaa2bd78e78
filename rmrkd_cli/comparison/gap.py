"""Which share of the gap between baseline and teacher a distilled student closes, where there is such a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rmrkd_cli.comparison.types import Difference, Group
from rmrkd_cli.terminal.text import format_points


def gap_text(groups: Sequence[Group], subtract: Callable[[Group, Group], Difference]) -> str | None:
    """Return the share of each distilled group, or why there is none.

    A share is a ratio: where its denominator may be zero, it means nothing. So there is one only where the teacher's
    mIoU is above the baseline's, and their interval excludes zero. Results without counts of single images have no
    intervals; there the means decide.

    Args:
        subtract: Returns the second group minus the first, with intervals.

    Returns:
        None without exactly one teacher, one baseline and a distilled group.
    """
    by_role = {
        role: [group for group in groups if group.role == role and group.miou is not None]
        for role in ("teacher", "baseline", "distill")
    }
    if not by_role["distill"] or any(len(by_role[role]) != 1 for role in ("teacher", "baseline")):
        return None
    (teacher,), (baseline,) = by_role["teacher"], by_role["baseline"]
    low, gap = baseline.miou or 0.0, (teacher.miou or 0.0) - (baseline.miou or 0.0)
    if gap <= 0:
        return "there is no gap to close: the teacher's mIoU is not above the baseline's"
    if reason := _undecided(subtract(baseline, teacher), (baseline, teacher)):
        return f"no share of the gap to the teacher is given: {reason}"
    texts = []
    for group in by_role["distill"]:
        share = round(100 * ((group.miou or 0.0) - low) / gap)  # an integer has no -0
        texts.append(f"{group.label} closes {share} % of the gap between the baseline and the teacher")
    return "; ".join(texts)


def _undecided(difference: Difference, groups: Sequence[Group]) -> str:
    """Return why it is not known whether the teacher is better, or an empty string."""
    mean = difference.mean
    if any(record.get("per_image") is None for group in groups for record in group.records) or mean.excludes_zero:
        return ""
    gap = f"teacher - baseline = {format_points(mean.value)} mIoU"
    if mean.low is None or mean.high is None:
        return f"{gap}, from too few images for an interval"
    return f"the 95 % interval of {gap} is {format_points(mean.low)} to {format_points(mean.high)} and includes zero"
