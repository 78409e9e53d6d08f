"""Report invalid values by the name of their option or environment variable."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from ...errors import UsageError

_WORDS = {
    bool: ("1 or 0", "1 or 0"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
}
"""Words for one value of a type, and for several."""


class Command(TyperCommand):
    """A command that reports an invalid value as other wrong usage is reported."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: a value is not of the type of its option, or out of its range.
        """
        typed = list(args)  # parsing empties the list
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            self._explain(ctx, typed, error.param)
            raise

    def _explain(self, ctx: Any, typed: list[str], parameter: Any) -> None:
        """Raise UsageError if the value of a parameter, not its absence, is the error."""
        expected = self._expected(parameter.name) if parameter else ""
        if not expected:
            return
        if variable := _variable(ctx, parameter.name):
            value = parameter.resolve_envvar_value(ctx)
        else:
            value = self.make_parser(ctx).parse_args(args=typed)[0].get(parameter.name)
        if value is not None:
            text = value if isinstance(value, str) else " ".join(map(str, value))
            raise UsageError(f"{variable or parameter.opts[0]} is {text!r}", f"Give {expected}.")

    def _expected(self, name: str) -> str:
        """Return the words for the valid values of an option; empty if there are none."""
        declared = inspect.signature(self.callback).parameters.get(name) if self.callback else None
        return _words(*get_args(declared.annotation)[:2]) if declared else ""


def _words(kind: Any, option: Any) -> str:
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, kinds))}"
    if kinds:  # X | None, list[X]
        words = _words(kinds[0], option)
        several = get_origin(kind) is list and kinds[0] in _WORDS
        return words.replace(*_WORDS[kinds[0]], 1) if several else words
    if kind not in _WORDS:
        return ""
    low, high = (None if bound is None else f"{bound:g}" for bound in (option.min, option.max))
    bounds = f" from {low} to {high}" if high else f" of at least {low}" if low else ""
    return _WORDS[kind][0] + bounds


@contextmanager
def named_variables(context: typer.Context) -> Iterator[None]:
    """Name the environment variables of options that a UsageError mentions."""
    try:
        yield
    except UsageError as error:
        for name in context.params:
            option, variable = "--" + name.replace("_", "-"), _variable(context, name)
            if variable and re.search(rf"{option}(?![\w-])", error.message):
                error.hint = f"{error.hint} {variable} sets {option}.".lstrip()
        raise


def variable(name: str) -> str:
    """Return the environment variable that can set the option of a parameter."""
    return f"RESTORMER_{name.upper()}"


def _variable(context: Any, name: str) -> str:
    """Return the environment variable that sets an option; empty if none does."""
    source = context.get_parameter_source(name)
    return variable(name) if source and source.name == "ENVIRONMENT" else ""
