"""`poller check-config`: prints the settings in force, or what is wrong with them."""

import os

import typer

from poller.cli.options import Config, settings_of

EXAMPLES = "\b\nExample:\n  poller check-config -c config.toml"


def check_config(config: Config = None) -> None:
    """Print the settings in force, or what is wrong with them.

    Reads them as `run` would. Exit code 78 where something is wrong.
    """
    from poller.app.inputs import missing_sources
    from poller.config import describe, unknown_variables, unused_proxies
    from poller.sinks import check_sinks, check_targets

    settings = settings_of(config)
    check_sinks(settings.sinks)
    check_targets(settings.sinks)
    typer.echo(describe(settings))
    for missing in missing_sources(settings):
        typer.echo(f"warning: {missing}", err=True)
    for name, nearest in unknown_variables(os.environ).items():
        hint = f"; did you mean {nearest}?" if nearest else ""
        typer.echo(f"warning: {name} is not a setting and is ignored{hint}", err=True)
    for name in unused_proxies(settings, os.environ):
        typer.echo(f"warning: {name} is set, but the poller does not read it; set proxy, or POLLER_PROXY", err=True)
