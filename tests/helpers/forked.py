"""Processes forked from a server that has imported everything: commands, workers of a job, functions of two ranks.

A new interpreter takes five to ten seconds to import torch and mmsegmentation; a fork takes 0.1 s.
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
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.distributed.worker_errors import ERRORS
from tests.helpers.cli import COMMAND


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        seconds: Time of its process, without imports.
        megabytes: Peak memory, with imports.
    """

    exit_code: int | None
    text: str
    seconds: float
    megabytes: float


def warm_up() -> None:
    """Import what commands need; mmseg needs the replacement for mmcv's compiled ops."""
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


PRELOAD = ["tests.helpers.forked_preload"]


def server() -> multiprocessing.context.ForkServerContext:
    """Return a context whose processes are forked from the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def fork_loaders() -> None:
    """Let loader processes be forked from this process, itself forked, instead of from a server that first imports."""
    from rmrkd_cli.data import loader, loader_server

    loader.loader_context = lambda: multiprocessing.get_context("fork")  # type: ignore[assignment]
    loader_server.start_loader_server = lambda *_: None


@contextmanager
def launched_by_forking() -> Iterator[None]:
    """Let torch's launcher fork its workers from the server instead of starting interpreters."""
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


def start_launcher(
    arguments: list[str], folder: Path, output: Path, errors: Path
) -> multiprocessing.process.BaseProcess:
    """Start `rmrkd ARGUMENTS`, whose workers are forked too, with files for stdout and stderr."""
    context = server()
    context.Process(target=int).start()  # so that the server runs
    address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    words = (address, arguments, str(folder), str(output), str(errors))
    process = context.Process(target=_launch, args=words, daemon=True)
    process.start()
    return process


def start_in_terminal(arguments: list[str], terminal: str) -> multiprocessing.process.BaseProcess:
    """Start `rmrkd ARGUMENTS` in a new session with the named terminal as its controlling terminal."""
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
    descriptor = os.open(terminal, os.O_RDWR)  # it becomes the controlling terminal
    for number in range(3):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (open(number, "w") for number in (1, 2))  # noqa: SIM115 (the server's streams write to a file)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup tests inherit an ignored SIGHUP
    sys.argv = ["rmrkd", *arguments]
    fork_loaders()
    from rmrkd_cli.__main__ import main

    main()


def _work(job: str, environment: dict[str, str], launcher: int) -> None:
    """Do what `python -m rmrkd_cli.distributed.worker JOB` does; torch has set the variables of the rank."""
    from rmrkd_cli.distributed import worker

    os.environ.update(environment)
    fork_loaders()
    for number in (1, 2):  # the server has the output of the test that started it
        os.dup2(os.open(f"/proc/{launcher}/fd/{number}", os.O_WRONLY | os.O_APPEND), number)
    worker._die_with_launcher = lambda: None  # its parent is the server
    code = worker.main(job)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)


def _launch(address: str, arguments: list[str], folder: str, output: str, errors: str) -> None:
    known: Any = forkserver._forkserver  # type: ignore[attr-defined]
    known._forkserver_address = address  # of the server that this process is forked from, which runs
    known.ensure_running = lambda: None
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it has children
    with launched_by_forking():
        _command(arguments, folder, output, errors=errors)


def run(context: multiprocessing.context.ForkServerContext, arguments: list[str], folder: Path, limit: float) -> End:
    """Run `rmrkd ARGUMENTS` in `folder`; after `limit` seconds kill it, with the exit code None."""
    output = folder / "output.txt"
    cache = {"RMRKD_CACHE": os.environ["RMRKD_CACHE"]}  # a test before may have started the server with another
    process = context.Process(target=_command, args=(arguments, str(folder), str(output), cache))
    began = time.monotonic()
    process.start()
    process.join(limit)
    seconds = time.monotonic() - began
    if process.is_alive():
        process.kill()
        process.join()
    killed = process.exitcode is None or process.exitcode < 0
    *lines, memory = output.read_text(errors="replace").splitlines() or [""] if output.exists() else [""]
    output.unlink(missing_ok=True)
    size = float(memory) / 1024 if memory.isdigit() else float("nan")
    return End(None if killed else process.exitcode, "\n".join(lines), seconds, size)


def start_ranks(
    arguments: list[str], folder: Path, port: int, ranks: int = 2, pause: float = 0, **environment: str
) -> Ranks:
    """Start `rmrkd ARGUMENTS` once for each rank, with the variables that torchrun sets; see `Ranks`.

    Args:
        pause: Seconds between the starts.
        environment: More variables; `{rank}` in a value is the rank.
    """
    processes, outputs = [], []
    for rank in range(ranks):
        time.sleep(pause if rank else 0)
        variables = {
            "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            **{name: value.format(rank=rank) for name, value in environment.items()},
        }  # fmt: skip
        output = folder / f"rank{rank}-{port}.txt"
        process = server().Process(target=_command, args=(arguments, str(folder), str(output), variables), daemon=True)
        process.start()
        processes.append(process)
        outputs.append(output)
    return Ranks(processes, outputs)


@dataclass(frozen=True)
class Ranks:
    """Commands of another launcher, one for each rank."""

    processes: list[multiprocessing.context.ForkServerProcess]
    outputs: list[Path]

    def wait(self, seconds: float = 60) -> list[tuple[int | None, str]]:
        """Wait for all, and return the exit code (None if it hangs) and the output of each."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        texts = [output.read_text(errors="replace").rstrip("0123456789\n") for output in self.outputs]
        return list(zip(codes, texts, strict=True))


def _command(
    arguments: list[str], folder: str, output: str, environment: dict[str, str] | None = None, errors: str | None = None
) -> None:
    os.chdir(folder)
    os.environ.pop(ERRORS, None)  # a launcher may have started the server
    os.environ.update(environment or {})
    fork_loaders()
    stream = open(output, "w")  # noqa: SIM115 (open until the process ends)
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
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
