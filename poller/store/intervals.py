"""How often every kind of store retries, saves and beats, and what it does not wait for."""

RETRY_S = 1.0  # between two tries to commit or read while the state is out of reach
SAVE_WITHIN_S = 1.0  # what is noted without a caller that waits
BEAT_EVERY_S = 2.0  # at most one heartbeat is written in this time
CLOCK_TOLERANCE_S = 10.0  # by which a stored instant may be ahead of the clock
HEAVY_ROWS = 500  # a transaction of this size is not delayed to gather more
