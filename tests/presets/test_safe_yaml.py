"""The reader of strangers' YAML: what it builds, and that every bomb ends in a message at once."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.safe_yaml import MAX_BYTES, PlainDumper, parse_yaml, read_yaml

NINE = range(9)


def chained(first: str, link: str, length: int) -> str:
    """Each of `length` anchors refers to the one before in the way of `link`."""
    return f"a0: &a0 {first}\n" + "".join(f"a{n + 1}: &a{n + 1} {link.replace('@', f'*a{n}')}\n" for n in range(length))


BOMBS = {
    "laughs in lists": (chained("[x, x, x]", f"[{', '.join('@' for _ in NINE)}]", 25), "the anchor or alias `a0`"),
    "laughs in maps": (chained("{k: x}", f"{{{', '.join(f'k{n}: @' for n in NINE)}}}", 25), "anchor or alias `a0`"),
    "itself in a list": ("a: &a [1, *a]", "the anchor or alias `a`"),
    "itself merged": ("a: &a {<<: *a}", "the anchor or alias `a`"),
    "brackets": ("[" * 100_000, "nested deeper than 32"), "braces": ("{a: " * 30_000, "nested deeper than 32"),
    "dashes": ("- " * 60_000, "nested deeper than 32"),
    "indents": ("".join(" " * n + "a:\n" for n in range(300)), "nested deeper"),
    "many values": ("[" + "a," * 60_000 + "]", "more than 20000 values"),
    "long": ("x" * (MAX_BYTES + 1), "longer than"),
    "a long text": ("a: " + "x" * 20_000, "a text of 20000 characters"),
}  # fmt: skip
REFUSED = {
    "a: 1\nb: {x: 1,\n  x: 2}\na: 3": ("2 problem(s)", "line 3: the key `x` is given twice, first in line 2", "line 4"),
    "a: !!python/object/apply:os.system [touch exploded]": ("line 1", "!!python/object/apply:os.system"),
    "a: !mine 1": ("line 1: the tag `!mine`",), "a: !!binary aGk=": ("!!binary",), "!!set {a, b}": ("!!set",),
    "%TAG ! tag:x,2000:\n---\na: !b 1": ("tag:x,2000:b",), "a: !!str 1": ("!!str",),
    "a: 1\n---\nb: 2": ("line 2", "another document",), "a: 1\nb: \0": ("line 2", "U+0000"),
    "\n\x9b2J": ("line 2", "U+009B"),
    "a:\n\tb: 1": ("line 2", r"'\t'"), "1: 2": ("the key `1` is not",), "a: {yes: 1}": ("the key `yes`", "quotes"),
    "? [a]\n: 1": ("the key a sequence",), "~: 1": ("the key `~`",), "a: 010": ("`010`", "plain decimal"),
    "a: 0x10": ("`0x10`",), "a: 1:30": ("`1:30`",), "a: 1_000": ("`1_000`",), "a: 0b11": ("`0b11`",),
    "a: " + "9" * 5000: ("line 1", "plain decimal"), "a: {x: 1, <<: {y: 2}}": ("line 1: the merge key `<<`",),
    "a: 2020-01-01": ("a date", "quotes"), "a: =": ("quotes",),
    "a: *b": ("line 1: the anchor or alias `b`",), "a: [1": ("line 1",), 'a: "\\q"': ("line 1",),
    "a: &b 1": ("line 1: the anchor or alias `b`",), 'a: "\\UFFFFFFFF"': ("is not YAML",),
}  # fmt: skip
READ = {
    "a: [0, -1, 0.5, 1.5e-3, 1e3, '010', \"1:30\", no, ~]": {
        "a": [0, -1, 0.5, 0.0015, "1e3", "010", "1:30", False, None]
    },
    "a: 1\r\nb: x y\r\n": {"a": 1, "b": "x y"}, "": None, "# only this": None, '"yes": 1': {"yes": 1},
}  # fmt: skip


def refusal(text: str) -> str:
    with pytest.raises(RmrkdError) as caught:
        parse_yaml(text, "preset `x.yaml`")
    assert "preset `x.yaml`" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_a_message_at_once(name: str) -> None:
    text, culprit = BOMBS[name]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert culprit in refusal(text)
    assert time.process_time() - started < 3  # 0.3 s on an idle core
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:30]))
def test_what_surprises_is_refused_with_its_line(text: str) -> None:
    message = refusal(text)
    assert [part for part in REFUSED[text] if part not in message] == []


@pytest.mark.parametrize("text", READ, ids=lambda text: ascii(text[:30]))
def test_honest_text_is_read(text: str) -> None:
    assert parse_yaml(text, "x") == READ[text]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("﻿a: ä\r\n".encode())
    assert read_yaml(tmp_path / "x.yaml") == {"a": "ä"}


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"a: 1\n" * 2_000_000)
    (tmp_path / "utf16").write_bytes(b"\n" + "a: 1".encode("utf-16"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, culprit in {
        "fifo": "not a regular file", "/dev/zero": "not a regular file", ".": "is a folder", "big": "larger than",
        "utf16": "line 2: byte 0xff is not UTF-8", "none": "does not exist", "loop": "cannot be read",
        "x" * 300: "cannot be read", "a\0b": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(RmrkdError, match=culprit):
            read_yaml(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
@example(["1e5", "3e-06", ".5E+3", "1.e2", "01e5", "e5"])
def test_what_was_written_is_read_back(value: object) -> None:
    assert parse_yaml(yaml.dump(value, Dumper=PlainDumper), "x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("3E+06", 3e6), ("-2e-3", -2e-3), (".5e1", 5.0), ("1.5e3", 1500.0), ("+1.e2", 100.0)],
)
def test_numbers_need_a_point_or_a_sign_in_the_exponent(text: str, value: float) -> None:
    read = parse_yaml(f"[{text}]", "x")
    assert read == [value]
    assert isinstance(read[0], float)


@pytest.mark.parametrize("text", ["9e428899", "1e3", "1e", "e-5", "1e-5a", "1e-5.5", "1-e-5"])
def test_hashes_and_names_with_an_e_are_text(text: str) -> None:
    assert parse_yaml(text, "x") == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("a1:-[]{},&*!|>'\"%#?~<=.\n\t \\x0\x00\u2028\ud800"), max_size=60))
@example("? - a\n: 1")
@example("&a : *a")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml(text, "x")
    except RmrkdError:
        return
