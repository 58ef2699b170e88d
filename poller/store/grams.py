"""Grams: for each run of some hundred tasks, which pieces of four bytes their ids and rows contain, as bits. Pure.

A piece of a URL that is in few tasks is then found by reading few runs, not all of them. Bits answer "not in here" for
certain and "in here" most of the time; the rows have the last word.
"""

from collections.abc import Callable, Iterable, Sequence

from poller.core.search import searchable

RUN = 128  # tasks
SIZE = 15_919  # bits of a run, a prime; a third is set for URLs of usual length. Two runs fill a page of SQLite
BYTES = (SIZE + 7) // 8
LONGEST_RUN = 256_000  # bytes of text that are read; a run with more may contain anything
WIDTH = 4  # bytes of a piece
TESTED_BITS = 8  # by a database: few runs pass that many by chance

ANYTHING = b"\xff" * BYTES


def grams_of(texts: Iterable[str]) -> bytes:
    """Return the bits of a run of tasks, whose searchable texts these are."""
    text = "\n".join(texts).encode("utf-8", "replace")
    if len(text) > LONGEST_RUN:
        return ANYTHING
    bits = bytearray(BYTES)
    for place in {piece % SIZE for piece in _pieces(text)}:
        bits[place >> 3] |= 1 << (place & 7)
    return bytes(bits)


def run_rows(last: int, found: Sequence[tuple[int, str, bytes | None]]) -> tuple[list[tuple[int, int, bytes]], int]:
    """Return the rows (first key, last key, bits) of full runs of the tasks (key, id, row) that follow the key `last`,
    and how many tasks are in them. Between two runs there is no gap: every key up to the last one is in a run."""
    rows = []
    for begin in range(0, len(found) - RUN + 1, RUN):
        run = found[begin : begin + RUN]
        bits = grams_of(searchable(task_id, ref) for _, task_id, ref in run)
        rows.append((last + 1, run[-1][0], bits))
        last = run[-1][0]
    return rows, len(rows) * RUN


def _pieces(text: bytes) -> set[int]:
    """Return every four bytes in a row, each as a number: by four casts, ten times as fast as by slices."""
    pieces: set[int] = set()
    for begin in range(WIDTH):
        length = (len(text) - begin) // WIDTH * WIDTH
        if length > 0:
            pieces.update(memoryview(text)[begin : begin + length].cast("I"))
    return pieces


def may_contain(groups: Sequence[Sequence[str]]) -> Callable[[bytes], bool] | None:
    """Return a test of a run's bits: whether each group may have one of its texts in it. None: any run may."""
    needed = [places for group in groups if (places := _places(group))]
    if not needed:
        return None
    if len(needed) == len(needed[0]) == 1:  # the usual case, for which a loop of its own saves half of the time
        (((first_byte, first_bit), *rest),) = needed[0]

        def test_one(bits: bytes) -> bool:
            return bool(bits[first_byte] & first_bit) and all(bits[byte] & bit for byte, bit in rest)

        return test_one

    def test(bits: bytes) -> bool:
        return all(any(all(bits[byte] & bit for byte, bit in text) for text in group) for group in needed)

    return test


def needed_bits(groups: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Return some bits, as bytes and masks, that each run that passes `may_contain` has: for a database to test."""
    alone = [places[0] for group in groups if len(places := _places(group)) == 1]
    return [place for text in alone for place in text[:TESTED_BITS]]


def _places(group: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return which bits each text needs, as bytes and masks; nothing where one is too short to need any."""
    texts = [text.encode("utf-8", "replace") for text in group]
    if any(len(text) < WIDTH for text in texts):
        return []
    return [[(place >> 3, 1 << (place & 7)) for place in {piece % SIZE for piece in _pieces(text)}] for text in texts]
