"""What the workers of another launcher tell each other of themselves."""

from __future__ import annotations

from dataclasses import dataclass

from rmrkd_cli.errors import RmrkdError


@dataclass(frozen=True)
class Member:
    """What a worker says of itself.

    Attributes:
        host: Name of its machine, for messages.
        machine: As in `ExternalWorker`.
    """

    rank: int
    local_rank: int | None
    machine: str
    host: str
    pid: int
    version: str


def check_members(members: list[Member]) -> None:
    """Raise RmrkdError if two workers would use one GPU, or have different versions."""
    seen: dict[tuple[str, int], Member] = {}
    for member in members:
        other = seen.setdefault((member.machine, member.local_rank or 0), member)
        if other is member:
            continue
        problem = "do not know LOCAL_RANK" if member.local_rank is None else f"have LOCAL_RANK={member.local_rank}"
        raise RmrkdError(
            f"workers {other.rank} and {member.rank} on {member.host} {problem}",
            "set LOCAL_RANK to the number of the worker on its machine, from 0; `torchrun` does so",
        )
    for member in members:
        if member.version != members[0].version:
            raise RmrkdError(
                f"worker {member.rank} on {member.host} has rmrkd {member.version}, worker 0 has {members[0].version}",
                "install the same version on every machine",
            )
