"""The lines that an earlier reading of a file stored, where the file was half written and is read again from before its
end. They are duplicates, also where their tasks were pruned since: else those would be polled and reported once more.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.files.open_file import OpenFile
from poller.sources.files.read_as import OF_REST, is_torn, manner_of
from poller.sources.options import ReadOptions
from poller.sources.parsing.parser import Parser

T = TypeVar("T")
_Name = tuple[str, str]  # of a line: its account, and its task id or the row's identity
_Ref = bytes | None

_END, _OPEN = "end", "open"  # how the earlier reading ended: all that the file had was a line, or its last one was not


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierReading:
    """How far an earlier reading went, and what shows that its lines are still in the file, and still read so."""

    known: Position
    proof: str  # digest of the file's content up to there, and of how it is read
    hashes: tuple[int, ...]  # of each block of that

    @property
    def note(self) -> str:
        """What to add to a position's digest, so that `earlier_reading` finds it again."""
        how = _END if self.known.ended and not is_torn(self.known) else _OPEN
        return f":{how}@{self.known.offset}@{self.proof}"

    def blocks(self, file: OpenFile) -> Iterator[bytes | None]:
        """Yield the blocks that it had; None for one that was changed since."""
        for found, block in zip_longest(self.hashes, file.blocks_before(self.known.offset)):
            yield block if hash(block) == found else None


async def proven(file: OpenFile, known: Position, options: ReadOptions) -> EarlierReading:
    """Return the reading up to `known` with the proof as of now. Raises `InputError` as reading it would."""
    digest, hashes = hashlib.sha256(), list[int]()
    for block in file.blocks_before(known.offset):
        digest.update(block)
        hashes.append(hash(block))
        await asyncio.sleep(0)
    begun = Parser.of_beginning(options, file.name, None, file.blocks_before(known.offset))
    digest.update(f"{manner_of(begun, options)} {options.max_line_bytes}".encode())
    return EarlierReading(known=known, proof=digest.hexdigest()[:32], hashes=tuple(hashes))


async def earlier_reading(file: OpenFile, position: Position, options: ReadOptions) -> EarlierReading | None:
    """Return the earlier reading as noted with a position of the one that is made again; None where that is beyond it,
    and where the file has changed since, or is read in another way: which lines are stored is not known then."""
    noted = ":".join(position.digest.split(" ")[OF_REST:]).split(":")
    found = next((each.split("@") for each in noted if "@" in each), None)
    if found is None:
        return None
    ending, offset, *proof = found
    with suppress(InputError):
        earlier = await proven(file, Position(offset=int(offset), ended=ending == _END), options)
        return earlier if proof == [earlier.proof] else None
    return None


def note_at_start(earlier: EarlierReading) -> str:
    """Return the digest to begin a file with that was read before, and is read again from its start."""
    return " " * OF_REST + earlier.note


async def parsed_again(file: OpenFile, known: Position, options: ReadOptions) -> tuple[Parser, int, int]:
    """Return a parser that has read what the reading up to `known` did, how many lines that is, and how many of them
    are rejected now. Raises `InputError`."""
    parser, torn = Parser(options, file.name), int(is_torn(known))
    lines, rejected = torn, torn
    for chunk in _chunks(parser, file.blocks_before(known.offset), known):
        lines, rejected = lines + chunk.lines, rejected + len(chunk.rejected)
        await asyncio.sleep(0)
    return parser, lines, rejected


class StoredLines:
    """Parses what the earlier reading parsed, beside the reading at work. Both find the same lines up to where the file
    was half written: only those after it are held."""

    def __init__(
        self,
        store: FeedStore,
        parser: Parser,
        blocks: Iterator[bytes | None],
        known: Position,
        *,
        aligned: bool,
        note: str = "",
    ) -> None:
        """`blocks` are what the earlier reading, which went up to `known`, had for `parser`. `aligned`: the reading at
        work begins with the same. `note`: what shows it again."""
        self._store = store
        self._known = known
        self._note = note
        self._chunks = _chunks(parser, blocks, known)
        self._aligned = aligned
        self._following: deque[tuple[_Name, _Ref]] = deque()  # of the latest chunk, that were not met yet
        self._others: dict[_Name, _Ref] | None = None  # all that follow, once the two readings differ
        self._other_refs = 0  # of the latest chunk

    def note(self, offset: int) -> str:
        """Return what to note with a position of the reading at work, so that it can be resumed there."""
        return self._note if offset < self._known.offset else ""

    async def counted_in(self, chunk: Chunk) -> Chunk:
        """Return the chunk with the lines that are stored only counted."""
        self._other_refs = 0
        fed = [line for line in chunk.fed if await self._has((line.account, line.task_id), line.ref)]
        rows = [row for row in chunk.rows if await self._has((row.account, row.row), None)]
        if not (fed or rows):
            return chunk
        found = await self._store.count_failed(replace(chunk, fed=tuple(fed), rows=tuple(rows)))
        repeated = Added(tasks=0, duplicates=len(fed) + len(rows), failed=found.failed, other_refs=self._other_refs)
        return replace(chunk, fed=_without(fed, chunk.fed), rows=_without(rows, chunk.rows), repeated=repeated)

    async def _has(self, name: _Name, ref: _Ref) -> bool:
        if self._others is None:
            if self._aligned and await self._has_following() and self._following[0][0] == name:
                self._note_ref(self._following.popleft()[1], ref)
                return True
            self._others = {}
            while await self._has_following():
                self._others.update(self._following)
                self._following.clear()
        if name not in self._others:
            return False
        self._note_ref(self._others[name], ref)
        return True

    def _note_ref(self, stored: _Ref, ref: _Ref) -> None:
        self._other_refs += ref is not None and ref != stored

    async def _has_following(self) -> bool:
        """Parse on where all lines at hand were met; return whether there are any."""
        while not self._following and (chunk := next(self._chunks, None)) is not None:
            self._following.extend(((line.account, line.task_id), line.ref) for line in chunk.fed)
            self._following.extend(((row.account, row.row), None) for row in chunk.rows)
            await asyncio.sleep(0)
        return bool(self._following)


def _chunks(parser: Parser, blocks: Iterator[bytes | None], known: Position) -> Iterator[Chunk]:
    for block in blocks:
        if block is None:
            return
        yield from parser.push(block)
    if known.ended and not is_torn(known):
        yield from parser.end()
    elif (chunk := parser.flush()) is not None:
        yield chunk


def _without(some: Sequence[T], all_of: Sequence[T]) -> tuple[T, ...]:
    """Return the others, in their order; a line may be in both twice."""
    identities = set(map(id, some))
    return tuple(each for each in all_of if id(each) not in identities)
