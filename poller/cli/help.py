"""The help of a command: its options in groups where it has many, without the names of Python's types."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

_PYTHON_TYPE = re.compile(r" <\w+(\[\w+\])?>")
_REQUIRED = re.compile(r"\{([A-Z]+)\}")  # how typer marks an argument: it looks as if the braces were to be typed
_RANGE = re.compile(r"(?:(\d+)<=)?x(?:<=(\d+)|>=(\d+))")
OTHERS = "Other options"


def command_class(module: Any) -> type[TyperCommand]:
    """Return the class of a command that a module defines. Its `GROUPS` are names of parameters by heading, in
    the order of the help, its `VARIABLES` the environment variables that set what a parameter sets."""
    groups: Mapping[str, Sequence[str]] = getattr(module, "GROUPS", {})
    variables: Mapping[str, str] = {"state": "POLLER_STATE"} | getattr(module, "VARIABLES", {})

    class CommandWithGroups(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            left = super().parse_args(ctx, args)
            for parameter in self.get_params(ctx):
                is_path = parameter.metavar == "FILE" or parameter.name == "state"  # which may be any bytes
                if not (is_path or ctx.resilient_parsing):
                    _refuse_bytes(ctx.params.get(parameter.name), ctx, parameter)
            return left

        def collect_usage_pieces(self, ctx: Any) -> list[str]:
            return [_REQUIRED.sub(r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

        def format_options(self, ctx: Any, formatter: Any) -> None:
            for heading, records in _sections(self.get_params(ctx), ctx, groups, variables):
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=26)

    return CommandWithGroups


def _refuse_bytes(value: object, ctx: Any, parameter: Any) -> None:
    """Refuse text that is not UTF-8: no state has it."""
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and text.encode(errors="replace").decode() != text:
            given = str(os.fsencode(text))[1:]
            raise typer.BadParameter(f"{given} is not UTF-8: use a terminal in UTF-8", ctx, parameter)


def _sections(
    parameters: Sequence[Any], ctx: Any, groups: Mapping[str, Sequence[str]], variables: Mapping[str, str]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    heading_of = {name: heading for heading, names in groups.items() for name in names}
    order = {name: at for at, name in enumerate(heading_of)}
    sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in groups}
    for parameter in sorted(parameters, key=lambda each: order.get(each.name, len(order))):
        if (record := parameter.get_help_record(ctx)) is not None:
            usual = OTHERS if groups else "Arguments" if parameter.param_type_name == "argument" else "Options"
            name, text = record
            section = sections.setdefault(heading_of.get(parameter.name, usual), [])
            section.append(_plain(name, text, variables.get(parameter.name)))
    yield from ((heading, records) for heading, records in sections.items() if records)


def _plain(name: str, text: str, variable: str | None) -> tuple[str, str]:
    words = _RANGE.sub(_range_in_words, text)
    return _PYTHON_TYPE.sub("", name), f"{words} [${variable}]" if variable else words


def _range_in_words(found: re.Match[str]) -> str:
    low, high, least = found.groups()
    return f"at least {least}" if least else f"{low} to {high}" if low else f"at most {high}"
