"""Options of a command as one frozen dataclass: what several commands share, or what would fill a function's screen."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

T = TypeVar("T")


def with_options(group: Callable[..., Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command the options that are the fields of the dataclass `group`, after its own.

    The command receives them as one value of that class, its first argument.
    """
    fields = inspect.signature(group).parameters

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        def receive(**given: Any) -> T:
            options = group(**{name: given.pop(name) for name in fields})
            return command(options, **given)

        update_wrapper(receive, command)
        _, *own = inspect.signature(command).parameters.values()
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *fields.values())]
        receive.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        return receive

    return decorate
