"""Read a config file of mmcv or mmengine as data: assignments of values, which are computed and never executed."""

from __future__ import annotations

import ast
import operator
import tokenize
from collections.abc import Callable, Mapping
from typing import Any

from rmrkd_cli.checkpoints.safety.config_tokens import TooComplexError, check_complexity

BASE = "_base_"  # the variable that names the files a config builds on
MAX_VALUES = 200_000  # of all variables of a file; a variable counts each time it is used
_MAX_SHOWN = 80  # characters of a line
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}  # fmt: skip


class NotDataError(Exception):
    """A statement needs Python to run it."""

    def __init__(self, node: ast.AST, reason: str = "") -> None:
        self.line = getattr(node, "lineno", 0)
        text = " ".join(ast.unparse(node).split())
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        super().__init__(f"line {self.line}: `{shown}`{f' {reason}' if reason else ''}")


class UnreadableError(Exception):
    """The text is no Python, or too complex."""


class ConfigProgram:
    """The variables of a config file, in order.

    A value may be a literal, a list, a tuple, a mapping, `dict(…)`, a variable from above, a part of one, sums and
    products of these, and a small `range(…)` or `sum(…)`. A variable with any other value has no value here, so that a
    network can be read from a file whose data pipelines need Python.

    Args:
        text: Of the file.

    Raises:
        UnreadableError: The text is no Python, or too complex.
        NotDataError: It imports or calls something, has a loop or a function, or changes a part of a variable.
    """

    def __init__(self, text: str) -> None:
        self._values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._without_value: dict[str, NotDataError] = {}
        self._base: Mapping[str, Any] = {}
        self._count = 0
        try:
            check_complexity(text)
            self._statements = [_assignment(statement) for statement in ast.parse(text).body]
        except (SyntaxError, tokenize.TokenError, TooComplexError, RecursionError, MemoryError, ValueError) as error:
            raise UnreadableError(str(error)) from error

    def bases(self) -> list[str]:
        """Return the files that the config builds on, as written.

        Raises:
            NotDataError: They are no text or list of texts.
        """
        for found in self._statements:
            if found is not None and found[0] == [BASE]:
                value = self._value(found[1])
                names = value if isinstance(value, (list, tuple)) else [value]
                if not all(isinstance(name, str) for name in names):
                    raise NotDataError(found[1], "is no list of files")
                return list(names)
        return []

    def run(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all variables that have one.

        Args:
            base: The variables of the files in `_base_`, for `_base_.NAME`.

        Raises:
            UnreadableError: There are more than `MAX_VALUES` values.
        """
        self._base = base
        for found in self._statements:
            if found is None or found[0] == [BASE]:
                continue
            try:
                self._assign(*found)
            except RecursionError as error:
                raise UnreadableError("its values are nested too deep") from error
        return {name: value for name, value in self._values.items() if name not in self._without_value}

    def _assign(self, names: list[str], node: ast.expr) -> None:
        before = self._count
        try:
            value = self._value(node)
        except NotDataError as error:
            self._without_value.update(dict.fromkeys(names, error))
            return
        for name in names:
            self._without_value.pop(name, None)
        self._values.update(dict.fromkeys(names, value))
        self._sizes.update(dict.fromkeys(names, self._count - before))

    def require(self, name: str) -> None:
        """Raise NotDataError if a variable has a value that cannot be read."""
        if name in self._without_value:
            raise self._without_value[name]

    def _add(self, node: ast.AST, count: int = 1) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise UnreadableError(f"line {getattr(node, 'lineno', 0)}: it has more than {MAX_VALUES:,} values")

    def _value(self, node: ast.expr) -> Any:
        self._add(node)
        read = _READERS.get(type(node))
        if read is None:
            raise NotDataError(node)
        try:
            return read(self, node)
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
            raise NotDataError(node, f"has no value ({type(error).__name__}: {error})") from error

    def _constant(self, node: ast.Constant) -> Any:
        if node.value is not None and not isinstance(node.value, (str, int, float)):
            raise NotDataError(node)
        return node.value

    def _list(self, node: ast.List) -> list[Any]:
        return [self._value(item) for item in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._value(item) for item in node.elts)

    def _mapping(self, node: ast.Dict) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            mapping.update(self._value(value) if key is None else {self._value(key): self._value(value)})
        return mapping

    def _substitution(self, node: ast.Set) -> Any:
        """`{{_base_.NAME}}`, as mmcv writes it."""
        inner = node.elts[0] if len(node.elts) == 1 else None
        if not isinstance(inner, ast.Set) or len(inner.elts) != 1 or not isinstance(inner.elts[0], ast.Attribute):
            raise NotDataError(node)
        return self._value(inner.elts[0])

    def _variable(self, node: ast.Name) -> Any:
        self.require(node.id)
        if node.id not in self._values:
            raise NotDataError(node, "is not a variable of this file")
        self._add(node, self._sizes[node.id])
        return self._values[node.id]

    def _attribute(self, node: ast.Attribute) -> Any:
        """`_base_.NAME` and its parts."""
        holder = self._base if isinstance(node.value, ast.Name) and node.value.id == BASE else self._value(node.value)
        if not isinstance(holder, Mapping) or node.attr not in holder:
            raise NotDataError(node)
        self._add(node, _size(holder[node.attr]))
        return holder[node.attr]

    def _part(self, node: ast.Subscript) -> Any:
        holder, key = self._value(node.value), self._value(node.slice)
        if not isinstance(holder, (Mapping, list, tuple)):
            raise NotDataError(node)
        return holder[key]

    def _negative(self, node: ast.UnaryOp) -> Any:
        value = self._value(node.operand)
        if not isinstance(node.op, ast.USub) or not isinstance(value, (int, float)):
            raise NotDataError(node)
        return -value

    def _operation(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left), self._value(node.right)
        compute = _OPERATORS.get(type(node.op))
        if compute is None:
            raise NotDataError(node)
        sequences = [part for part in (left, right) if isinstance(part, (str, list, tuple))]
        factors = [part for part in (left, right) if isinstance(part, int)]
        if len(sequences) == 1 and isinstance(node.op, ast.Mult):  # a text or list, repeated
            self._add(node, _size(sequences[0]) * max(factors, default=0))
        if any(abs(part) > 1 << 64 for part in factors):
            raise NotDataError(node, "has a huge number")
        self._add(node, sum(_size(part) for part in sequences))
        return compute(left, right)

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        arguments = [self._value(argument) for argument in node.args if not isinstance(argument, ast.Starred)]
        if len(arguments) != len(node.args):
            raise NotDataError(node)
        if name == "dict" and len(arguments) <= 1 and all(isinstance(each, Mapping) for each in arguments):
            mapping = dict(*arguments)
            for keyword in node.keywords:
                value = self._value(keyword.value)
                mapping.update(value if keyword.arg is None else {keyword.arg: value})
            return mapping
        numbers = arguments[0] if name == "sum" and len(arguments) == 1 else arguments
        is_numbers = isinstance(numbers, (list, tuple)) and all(isinstance(each, (int, float)) for each in numbers)
        if node.keywords or not is_numbers or name not in ("sum", "range"):
            raise NotDataError(node)
        if name == "sum":
            return sum(numbers)
        result = range(*numbers)
        self._add(node, len(result))
        return list(result)


def _assignment(statement: ast.stmt) -> tuple[list[str], ast.expr] | None:
    """Return the variables that a statement sets and their value; None for one that does nothing."""
    if isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)  # a docstring
    ):
        return None
    if isinstance(statement, ast.Assign) and all(isinstance(target, ast.Name) for target in statement.targets):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)], statement.value
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        name = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement)
        return [name.id], ast.copy_location(ast.BinOp(name, statement.op, statement.value), statement)
    raise NotDataError(statement)


def _size(value: Any) -> int:
    """Return the number of values in a value."""
    if isinstance(value, Mapping):
        return 1 + sum(map(_size, value.values()))
    if isinstance(value, (list, tuple)):
        return 1 + sum(map(_size, value))
    return 1 + (len(value) // 100 if isinstance(value, str) else 0)


_READERS: dict[type[ast.expr], Callable[[ConfigProgram, Any], Any]] = {
    ast.Constant: ConfigProgram._constant, ast.List: ConfigProgram._list, ast.Tuple: ConfigProgram._tuple,
    ast.Dict: ConfigProgram._mapping, ast.Set: ConfigProgram._substitution, ast.Name: ConfigProgram._variable,
    ast.Attribute: ConfigProgram._attribute, ast.Subscript: ConfigProgram._part, ast.UnaryOp: ConfigProgram._negative,
    ast.BinOp: ConfigProgram._operation, ast.Call: ConfigProgram._call,
}  # fmt: skip
