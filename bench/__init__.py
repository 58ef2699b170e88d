"""What a poll costs, measured: this service beside other clients that do the same. See `python -m bench --help`."""
