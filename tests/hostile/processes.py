"""Whole commands in processes of their own, forked from one that has imported everything: time and memory of each."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        seconds: Of its process, imports not counted.
        megabytes: The most it ever held, imports counted.
    """

    exit_code: int | None
    text: str
    seconds: float
    megabytes: float


def warm_up() -> None:
    """What the server imports, once; mmseg only behind our stand-in for mmcv's compiled ops."""
    from rmrkd_cli.mmcv_ops import make_mmseg_importable

    make_mmseg_importable()
    import mmseg.models  # noqa: F401
    import safetensors  # noqa: F401

    import rmrkd_cli.app
    import rmrkd_cli.engine.evaluation_run
    import rmrkd_cli.engine.preflight
    import rmrkd_cli.engine.trainer  # noqa: F401


def server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.hostile.preload"])
    return context


def run(context: multiprocessing.context.ForkServerContext, arguments: list[str], folder: Path, limit: float) -> End:
    """Runs `rmrkd ARGUMENTS` in `folder`; after `limit` seconds it is killed, and its exit code none."""
    told = folder / "told.txt"
    process = context.Process(target=_command, args=(arguments, str(folder), str(told)))
    began = time.monotonic()
    process.start()
    process.join(limit)
    seconds = time.monotonic() - began
    if process.is_alive():
        process.kill()
        process.join()
    killed = process.exitcode is None or process.exitcode < 0
    *lines, memory = told.read_text(errors="replace").splitlines() or [""] if told.exists() else [""]
    told.unlink(missing_ok=True)
    size = float(memory) / 1024 if memory.isdigit() else float("nan")
    return End(None if killed else process.exitcode, "\n".join(lines), seconds, size)


def _command(arguments: list[str], folder: str, told: str) -> None:
    os.chdir(folder)
    stream = open(told, "w")  # noqa: SIM115 (for as long as the process lives)
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    sys.argv = ["rmrkd", *arguments]
    from rmrkd_cli.app import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    stream.write(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\n")
    stream.flush()
    os._exit(code)
