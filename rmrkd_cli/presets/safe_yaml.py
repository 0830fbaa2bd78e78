"""A YAML reader for files from strangers: plain values only, bounded in size and depth."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import escape_control

MAX_BYTES = 128 << 10  # read in a quarter of a second
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_SCALAR = 10_000  # characters
_MAX_DIGITS = 30
_MAX_SHOWN = 10  # problems
_TAG = "tag:yaml.org,2002:"
_PLAIN_KINDS = {"null", "bool", "int", "float", "str"}
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|0b.*|0x.*|.*[:_].*)$", re.IGNORECASE)
# Numbers of YAML 1.2 that PyYAML, which reads YAML 1.1, takes as text: 1e-5 has no point, and 1.5e3 no sign. What has
# neither stays text: 9e428899 is the hash in the name of a published checkpoint.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+[eE][-+][0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+)$")
# What PyYAML raises for text that is not YAML; invalid escapes give other errors than its own.
_PYYAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError)


def read_yaml(path: Path, what: str = "preset") -> Any:
    """Return the one document of a file.

    Raises:
        RmrkdError: When the file is missing, not a regular file, too large, not UTF-8, or refused by `parse_yaml`.
    """
    source = f"{what} `{path}`"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise RmrkdError(f"{source} is {kind}", "give a YAML file, or one of `rmrkd presets`")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise RmrkdError(f"{what} file `{path}` does not exist", "rmrkd presets") from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise RmrkdError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise RmrkdError(f"{source} is larger than {MAX_BYTES} bytes, the most a {what} may have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RmrkdError(
            f"{source} is not YAML: line {line}: byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8"
        ) from error
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain values (None, bool, int, float, str, list, dict with text keys) of one YAML document.

    Args:
        source: Where the text comes from, for messages.

    Raises:
        RmrkdError: With the line of each problem: not YAML; tags, anchors, aliases or merge keys; several documents;
            repeated keys; keys that are not text; numbers that YAML reads in an unexpected way; too large or deep.
    """
    if len(text) > MAX_BYTES:
        raise RmrkdError(f"{source} is longer than {MAX_BYTES} characters")
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if loader.problems:
            raise _error(source, loader.problems)
        return None if node is None else loader.construct_document(node)
    except _Refused as error:
        raise RmrkdError(f"{source}: {error}") from error
    except _PYYAML_ERRORS as error:
        raise RmrkdError(f"{source} is not YAML: {_reason(error, text)}") from error


class _Refused(Exception):
    """A document is not read further."""


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses whatever a preset does not need.

    Without aliases the values are never larger than the text, so bounds on the text bound the memory.

    Attributes:
        problems: What is wrong, a line of text each; reading continues after them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._count += 1
        self._check_event(event)
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        if self._depth > MAX_DEPTH:
            raise _Refused(f"{_line(event)}: nested deeper than {MAX_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= isinstance(event, yaml.CollectionStartEvent)
        if node is not None:
            self.problems += _problems(node)
        return node

    def _check_event(self, event: yaml.Event) -> None:
        line, anchor, tag = _line(event), getattr(event, "anchor", None), getattr(event, "tag", None)
        if self._count > MAX_VALUES:
            raise _Refused(f"{line}: more than {MAX_VALUES} values")
        if anchor is not None:
            raise _Refused(f"{line}: the anchor or alias `{escape_control(anchor)}` is not allowed, repeat the value")
        if tag is not None:
            raise _Refused(f"{line}: the tag `{escape_control(tag.replace(_TAG, '!!'))}` is not allowed, remove it")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise _Refused(f"{line}: a text of {len(event.value)} characters, at most {MAX_SCALAR} are allowed")


class PlainDumper(yaml.SafeDumper):
    """Writes what `parse_yaml` reads back: no anchors, and quotes around text that it takes as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_PlainLoader, PlainDumper):
    _kind.add_implicit_resolver(_TAG + "float", _EXPONENT, list("-+.0123456789"))


def _problems(node: yaml.Node) -> Iterator[str]:
    """Yield what is wrong with a node: surprising scalars, and keys of a mapping."""
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.ScalarNode):
        shown = escape_control(node.value[:40])
        if kind == "merge":
            yield f"{_line(node)}: the merge key `<<` is not allowed, repeat the keys"
        elif kind not in _PLAIN_KINDS:
            word = {"timestamp": "a date", "value": "a default"}.get(kind, f"`{kind}`")
            yield f"{_line(node)}: YAML reads `{shown}` as {word}, put it in quotes if it is text"
        elif kind in ("int", "float") and (_ODD_NUMBER.match(node.value) or len(node.value) > _MAX_DIGITS):
            yield f"{_line(node)}: write the number `{shown}` in plain decimal digits, or in quotes if it is text"
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[str, str] = {}
        for key, _ in node.value:
            shown = f"`{escape_control(key.value[:40])}`" if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                yield f"{_line(key)}: the key {shown} is not a name, put it in quotes if it is text"
            elif key.value in first_lines:
                yield f"{_line(key)}: the key {shown} is given twice, first in {first_lines[key.value]}"
            else:
                first_lines[key.value] = _line(key)


def _error(source: str, problems: list[str]) -> RmrkdError:
    problems = sorted(problems, key=lambda problem: int(problem.removeprefix("line ").partition(":")[0]))
    if len(problems) == 1:
        return RmrkdError(f"{source}: {problems[0]}")
    more = [f"and {len(problems) - _MAX_SHOWN} more"] if len(problems) > _MAX_SHOWN else []
    return RmrkdError("\n  ".join([f"{len(problems)} problem(s) in {source}:", *problems[:_MAX_SHOWN], *more]))


def _line(node: yaml.Node | yaml.Event) -> str:
    return f"line {node.start_mark.line + 1}" if node.start_mark is not None else "line 1"


def _reason(error: Exception, text: str) -> str:
    """Return PyYAML's message with the line first."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the control character U+{ord(text[error.position]):04X}"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.problem, error.context) if part)
        return escape_control(f"line {mark.line + 1}: {message}" if mark else message)
    return escape_control(" ".join(str(error).split())[:200])
