"""`poller run`: polls every id until its outcome is in every sink."""

from functools import partial
from typing import Annotated

import typer

from poller.cli import run_options
from poller.cli.option_groups import with_options
from poller.cli.options import IdColumn, settings_of
from poller.cli.run_options import RunOptions
from poller.core.errors import Exit

EXAMPLES = (
    "\b\nExamples:\n  poller run ids.txt --sink jsonl:done.jsonl\n"
    "  cat ids.txt | poller run - --sink stdout | jq .\n  poller run -c config.toml ids.csv"
)

GROUPS = {
    "Input": ("files", "format", "id_column", "account", "follow"),
    "Output": run_options.OUTPUT,
    "HubSpot account": run_options.ACCOUNT,
    "Limits": run_options.LIMITS,
    "When to stop": run_options.WHEN_TO_STOP,
    "Page and logs": run_options.PAGE_AND_LOGS,
}
VARIABLES = run_options.VARIABLES | {"id_column": "POLLER_INPUT__ID_COLUMN"}


@with_options(RunOptions)
def run(
    options: RunOptions,
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Ids as text, JSON lines or CSV; - for stdin.")
    ] = None,
    id_column: IdColumn = None,
    stop_on_failures: Annotated[
        str | None,
        typer.Option(
            metavar="20%|N",
            help="Stop with code 75 when this share, or this number, of the outcomes is not complete. [never]",
        ),
    ] = None,
) -> Exit:
    """Poll every id until its outcome is in every sink.

    Run the same command again to continue where it stopped. Without FILE it finishes the tasks in the state.

    \b
    Exit codes:
       0  every task is complete, and no line or file of the input was rejected
       1  every task has its outcome, some are not complete, or lines or files were rejected
       2  the command line is wrong
      65  the input has no usable id
      69  an outage or refusal, or a failing sink, lasted longer than --give-up-s
      70  a defect: the ledger does not balance, or the code failed
      73  the state or an output file cannot be used
      75  stopped with work left: run the same command again
      77  HubSpot refuses the token
      78  a setting is wrong, also a host, path or account that the first answers refuse
    """
    flags = options.flags()
    flags |= {"stop_on_failures": stop_on_failures, "input": flags["input"] | {"id_column": id_column}}
    return options.run(files or [], "ids", partial(settings_of, options.config, **flags))
