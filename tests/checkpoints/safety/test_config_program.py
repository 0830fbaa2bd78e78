"""Config files are read as data: what has a value, what is refused with its line, and hostile texts."""

from __future__ import annotations

from typing import Any

import pytest

from rmrkd_cli.checkpoints.safety.config_program import MAX_VALUES, ConfigProgram, NotDataError, UnreadableError


def value_of(text: str, base: dict[str, Any] | None = None) -> Any:
    program = ConfigProgram(text)
    values = program.run(base or {})
    program.require("x")
    return values["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x = dict(type='A', n=-1, f=1e-3, t=(1, 2), flag=True, none=None)",
         {"type": "A", "n": -1, "f": 1e-3, "t": (1, 2), "flag": True, "none": None}),
        ("norm = dict(type='SyncBN')\nx = dict(a=norm, b=[norm])",
         {"a": {"type": "SyncBN"}, "b": [{"type": "SyncBN"}]}),
        ("a = b = 3\nx = [a, b] * 2 + [1]", [3, 3, 3, 3, 1]),
        ("x = sum([18, 36, 72])", 126),
        ("x = range(0, 3)", [0, 1, 2]),
        ("x = 0.01 / 8 * 2 - 7 // 2", 0.01 / 8 * 2 - 3),
        ("root = 'data/'\nx = root + 'train'", "data/train"),
        ("a = dict(k=[1, dict(z=5)])\nx = a['k'][1]['z']", 5),
        ("a = dict(p=1)\nx = dict(a, q=2, **a)", {"p": 1, "q": 2}),
        ("a = dict(p=1)\nx = {**a, 'r': 3}", {"p": 1, "r": 3}),
        ("'''A docstring.'''\nx = [1]\nx += [2]\npass", [1, 2]),
        ("x = _base_.model.head", 7),
        ("x = {{_base_.model}}", {"head": 7}),
    ],
)  # fmt: skip
def test_values_are_those_of_python(text: str, value: object) -> None:
    assert value_of(text, {"model": {"head": 7}}) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import os\nx = 1", "line 1: `import os`"),
        ("from a import b", "line 1: `from a import b`"),
        ("x = 1\nprint(x)", "line 2: `print(x)`"),
        ("x = dict()\nx.update(a=1)", "line 2: `x.update(a=1)`"),
        ("x = {}\nx['a'] = 1", "line 2: `x['a'] = 1`"),
        ("for i in (1, 2):\n    x = i", "line 1: `for i in (1, 2):"),
        ("if True:\n    x = 1", "line 1: `if True: x = 1`"),
        ("def f():\n    pass", "line 1: `def f(): pass`"),
        ("with read_base():\n    from .a import *", "line 1: `with read_base(): from .a import *`"),
        ("x = 1\n\nx = open('a').read()", "line 3: `open('a').read()`"),
        ("x = [i for i in (1, 2)]", "line 1: `[i for i in (1, 2)]`"),
        ("x = __import__('os')", "line 1: `__import__('os')`"),
        ("x = y", "line 1: `y` is not a variable of this file"),
        ("x = _base_.other", "line 1: `_base_.other`"),
        ("a = dict()\nx = a.__class__", "line 2: `a.__class__`"),
        ("x = 2 ** 999999999", "line 1: `2 ** 999999999`"),
        ("x = 1 / 0", "line 1: `1 / 0` has no value (ZeroDivisionError: division by zero)"),
        ("x = lambda: 1", "line 1: `lambda: 1`"),
        ("x = f'{1}'", "line 1: `f'{1}'`"),
        ("y = open('a')\nx = [y]", "line 1: `open('a')`"),
    ],
)
def test_what_needs_python_is_refused_with_its_line(text: str, line: str) -> None:
    with pytest.raises(NotDataError) as caught:
        value_of(text)
    assert str(caught.value).startswith(line)


def test_a_variable_that_needs_python_does_not_disturb_the_others() -> None:
    program = ConfigProgram("path = os.environ['DATA']\ndata = dict(root=path)\nmodel = dict(type='A')")
    assert program.run({}) == {"model": {"type": "A"}}
    with pytest.raises(NotDataError, match="line 1: `os` is not a variable"):
        program.require("data")


def test_bases_are_texts() -> None:
    assert ConfigProgram("_base_ = './a.py'").bases() == ["./a.py"]
    assert ConfigProgram("_base_ = ['a.py', 'b.py']\nx = 1").bases() == ["a.py", "b.py"]
    assert ConfigProgram("x = 1").bases() == []
    with pytest.raises(NotDataError, match="is no list of files"):
        ConfigProgram("_base_ = 3").bases()


DOUBLING = "\n".join(["a0 = [1] * 9", *(f"a{n} = [a{n - 1}, a{n - 1}]" for n in range(1, 40)), "x = a39"])


@pytest.mark.parametrize(
    "text",
    [
        DOUBLING,
        f"x = [0] * {MAX_VALUES + 1}",
        "x = range(10000000000)",
        "x = 'a' * 10000000000",
        "x = " + "[" * 50 + "]" * 50,
        "x = " + "-" * 5000 + "1",
        "x = " + "not " * 5000 + "1",
        "x = " + "+".join(["1"] * 5000),
        "x = a" + "()" * 5000,
        "x = a" + ".b" * 5000,
        "x = " + "lambda:" * 5000 + "1",
        "x = f'" + "{" * 2000 + "'",
        "x = [",
        "x = 1\n  y = 2",
        "x = '" + "a" * 300_000 + "'",
        "\n".join(f"{' ' * n}if a:" for n in range(60)) + "\n" + " " * 60 + "pass",
        "x0 = []\n" + "\n".join(f"x{n} = [x{n - 1}]" for n in range(1, 5000)) + "\nx = x4999",
    ],
    ids=range(17),
)
def test_hostile_texts_end_at_once(text: str) -> None:
    with pytest.raises((UnreadableError, NotDataError)):
        value_of(text)
