"""`python -m rmrkd_cli.engine.worker JOB`: one worker process under torch's launcher."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from rmrkd_cli.engine.job import read_job
from rmrkd_cli.engine.launch import ERROR_FILE, run_job
from rmrkd_cli.errors import RmrkdError, RunError


def main(job_file: str) -> int:
    """Runs the job; leaves the first error of all workers in the file the launching process reads."""
    try:
        run_job(read_job(Path(job_file)))
    except RmrkdError as error:
        _tell(error)
        return error.exit_code
    except OSError as error:
        _tell(RunError(str(error)))
        return 1
    except Exception as error:
        if _tell(RunError(f"{type(error).__name__}: {error}")):
            traceback.print_exc()  # the others only say that they lost this one
        return 1
    return 0


def _tell(error: RmrkdError) -> bool:
    """Leaves the error for the launching process; False where another worker was first."""
    target = Path(os.environ[ERROR_FILE])
    told = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_text(json.dumps(told), encoding="utf-8")
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the process group's teardown, which can wait for workers that are gone
