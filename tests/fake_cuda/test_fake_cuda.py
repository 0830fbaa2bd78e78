"""Steps on a pretended GPU: no CPU tensor meets a CUDA tensor, and where the host waits for the GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from rmrkd_cli.presets.loader import preset_names
from rmrkd_cli.presets.methods import method_names
from tests.fake_cuda.__main__ import ROOT, describe
from tests.fake_cuda.libraries import missing_requirement
from tests.fake_cuda.step import Job

Places = dict[str, int]

# file and function → waits or copies in one step
EVERY_STEP: Places = {"rmrkd_cli/training/nonfinite.py find_nonfinite": 1}
FP16: Places = {"rmrkd_cli/training/optimizer_step.py update_weights": 3}
FP16_DISCRIMINATOR: Places = {"rmrkd_cli/distillation/loss_optimizers.py step": 1}
CLASSES: Places = {"rmrkd_cli/losses/_functional.py drop_absent_classes": 1}
MEMORY_BANK: Places = {
    "rmrkd_cli/losses/_memory_bank.py _generator": 2,
    "rmrkd_cli/losses/_memory_bank.py _choose_pixels": 1,
    "rmrkd_cli/losses/_memory_bank.py push": 5,
    "rmrkd_cli/losses/cirkd_memory.py compute": 1,
}
MEMORY_BANK_COPIES: Places = {
    "rmrkd_cli/losses/_memory_bank.py push": 2,
    "rmrkd_cli/losses/_memory_bank.py <genexpr>": 4,
    "rmrkd_cli/losses/_memory_bank.py _choose_pixels": 3,
    "rmrkd_cli/losses/_memory_bank.py sample": 2,
}
SYNC_BN_LAYERS = 28  # of the student of `demo`
SYNC_BN: Places = {"torch/nn/modules/_functions.py forward": 3 * SYNC_BN_LAYERS}

# Only the first is needed: what depends on values is read on the host.
COUNT_CLASSES = ("cross-similarity", "ifvd", "rmrkd")
HAVE_MEMORY_BANK = ("cirkd", "cirkd-memory")
ALL = "+".join(method_names())
WITHOUT_BANK = "+".join(name for name in method_names() if name not in HAVE_MEMORY_BANK)  # a fake group sends no counts

PRESETS = [Job(name) for name in preset_names()]
METHODS = [Job(method=name) for name in method_names()]
VARIANTS = [
    Job(method=ALL, amp="bf16"),
    Job(method=ALL, amp="fp16"),
    Job(method=ALL, deterministic=True),
    Job("psp101-psp18-city", amp="bf16"),
    Job("dlp101-dlpmbv2-city", amp="fp16", deterministic=True),
    Job(role="teacher"),
    Job(role="baseline", amp="fp16"),
    Job(overrides=["schedule.skip_nonfinite=true", "schedule.clip_grad=10"]),
    Job(ranks=8),
    Job(method=WITHOUT_BANK, amp="fp16", ranks=8, deterministic=True),
]
PLANTED = Job(plant=True)
JOBS = [*PRESETS, *METHODS, *VARIANTS, PLANTED]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The results of all steps, run in one process."""
    missing = missing_requirement()
    if missing is not None:
        pytest.skip(f"no GPU can be pretended: {missing}")
    command = [sys.executable, "-m", "tests.fake_cuda", "--jobs", "--json"]
    given = json.dumps([asdict(job) for job in JOBS])
    process = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr[-3000:]  # of the planted tensor
    read = [json.loads(line) for line in process.stdout.splitlines()]
    return {result["job"]: result for result in read}


@pytest.mark.slow
@pytest.mark.parametrize("job", [*PRESETS, *METHODS, *VARIANTS], ids=lambda job: job.name)
def test_a_step_stays_on_the_gpu_and_waits_where_expected(job: Job, results: dict[str, Any]) -> None:
    result = results[job.name]
    assert result["error"] is None, result["error"]
    waits, copies = expected(job)
    assert by_function(result["waits"]) == waits, describe(result)
    assert by_function(result["blocking_copies"]) == copies, describe(result)
    assert sum(result["kernels"].values()) > 100


@pytest.mark.slow
def test_a_planted_cpu_tensor_is_found(results: dict[str, Any]) -> None:
    error = results[PLANTED.name]["error"]
    assert error is not None
    assert "FakeTensorDeviceMismatchError" in error
    assert "distiller.py" in error


def expected(job: Job) -> tuple[Counter[str], Counter[str]]:
    """Return the waits and the blocking copies of a job by file and function."""
    methods = job.method.split("+") if job.method else ["rmrkd"]
    methods = methods if job.role == "distill" else []
    waits, copies = Counter(EVERY_STEP), Counter[str]()
    for method in methods:
        waits.update(CLASSES if method in COUNT_CLASSES else {})
        waits.update(MEMORY_BANK if method in HAVE_MEMORY_BANK else {})
        copies.update(MEMORY_BANK_COPIES if method in HAVE_MEMORY_BANK else {})
    if job.amp == "fp16":
        waits.update(FP16)
        waits.update(FP16_DISCRIMINATOR if "skd-gan" in methods else {})
    if job.ranks > 1:
        waits.update(SYNC_BN)
    return waits, copies


def by_function(places: Places) -> Counter[str]:
    """Return the counts of `file:line function …` by `file function`."""
    counts: Counter[str] = Counter()
    for place, count in places.items():
        file, function = place.split(" ")[:2]
        counts[f"{file.partition(':')[0]} {function}"] += count
    return counts
