"""Reads `--set OPTION=TEXT` of the commands that import."""

from collections.abc import Sequence

from poller.cli.options import named_values


def start_options(specs: Sequence[str]) -> dict[str, str]:
    """Read OPTION=TEXT. One folder alone replaces either folder of the config."""
    from poller.core.start_options import FOLDERS, OPTIONS

    options = named_values(specs, "--set", OPTIONS)
    if len([name for name in FOLDERS if name in options]) == 1:
        options |= {name: "" for name in FOLDERS if name not in options}
    return options
