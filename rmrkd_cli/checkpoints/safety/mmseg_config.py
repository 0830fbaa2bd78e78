"""Read the config that mmcv writes into a checkpoint: Python text, which is parsed and never executed."""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from typing import Any

from rmrkd_cli.errors import RmrkdError

_MAX_CHARACTERS = 1 << 18
_MAX_DEPTH = 40
_MAX_RANGE = 256  # a text can contain thousands of ranges
_CONSTANTS = ("True", "False", "None")
_OPENING, _CLOSING, _OTHER = "([{", ")]}", ("=", ",", ":", "-")
_KINDS = (
    tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP, tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT,
    tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
)  # fmt: skip


def parse_config_text(text: str) -> dict[str, Any]:
    """Return the top-level names of a config text with their values.

    The text may contain literals, `dict(...)` and a small `range(...)`.

    Raises:
        RmrkdError: The text contains anything else; the message names the line.
    """
    if len(text) > _MAX_CHARACTERS:
        raise RmrkdError(f"the checkpoint's config text is longer than {_MAX_CHARACTERS:,} characters")
    try:
        _check_tokens(text)
        values: dict[str, Any] = {}
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not all(isinstance(t, ast.Name) for t in statement.targets):
                raise _not_a_value(statement.lineno, ast.unparse(statement))
            value = _literal(statement.value)
            values.update({target.id: value for target in statement.targets if isinstance(target, ast.Name)})
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError, ValueError, TypeError) as error:
        raise RmrkdError(f"the checkpoint's config text cannot be read: {error}") from error
    return values


def _check_tokens(text: str) -> None:
    """Reject deep nesting before Python parses the text: its parser has crashed on nested expressions."""
    depth, before = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        word = token.string
        if token.type == tokenize.OP:
            chained = word in _OPENING and (before in _CLOSING if before else False)
            twice = word == "-" and before == "-"
            if chained or twice or word not in (*_OPENING, *_CLOSING, *_OTHER):
                raise _not_a_value(token.start[0], token.line)
            depth += (word in _OPENING) - (word in _CLOSING)
            if depth > _MAX_DEPTH:
                raise RmrkdError(f"the checkpoint's config text is nested more than {_MAX_DEPTH} levels deep")
        elif token.type not in _KINDS or (keyword.iskeyword(word) and word not in _CONSTANTS):
            raise _not_a_value(token.start[0], token.line)
        before = word


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
            return _range([_literal(argument) for argument in node.args], node)  # `gpu_ids` of the zoo's files
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not is_dict or any(keyword.arg is None for keyword in node.keywords):
            raise _not_a_value(node.lineno, ast.unparse(node))
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
    raise _not_a_value(node.lineno, ast.unparse(node))


def _range(bounds: list[Any], node: ast.Call) -> list[int]:
    if not 1 <= len(bounds) <= 2 or not all(type(bound) is int and 0 <= bound <= _MAX_RANGE for bound in bounds):
        raise _not_a_value(node.lineno, ast.unparse(node))
    return list(range(*bounds))


def _not_a_value(line: int, text: str) -> RmrkdError:
    return RmrkdError(
        f"the checkpoint's config text contains more than values (line {line}: {text.strip()[:80]})",
        "choose the network with --preset NAME instead",
    )
