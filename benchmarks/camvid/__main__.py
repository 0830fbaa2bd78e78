"""`python -m benchmarks.camvid --data DIR --weights DIR`: train everything on CamVid and write CAMVID.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.arguments import read_count, read_names, read_seeds, say
from rmrkd_cli.errors import RmrkdError

HERE = Path(__file__).parents[1]
_LENGTHS = ("iterations", "teacher_iterations")


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 1 where something failed, 130 after Ctrl-C, else 0, whoever wins."""
    parser = _parser()
    given = parser.parse_args(arguments)
    changed = given.settings or any(getattr(given, name) != parser.get_default(name) for name in _LENGTHS)
    if changed and given.results.resolve() == parser.get_default("results").resolve():
        parser.error("other settings and iterations need a folder of their own for the records: --results DIR")
    # A training of one thread needs two thirds of the CPU time of one with two, so two of them run side by side.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // given.jobs)))
    from benchmarks.camvid.bench import Bench
    from benchmarks.camvid.plan import METHODS, Files, method_row
    from benchmarks.camvid.trainings import Trainings

    folder = (given.work_dir or HERE / ".camvid").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    output = given.output or (folder if changed else HERE) / "CAMVID.md"
    files = Files(
        given.data.absolute(),
        given.weights.absolute(),
        folder,
        given.results.absolute(),
        given.teacher_iterations,
        given.settings,
    )
    try:
        others = tuple(method_row(name) for name in given.methods if name not in {row.name for row in METHODS})
        trainings = Trainings(files, given.seeds, given.iterations, others)
        bench = Bench(files, trainings, given.jobs, output, say)
        failed = bench.run()
    except RmrkdError as error:
        parser.error(error.message)
    except KeyboardInterrupt:
        say("stopped; the same command resumes")
        return 130
    say(f"written: {output}")
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.camvid",
        description="Trains teachers, baselines and distilled students on CamVid, and writes benchmarks/CAMVID.md. "
        "A training of which the results folder has a record is not run again; others continue in the work directory.",
    )
    parser.add_argument("--data", type=Path, required=True, help="CamVid: train, trainannot, val, valannot")
    parser.add_argument(
        "--weights", type=Path, required=True, help="folder of mobilenet_v2_imagenet.pth and cityscapes-teacher.onnx"
    )
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="default: benchmarks/.camvid")
    parser.add_argument(
        "--results", type=Path, default=HERE / "camvid" / "results", metavar="DIR", help="records of what is finished"
    )
    parser.add_argument("--seeds", type=read_seeds, default=(0, 1, 2), metavar="N,N", help="default: 0,1,2")
    parser.add_argument("--iterations", type=read_count, default=600, metavar="N", help="of students (default: 600)")
    parser.add_argument("--teacher-iterations", type=read_count, default=800, metavar="N", help="default: 800")
    parser.add_argument(
        "--methods", type=read_names, default=(), metavar="NAME,NAME", help="further methods of student 1"
    )
    parser.add_argument(
        "--jobs", type=read_count, default=2, metavar="N", help="trainings at the same time (default: 2)"
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY.PATH=VALUE", help="of every training"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: benchmarks/CAMVID.md; with other settings or iterations, in the work directory)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
