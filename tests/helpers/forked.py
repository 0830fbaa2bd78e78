"""Processes forked from one that has imported everything: whole commands, workers of a job, functions of two ranks.

An interpreter of its own takes five to ten seconds to import torch and mmsegmentation; a fork takes 0.1 s.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import COMMAND


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
    from rmrkd_cli.installation.mmcv_ops import make_mmseg_importable

    make_mmseg_importable()
    import mmseg.models  # noqa: F401
    import safetensors  # noqa: F401
    import torch._dynamo
    import torch.distributed.optim
    import torch.utils.tensorboard  # noqa: F401

    import rmrkd_cli.cli.app
    import rmrkd_cli.evaluation.run
    import rmrkd_cli.training.preflight
    import rmrkd_cli.training.trainer  # noqa: F401


def server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.forked_preload"])
    return context


@contextmanager
def launched_by_forking() -> Iterator[None]:
    """torch's launcher forks its workers from the server in place of starting interpreters; all else is as it is."""
    from torch.distributed.launcher import api

    server()
    real = api.elastic_launch

    def elastic_launch(config: api.LaunchConfig, entrypoint: str) -> Callable[..., Any]:
        assert entrypoint == sys.executable
        config.start_method = "forkserver"

        def launch(*words: str) -> Any:
            assert words[:2] == ("-m", "rmrkd_cli.distributed.worker")
            return real(config, _work)(words[2], dict(os.environ), os.getpid())

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "elastic_launch", elastic_launch)
        yield


def start_in_terminal(arguments: list[str], terminal: str) -> multiprocessing.process.BaseProcess:
    """Start `rmrkd ARGUMENTS` in a session of its own, which the terminal of that name controls."""
    process = server().Process(target=_in_terminal, args=(arguments, terminal), daemon=True)
    process.start()
    return process


def run_ranks(function: Callable[..., None], *arguments: object, ranks: int = 2, seconds: float = 120) -> None:
    """Call `function(*arguments, rank)` in a process for each rank, all at once; each must succeed in time."""
    context = server()
    processes = [context.Process(target=function, args=(*arguments, rank), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]  # None for one that hangs
    for process in processes:
        process.kill()
    assert codes == [0] * ranks


def _in_terminal(arguments: list[str], terminal: str) -> None:
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)  # the first that a session opens controls it
    for number in range(3):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (open(number, "w") for number in (1, 2))  # noqa: SIM115 (the server's are of a file)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which tests under nohup inherit as ignored
    sys.argv = ["rmrkd", *arguments]
    from rmrkd_cli.__main__ import main

    main()


def _work(job: str, environment: dict[str, str], launcher: int) -> None:
    """What `python -m rmrkd_cli.distributed.worker JOB` does, in a fork: torch has set the variables of the rank."""
    from rmrkd_cli.distributed import worker

    os.environ.update(environment)
    for number in (1, 2):  # the server was started under the output of another test
        os.dup2(os.open(f"/proc/{launcher}/fd/{number}", os.O_WRONLY | os.O_APPEND), number)
    worker._die_with_the_launcher = lambda: None  # its parent is the server
    code = worker.main(job)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)


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
    from rmrkd_cli.cli import app

    app.app = COMMAND  # type: ignore[assignment]
    code = 0
    try:
        app.main()
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
