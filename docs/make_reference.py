"""Writes docs/reference/ from the code: settings, commands, the record, the HTTP interface. `make docs` runs it; a test
fails where what it would write is not what stands there.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import typer

from docs.record_schema import SCHEMA
from poller.cli.app import app
from poller.config.merge import flag, variable
from poller.web.openapi import describe

HOUSE = Path(__file__).parent.parent
FOLDER = HOUSE / "docs" / "reference"
MADE = "<!-- Made by `make docs`; what is written here by hand is lost. -->\n"

# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of config.example.toml: a key, its default as TOML, and the comment above."""

    table: str  # "" at the top
    key: str
    default: str
    meaning: str

    @property
    def path(self) -> tuple[str, ...]:
        return (self.table, self.key) if self.table else (self.key,)


def settings_page(example: str) -> str:
    flags = {name for name in _flags("run") if name.startswith("--")}
    parts = [MADE, "# Settings\n", _first_words(example)]
    for title, text in _sections(example):
        head, settings = _head_and_settings(title, text)
        parts.append(f"\n## {_heading(title)}\n" + (f"{head}\n\n" if head else ""))
        if settings:
            parts.append("| setting | default | flag of `run` | variable | meaning |\n|---|---|---|---|---|\n")
            parts += [_setting_row(setting, before, flags) for before, setting in pairwise((None, *settings))]
        parts += _samples(text)
    return "".join(parts)


def _first_words(example: str) -> str:
    """Return what the example's second paragraph says: which source of settings beats which."""
    head = example.partition("\n\n")[0].partition("\n#\n")[2]
    return " ".join(line.removeprefix("#").strip() for line in head.splitlines()) + "\n"


def _sections(example: str) -> Iterator[tuple[str, str]]:
    """Yield each part of the file with its name: what follows a ruler, a table's head, or begins a block of samples."""
    pieces = re.split(
        r"(?m)^# -{3} (.+?) -+\n|^\[(\w+)\]\n|^(?=# (?:For a public app|Sinks with|Several accounts|Sources with))",
        example,
    )
    names = iter(pieces[1:])
    for ruler, table, body in zip(names, names, names, strict=True):
        yield (f"[{table}]" if table else ruler or body.partition("\n")[0].removeprefix("# ")), body


def _heading(title: str) -> str:
    known = {
        "For a public": "[oauth]",
        "Sinks with": "[[sinks]]",
        "Several": "[accounts.NAME]",
        "Sources with": "[[sources]]",
    }
    return next((name for start, name in known.items() if title.startswith(start)), title[0].upper() + title[1:])


def _head_and_settings(title: str, text: str) -> tuple[str, list[Setting]]:
    table = title.strip("[]") if title.startswith("[") else ""
    head, settings = "", []
    for number, paragraph in enumerate(re.split(r"\n{2,}", text.strip("\n"))):
        lines = [line.removeprefix("#").removeprefix(" ") for line in paragraph.splitlines()]
        keys = [match for line in lines if (match := re.fullmatch(r"(\w+) = (.+)", line))]
        prose = " ".join(line.strip() for line in lines if line and not re.match(r"(?:    |\w+ = )", line))
        settings += [Setting(table=table, key=key[1], default=key[2], meaning=prose) for key in keys]
        if number == 0 and not keys:
            head = prose
    return head, settings


def _setting_row(setting: Setting, before: Setting | None, flags: set[str]) -> str:
    own = flag(setting.path)
    shown = f"`{own}`" if own in flags else ""
    is_told = before is not None and before.meaning == setting.meaning
    meaning = "as above" if is_told else setting.meaning.replace("|", "\\|")
    return f"| `{setting.key}` | `{setting.default}` | {shown} | `{variable(setting.path)}` | {meaning} |\n"


def _samples(text: str) -> Iterator[str]:
    for block in re.findall(r"(?m)(?:^#(?: {5}.*)?\n)+", text):
        lines = [line.removeprefix("#").removeprefix("     ").rstrip() for line in block.splitlines()]
        if any(lines):
            yield "\n```toml\n" + "\n".join(lines).strip("\n") + "\n```\n"


# --- commands --------------------------------------------------------------------------------------------------------

COMMANDS: Mapping[str, click.Command] = vars(typer.main.get_command(app))["commands"]


def _flags(command: str) -> list[str]:
    return [name for option in COMMANDS[command].params for name in option.opts]


def commands_page() -> str:
    parts = [MADE, "# Commands\n", "What `poller COMMAND --help` says.\n"]
    for name, command in COMMANDS.items():
        context = click.Context(command, info_name=f"poller {name}", terminal_width=100, max_content_width=100)
        parts.append(f"\n## {name}\n```text\n{click.unstyle(command.get_help(context)).rstrip()}\n```\n")
    return "".join(parts)


# --- the record ------------------------------------------------------------------------------------------------------


def record_page() -> str:
    rows = [
        f"| `{name}` | {_types(field)} | {field['description']} |\n" for name, field in SCHEMA["properties"].items()
    ]
    return "".join(
        [
            MADE,
            "# The record of a finished task\n",
            f"{SCHEMA['description']} As JSON Schema: [record.schema.json](record.schema.json).\n\n",
            "| field | type | meaning |\n|---|---|---|\n",
            *rows,
        ]
    )


def _types(field: Mapping[str, Any]) -> str:
    types = field.get("type", "any JSON")
    return " or ".join(types) if isinstance(types, list) else str(types)


def record_schema() -> str:
    return json.dumps(SCHEMA, indent=2, ensure_ascii=False) + "\n"


# --- HTTP ------------------------------------------------------------------------------------------------------------


def http_page(described: Mapping[str, Any]) -> str:
    """Return what the OpenAPI description says, for reading."""
    parts = [MADE, "# HTTP\n"]
    if "description" in described["info"]:
        parts.append(f"{described['info']['description']}\n")
    parts.append("\nThe same as OpenAPI, from a run at work: `GET /v1/openapi.json`.\n")
    for path, methods in described["paths"].items():
        shared = methods.get("parameters", [])
        for method, operation in methods.items():
            if method != "parameters":
                parts += _operation(f"{method.upper()} {path}", operation, shared, described)
    return "".join(parts)


def _operation(
    title: str, operation: Mapping[str, Any], shared: list[Any], described: Mapping[str, Any]
) -> Iterator[str]:
    said = [text for key in ("summary", "description") if (text := operation.get(key, "").strip())]
    yield f"\n## {title}\n" + "".join(f"{text}\n\n" for text in said)
    parameters = [_resolved(each, described) for each in (*shared, *operation.get("parameters", []))]
    if parameters:
        yield "| parameter | in | meaning |\n|---|---|---|\n"
        for each in parameters:
            yield f"| `{each['name']}` | {each['in']} | {_cell(each.get('description', ''))} |\n"
        yield "\n"
    if body := operation.get("requestBody"):
        body = _resolved(body, described)
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        yield f"Body: {kinds}. {body.get('description', '').strip()}\n\n"
    yield "| answer | meaning |\n|---|---|\n"
    for code, answer in operation["responses"].items():
        yield f"| {code} | {_cell(_resolved(answer, described).get('description', ''))} |\n"


def _resolved(node: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference within the description."""
    while "$ref" in node:
        found: Any = described
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- all -------------------------------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Return every page that is made, by its name."""
    return {
        "config.md": settings_page((HOUSE / "config.example.toml").read_text("utf-8")),
        "commands.md": commands_page(),
        "http.md": http_page(describe()),
        "record.md": record_page(),
        "record.schema.json": record_schema(),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
