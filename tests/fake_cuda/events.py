"""Stand-ins for CUDA's events and streams, which count how often the host waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch


class FakeEvent:
    """A CUDA event. Waiting for one of an earlier step does not wait for the current step.

    Attributes:
        step: Number of the current step, for all events.
        on_wait: Called with whether the event was recorded in the current step.
    """

    step: ClassVar[int] = 0
    on_wait: ClassVar[Callable[[bool], None]] = staticmethod(lambda _: None)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.recorded = -1

    def record(self, stream: Any = None) -> None:
        self.recorded = FakeEvent.step

    def synchronize(self) -> None:
        FakeEvent.on_wait(self.recorded == FakeEvent.step)

    def query(self) -> bool:
        return True

    def wait(self, stream: Any = None) -> None:
        """Let a stream wait, not the host."""


class FakeStream:
    """A CUDA stream; the only one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record_event(self, event: FakeEvent | None = None) -> FakeEvent:
        event = event or FakeEvent()
        event.record()
        return event

    def wait_event(self, event: FakeEvent) -> None:
        """Let the stream wait, not the host."""

    def wait_stream(self, stream: FakeStream) -> None:
        """Let the stream wait, not the host."""

    def synchronize(self) -> None:
        FakeEvent.on_wait(True)

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def replace_events() -> None:
    """Let torch.cuda hand out these."""
    cuda: Any = torch.cuda
    cuda.Event, cuda.Stream = FakeEvent, FakeStream
    cuda.current_stream = cuda.default_stream = FakeStream
    cuda.stream = lambda stream: stream
    cuda.synchronize = lambda *_: FakeEvent.on_wait(True)
