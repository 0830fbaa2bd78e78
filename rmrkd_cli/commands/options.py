"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DataRoot = Annotated[str | None, typer.Option("--data-root", metavar="DIR", help="Folder of the data set.")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", min=1, metavar="N", help="Worker processes here: a GPU each, or a CPU process each."),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
JsonOut = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON; - for stdout alone.")
]
