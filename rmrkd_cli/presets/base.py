"""What every part of a preset is checked with: no unknown keys, and all problems told together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Strict(BaseModel):
    """Unknown keys are errors at every depth; infinities and NaN are no numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=False, defer_build=True)


class Related(Strict):
    """Rules between keys are checked beside those of single keys, so that all problems are told together."""

    @classmethod
    def problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong between keys; the values may be of any type still."""
        raise NotImplementedError

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        own = list(cls.problems(value)) if isinstance(value, Mapping) else []
        found: list[InitErrorDetails] = []
        try:
            made = handler(value)
        except ValidationError as error:
            found = [_again(problem) for problem in error.errors(include_url=False)]
        if not own and not found:
            return made
        found += [InitErrorDetails(type=PydanticCustomError("related", cast(Any, text)), input=None) for text in own]
        raise ValidationError.from_exception_data(cls.__name__, found)


def _again(problem: Any) -> InitErrorDetails:
    """A problem that was found, in the form in which it can be raised once more."""
    custom = problem["type"] in ("value_error", "related")
    kind = PydanticCustomError(problem["type"], problem["msg"]) if custom else problem["type"]
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"], ctx=problem.get("ctx", {}))
