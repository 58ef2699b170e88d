"""What a poll costs, measured: this service beside other ways to ask for the same. See `python -m bench --help`."""
