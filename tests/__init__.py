"""The tests. Every async test runs in virtual time unless it is marked `real_time`; see `virtual.py`."""
