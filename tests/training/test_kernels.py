from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from rmrkd_cli.evaluation.precision import evaluation_settings, float32_precision, select_precision
from rmrkd_cli.training.kernels import kernel_settings, search_kernels


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("tf32", [True, False])
def test_convolutions_and_products_have_one_precision(tf32: bool) -> None:
    select_precision(tf32)
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == tf32
    assert kernel_settings("cuda") == {"tf32": tf32, "cudnn_benchmark": True, "deterministic": False}


def test_the_precision_is_restored_also_after_an_error() -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
    with suppress(ValueError), float32_precision(True):
        assert torch.backends.cuda.matmul.allow_tf32
        raise ValueError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)


def test_a_result_holds_the_precision_of_its_evaluation() -> None:
    assert evaluation_settings(torch.device("cpu"))["tf32"] is None


def test_cudnn_searches_in_training_steps_of_a_gpu_only() -> None:
    for device, deterministic, expected in (("cuda", False, True), ("cuda", True, False), ("cpu", False, False)):
        torch.use_deterministic_algorithms(deterministic)
        with search_kernels(device):
            assert torch.backends.cudnn.benchmark == expected
        assert not torch.backends.cudnn.benchmark


def test_a_cpu_has_neither() -> None:
    assert kernel_settings("cpu") == {"tf32": None, "cudnn_benchmark": None, "deterministic": False}
