"""Errors: the most similar known name, and the exit codes."""

from __future__ import annotations

import pytest

from rmrkd_cli.errors import Interrupted, RmrkdError, RunError, did_you_mean


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("cityscape", ["cityscapes", "camvid"], "did you mean `cityscapes`?"),
        ("CamVid", ["cityscapes", "camvid"], "did you mean `camvid`?"),
        ("labels", ["Labels"], "did you mean `Labels`?"),
        ("tua", ("tau", "type", "stage"), "did you mean `tau`?"),
        ("psp101-psp18-cty", ["psp101-dl18-city", "psp101-psp18-city"], "did you mean `psp101-psp18-city`?"),
        ("lraspp", ["fcn_resnet50", "lraspp_mobilenet_v3_large"], "did you mean `lraspp_mobilenet_v3_large`?"),
        ("zzz", ["beta", "alpha"], "known: alpha, beta"),
        ("", ["beta", "alpha", "beta"], "known: alpha, beta"),
        ("anything", [], ""),
        ("zz", [f"{n:02}-name" for n in range(20)], "known: " + ", ".join(f"{n:02}-name" for n in range(20))),
        ("x", (letter for letter in "ba"), "known: a, b"),
    ],
)
def test_did_you_mean(name: str, options: list[str], answer: str) -> None:
    assert did_you_mean(name, options) == answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RmrkdError("wrong", "do that"), 2),
        (RunError("wrong", "do that"), 1),
        (Interrupted(2, "wrong", "do that"), 130),
        (Interrupted(15, "wrong", "do that"), 143),
    ],
)
def test_every_error_has_message_hint_and_exit_code(error: RmrkdError, code: int) -> None:
    assert (error.message, error.hint, str(error), error.exit_code) == ("wrong", "do that", "wrong", code)


def test_the_hint_is_optional() -> None:
    assert RmrkdError("wrong").hint == ""


def test_of_many_names_the_nearest_five_are_told() -> None:
    text = did_you_mean("q17", [f"name-{number}" for number in range(500)])
    assert text.startswith("the nearest of 500: ")
    assert "name-17" in text
    assert text.count(",") == 4
