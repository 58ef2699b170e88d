"""How an account came to this process: what of its window may still be in use by requests of another one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What the member that had the account left of its window."""

    is_clean: bool  # it stopped in order: `slot_ages_s` are all the slots in use. Otherwise any may be
    slot_ages_s: tuple[float, ...] = ()  # how long ago each request ended that a window may still count
    settle_s: float = 0.0  # where it is not clean: how long the other may still send requests, before the window begins
