"""How many files and connections this process may have open at once."""

import resource
from contextlib import suppress

MOST = 65_536  # some programs that a sink starts close every number up to their limit
RESERVED = 256  # for connections, the state and sinks


def raise_limit() -> None:
    """Raise the soft limit to the hard one, at most to `MOST`: the usual 1,024 is for programs that call `select()`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """Return the limit in force."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else soft


def room_for_inputs() -> int:
    """Return how many input files may be kept open."""
    return limit() - min(RESERVED, limit() // 2)
