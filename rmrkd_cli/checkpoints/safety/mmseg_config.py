"""The configuration that mmcv writes into a checkpoint: Python text, of which only values are read."""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from typing import Any

from rmrkd_cli.errors import RmrkdError

_MOST_CHARACTERS = 1 << 18
_MOST_DEPTH = 40
_MOST_RANGE = 256  # of which a text can hold thousands
_CONSTANTS = ("True", "False", "None")
_OPENING, _CLOSING, _OTHER = "([{", ")]}", ("=", ",", ":", "-")
_KINDS = (
    tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP, tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT,
    tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
)  # fmt: skip


def parse_config_text(text: str) -> dict[str, Any]:
    """The top-level names of a config text, read from its syntax tree; nothing is run.

    Read are literals, `dict(...)` and a small `range(...)`.

    Raises:
        RmrkdError: On anything else, naming the line.
    """
    if len(text) > _MOST_CHARACTERS:
        raise RmrkdError(f"the checkpoint's config text is longer than {_MOST_CHARACTERS:,} characters")
    try:
        _check_tokens(text)
        values: dict[str, Any] = {}
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not all(isinstance(t, ast.Name) for t in statement.targets):
                raise _refusal(statement.lineno, ast.unparse(statement))
            value = _literal(statement.value)
            values.update({target.id: value for target in statement.targets if isinstance(target, ast.Name)})
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, ValueError, TypeError) as error:
        raise RmrkdError(f"the checkpoint's config text cannot be read: {error}") from error
    return values


def _check_tokens(text: str) -> None:
    """Leaves only what cannot nest without brackets, and those not deep: Python's own parser has crashed on less."""
    depth, before = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        word = token.string
        if token.type == tokenize.OP:
            chained = word in _OPENING and (before in _CLOSING if before else False)
            twice = word == "-" and before == "-"
            if chained or twice or word not in (*_OPENING, *_CLOSING, *_OTHER):
                raise _refusal(token.start[0], token.line)
            depth += (word in _OPENING) - (word in _CLOSING)
            if depth > _MOST_DEPTH:
                raise RmrkdError(f"the checkpoint's config text is nested more than {_MOST_DEPTH} deep")
        elif token.type not in _KINDS or (keyword.iskeyword(word) and word not in _CONSTANTS):
            raise _refusal(token.start[0], token.line)
        before = word


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
            return _range([_literal(argument) for argument in node.args], node)  # `gpu_ids` of the zoo's files
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not is_dict or any(keyword.arg is None for keyword in node.keywords):
            raise _refusal(node.lineno, ast.unparse(node))
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _literal(node.operand)
        if isinstance(inner, (int, float)):
            return -inner
    if isinstance(node, ast.Constant):
        return node.value
    raise _refusal(node.lineno, ast.unparse(node))


def _range(bounds: list[Any], node: ast.Call) -> list[int]:
    if not 1 <= len(bounds) <= 2 or not all(type(bound) is int and 0 <= bound <= _MOST_RANGE for bound in bounds):
        raise _refusal(node.lineno, ast.unparse(node))
    return list(range(*bounds))


def _refusal(line: int, text: str) -> RmrkdError:
    return RmrkdError(
        f"the checkpoint's config text does more than name values (line {line}: {text.strip()[:80]})",
        "name a preset with --preset to say which network it is",
    )
