"""`python -m rmrkd_cli.engine.worker JOB`: one worker process under torch's launcher."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

from rmrkd_cli.engine.job import read_job
from rmrkd_cli.engine.launch import ERROR_FILE, run_job
from rmrkd_cli.errors import RmrkdError


def main(job_file: str) -> int:
    """Runs the job; leaves the first error of all workers in the file the launching process reads."""
    try:
        run_job(read_job(Path(job_file)))
    except RmrkdError as error:
        _tell(error)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _tell(RmrkdError(f"{type(error).__name__}: {error}"), exit_code=1)
        return 1
    return 0


def _tell(error: RmrkdError, exit_code: int | None = None) -> None:
    target = Path(os.environ[ERROR_FILE])
    told = {"message": error.message, "hint": error.hint, "exit_code": exit_code or error.exit_code}
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_text(json.dumps(told), encoding="utf-8")
    with contextlib.suppress(FileExistsError):  # another worker was first
        os.link(partial, target)
    partial.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
