"""Which versions of a state this poller can use."""

from poller.core.errors import StoreUnusable


def refuse_newer(version: int, known: int, state: str) -> None:
    """Raise `StoreUnusable` for a state that a newer poller wrote."""
    if version > known:
        raise StoreUnusable(
            f"the state {state} is of version {version}, this poller knows versions up to {known}. Use the newer "
            "poller that wrote it."
        )


def refuse_older(version: int, known: int, state: str) -> None:
    """Raise `StoreUnusable` for a state that only its writer can create or migrate."""
    if version < known:
        reason = f"is of the older version {version}" if version else "holds nothing yet"
        raise StoreUnusable(f"the state {state} {reason}. Start a run with it first.")
