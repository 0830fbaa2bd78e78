"""The error for a checkpoint without a student, with the line of Python that takes its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rmrkd_cli.checkpoints.foreign_networks import SUPPORTED, describe_network
from rmrkd_cli.checkpoints.network_state import fixing_line
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.checkpoints.reader import Checkpoint

_MAX_GROUPS = 8


def require_student(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the student's tensors, see `Checkpoint.student`.

    Raises:
        RmrkdError: There are none.
    """
    student = checkpoint.student()
    if not student:
        raise missing_student(checkpoint)
    return student


def missing_student(checkpoint: Checkpoint) -> RmrkdError:
    """Return the error for a checkpoint that contains no student, or no network that rmrkd reads."""
    groups = ", ".join(sorted({key.split(".")[0] for key in checkpoint.state})[:_MAX_GROUPS])
    hint = SUPPORTED
    if any(key.startswith("teacher.") for key in checkpoint.state):
        line = fixing_line(checkpoint.path, checkpoint.place, f"{checkpoint.prefix}teacher.")
        hint = f"to use the network under `teacher.`, write it into a file of its own: {line}"
    return RmrkdError(
        f"`{checkpoint.path}` contains no student: no key starts with `student.`, keys start with {groups}; "
        f"{describe_network(checkpoint.state)}",
        hint,
    )
