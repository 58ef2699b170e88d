"""`python -m poller` is the `poller` command."""

from poller.cli.app import main

main()
