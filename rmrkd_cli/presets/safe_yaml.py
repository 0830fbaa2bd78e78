"""YAML from strangers: plain values alone, bounded in size, depth and number before anything is built of it."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import escape_control

MAX_BYTES = 128 << 10  # read in a quarter of a second
MAX_DEPTH = 32
MAX_VALUES = 20_000  # after aliases are put in their places
MAX_SCALAR = 10_000  # characters
_MAX_DIGITS = 30
_SHOWN = 10  # problems
_TAG = "tag:yaml.org,2002:"
_READ = {"null", "bool", "int", "float", "str", "seq", "map", "merge"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|0b.*|0x.*|.*[:_].*)$", re.IGNORECASE)
# What PyYAML raises on text that is not YAML, bad escapes included.
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError)


def read_yaml(path: Path, what: str = "preset") -> Any:
    """The one document of a file.

    Raises:
        RmrkdError: When it is no regular file, too large, not UTF-8, or anything that `parse_yaml` refuses.
    """
    named = f"{what} `{path}`"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise RmrkdError(f"{named} is {kind}", "name a YAML file, or one of `rmrkd presets`")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise RmrkdError(f"{what} file `{path}` does not exist", "rmrkd presets") from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise RmrkdError(f"{named} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise RmrkdError(f"{named} is larger than {MAX_BYTES} bytes, which no {what} needs")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RmrkdError(
            f"{named} is not YAML: line {line}: byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8"
        ) from error
    return parse_yaml(text, named)


def parse_yaml(text: str, named: str) -> Any:
    """Plain values (None, bool, int, float, str, list, dict with text keys) of one YAML document.

    Args:
        named: Where the text is from, for messages.

    Raises:
        RmrkdError: With the line of each problem: not YAML, tags, several documents, repeated keys, keys that are no
            text, numbers that YAML reads in an unexpected way, an alias inside itself; or too large, deep or long.
    """
    if len(text) > MAX_BYTES:
        raise RmrkdError(f"{named} is longer than {MAX_BYTES} characters")
    control = _CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise RmrkdError(f"{named} is not YAML: line {line}: the control character U+{ord(control[0]):04X}")
    try:
        loader = _Loader(_events(text, named))
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, named)
        return loader.construct_document(node)
    except _NOT_YAML as error:
        raise RmrkdError(f"{named} is not YAML: {_reason(error)}") from error


class _Loader(Composer, SafeConstructor, Resolver):
    """PyYAML's safe loader over events that were counted before."""

    def __init__(self, events: list[yaml.Event]) -> None:
        self._left = events[::-1]
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        return bool(self._left) and (not choices or isinstance(self._left[-1], choices))

    def peek_event(self) -> yaml.Event:
        return self._left[-1]

    def get_event(self) -> yaml.Event:
        return self._left.pop()


def _events(text: str, named: str) -> list[yaml.Event]:
    """What the parser sees, given up as soon as a bound is passed."""
    events: list[yaml.Event] = []
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = _line(event)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if documents > 1:
            raise RmrkdError(f"{named} is not YAML of one document: {line}: a second one begins", "leave out `---`")
        if depth > MAX_DEPTH:
            raise RmrkdError(f"{named}: {line}: nested deeper than {MAX_DEPTH} levels")
        if len(events) > MAX_VALUES:
            raise RmrkdError(f"{named}: {line}: more than {MAX_VALUES} values")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise RmrkdError(f"{named}: {line}: a text of {len(event.value)} characters, at most {MAX_SCALAR} are read")
        tag = getattr(event, "tag", None)
        if tag is not None:
            tag = escape_control(tag.replace(_TAG, "!!"))
            raise RmrkdError(f"{named}: {line}: the tag `{tag}`, only plain values are read", "leave it out")
        events.append(event)
    return events


@dataclass(frozen=True)
class _Extent:
    """Of a node with every alias below it put in place."""

    values: int
    depth: int


def _check(root: yaml.Node, named: str) -> None:
    """Refuses what would blow up or surprise when values are built of the nodes."""
    problems: list[str] = []
    _measure(root, named, {}, problems.append)
    problems.sort(key=lambda problem: int(problem.removeprefix("line ").partition(":")[0]))
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        if len(problems) == 1:
            raise RmrkdError(f"{named}: {problems[0]}")
        raise RmrkdError(f"{len(problems)} problem(s) in {named}:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _measure(node: yaml.Node, named: str, known: dict[int, _Extent | None], tell: Callable[[str], None]) -> _Extent:
    """Walks the graph once; `known` holds None for nodes that are being walked.

    Recursion is as deep as the text is nested, which is bounded: an alias leads to a node that is known.
    """
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise RmrkdError(f"{named}: {_line(node)}: an alias inside the value that it names")
        return extent
    known[id(node)] = None
    for problem in _problems(node):
        tell(problem)
    below = [_measure(inner, named, known, tell) for inner in _inner(node)]
    extent = _Extent(1 + sum(e.values for e in below), 1 + max((e.depth for e in below), default=0))
    if extent.values > MAX_VALUES:
        raise RmrkdError(f"{named}: {_line(node)}: more than {MAX_VALUES} values with all aliases put in place")
    if extent.depth > MAX_DEPTH + 1:
        raise RmrkdError(f"{named}: {_line(node)}: nested deeper than {MAX_DEPTH} levels with all aliases put in place")
    known[id(node)] = extent
    return extent


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _problems(node: yaml.Node) -> Iterator[str]:
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.ScalarNode):
        shown = escape_control(node.value[:40])
        if kind not in _READ:
            word = {"timestamp": "a date", "value": "a default"}.get(kind, f"`{kind}`")
            yield f"{_line(node)}: YAML reads `{shown}` as {word}, put it in quotes where it is meant as text"
        elif kind in ("int", "float") and (_ODD_NUMBER.match(node.value) or len(node.value) > _MAX_DIGITS):
            yield f"{_line(node)}: write the number `{shown}` in plain decimal digits, or in quotes where it is text"
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, str] = {}
    for key, value in node.value:
        if key.tag == _TAG + "merge":
            fine = all(isinstance(n, yaml.MappingNode) for n in (value.value if value.tag == _TAG + "seq" else [value]))
            if not fine:
                yield f"{_line(key)}: `<<` takes a mapping, or a list of them"
        elif key.tag != _TAG + "str":
            shown = f"`{escape_control(key.value[:40])}`" if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            yield f"{_line(key)}: the key {shown} is no name, put it in quotes where it is meant as one"
            continue
        if key.value in lines:
            shown = escape_control(key.value[:40])
            yield f"{_line(key)}: the key `{shown}` is given twice, first in {lines[key.value]}"
        lines.setdefault(key.value, _line(key))


def _line(node: yaml.Node | yaml.Event) -> str:
    return f"line {node.start_mark.line + 1}" if node.start_mark is not None else "line 1"


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.problem, error.context) if part)
        return escape_control(f"line {mark.line + 1}: {said}" if mark else said)
    return escape_control(" ".join(str(error).split())[:200])
