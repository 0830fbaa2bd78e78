"""Reject texts that could crash Python's parser, before it parses them."""

from __future__ import annotations

import io
import keyword
import tokenize

MAX_CHARACTERS = 1 << 18
_MAX_DEPTH = 40  # of brackets
_MAX_BLOCKS = 20  # of indented lines
_MAX_CHAIN = 100  # operators and keywords in a row, between commas
_OPENING, _CLOSING, _SEPARATORS = "([{", ")]}", (",", "=")
_WORDS = ("True", "False", "None")


class TooComplexError(Exception):
    """The text is too long or nested too deep; the message says where."""


def check_complexity(text: str) -> None:
    """Check that Python's parser can parse a text: it has crashed on deeply nested expressions.

    Raises:
        TooComplexError: The text is too long, or nested too deep.
        SyntaxError, tokenize.TokenError: The text is no Python.
    """
    if len(text) > MAX_CHARACTERS:
        raise TooComplexError(f"it is longer than {MAX_CHARACTERS:,} characters")
    depth, blocks, chain, before = 0, 0, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        word, line = token.string, token.start[0]
        if token.type == tokenize.OP:
            depth += (word in _OPENING) - (word in _CLOSING)
            is_call = word in _OPENING and before in _CLOSING and before != ""
            if word in _SEPARATORS:
                chain = 0
            elif is_call or word not in (*_OPENING, *_CLOSING):
                chain += 1
        elif token.type == tokenize.NEWLINE:
            chain = 0
        elif token.type == tokenize.NAME and keyword.iskeyword(word) and word not in _WORDS:
            chain += 1
        elif token.type == tokenize.STRING and "f" in word[:2].lower():  # its expressions are tokens since Python 3.12
            chain += sum(word.count(bracket) for bracket in _OPENING)
        blocks += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if depth > _MAX_DEPTH or blocks > _MAX_BLOCKS or chain > _MAX_CHAIN:
            raise TooComplexError(f"line {line} is nested too deep")
        before = word
