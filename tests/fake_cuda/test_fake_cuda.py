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

ALL = "+".join(method_names())
# The outcome of the step before, which a GPU has usually finished.
LATE_WAITS = {"rmrkd_cli/training/gradient_update.py read": 1}

# Backward passes that add in any order, or slowly in a fixed order.
NONDETERMINISTIC = {
    "_unsafe_index_put", "upsample_bilinear2d_backward", "_adaptive_avg_pool2d_backward", "grid_sampler_2d_backward",
}  # fmt: skip

PRESETS = [Job(name) for name in preset_names()]
VARIANTS = [
    Job(method=ALL),  # a wait is shown with the line of its loss
    Job(method=ALL, amp="bf16"),
    Job(method=ALL, amp="fp16"),
    Job(method=ALL, deterministic=True),
    Job("psp101-psp18-city", amp="bf16"),
    Job("dlp101-dlpmbv2-city", amp="fp16", deterministic=True),
    Job(role="teacher"),
    Job(role="baseline", amp="fp16"),
    Job(method=ALL, overrides=("schedule.skip_nonfinite=true", "schedule.clip_grad=10")),
    Job(ranks=8),
    Job(method=ALL, amp="fp16", ranks=8, deterministic=True),
]
# Everything else that runs on a GPU: file and function → waits
PROBE = {"rmrkd_cli/networks/inference.py _have_equal_logits": 1}  # once for a network
IMAGE = {"rmrkd_cli/evaluation/confusion_matrix.py _check": 1, "rmrkd_cli/evaluation/confusion_matrix.py update": 1}
SPLIT = {"rmrkd_cli/evaluation/confusion_matrix.py result": 1, "rmrkd_cli/evaluation/image_counts.py <listcomp>": 1}
PATHS = {
    Job(what="resume"): {},
    Job(what="resume", amp="fp16", method="skd-gan"): {},
    Job(what="weights"): {"rmrkd_cli/training/loss_weights.py compute_auto_weights": 1},
    Job(what="weights", amp="bf16"): {"rmrkd_cli/training/loss_weights.py compute_auto_weights": 1},
    Job(what="weights", amp="fp16"): {"rmrkd_cli/training/loss_weights.py compute_auto_weights": 1},
    Job(what="evaluate"): PROBE | IMAGE | SPLIT,
    Job(what="slide"): PROBE | IMAGE | SPLIT,
    Job(what="predict"): {"rmrkd_cli/prediction/segmenter.py segment": 4},
    Job(what="latency"): None,  # waits for each run
    Job(what="doctor"): None,
}
PLANTED = Job(plant=True)
JOBS = [*PRESETS, *VARIANTS, *PATHS, PLANTED]


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
@pytest.mark.parametrize("job", [*PRESETS, *VARIANTS], ids=lambda job: job.name)
def test_a_step_stays_on_the_gpu_and_never_waits_for_it(job: Job, results: dict[str, Any]) -> None:
    result = results[job.name]
    assert result["error"] is None, result["error"]
    assert result["waits"] == {}, describe(result)
    assert by_function(result["late_waits"]) == LATE_WAITS, describe(result)
    assert result["blocking_copies"] == {}, describe(result)
    assert sum(result["kernels"].values()) > 100
    if job.deterministic:
        assert not NONDETERMINISTIC & set(result["kernels"]), describe(result)


@pytest.mark.slow
@pytest.mark.parametrize("job", PATHS, ids=lambda job: job.name)
def test_nothing_else_mixes_devices_or_waits_more_often(job: Job, results: dict[str, Any]) -> None:
    result = results[job.name]
    assert result["error"] is None, result["error"]
    if PATHS[job] is not None:
        assert by_function(result["waits"]) == PATHS[job], describe(result)


@pytest.mark.slow
def test_a_planted_cpu_tensor_is_found(results: dict[str, Any]) -> None:
    error = results[PLANTED.name]["error"]
    assert error is not None
    assert "FakeTensorDeviceMismatchError" in error
    assert "distiller.py" in error


def by_function(places: dict[str, int]) -> Counter[str]:
    """Return the counts of `file:line function …` by `file function`."""
    counts: Counter[str] = Counter()
    for place, count in places.items():
        file, function = place.split(" ")[:2]
        counts[f"{file.partition(':')[0]} {function}"] += count
    return counts
