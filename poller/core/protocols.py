"""The seams: what the engine asks of a sink and a store, each with its contract. Those of a request: request_protocols.

All methods are called on the event loop. Cancellation of any of them must leave its owner usable.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from poller.core.accounts import AccountState
from poller.core.deliveries import DeadLetter, Delivery, PruneWalk, Retry, Selection, Written
from poller.core.details import TaskDetails
from poller.core.fleet import FleetView, Membership, Published
from poller.core.model import Added, Chunk, Failed, KnownLines, Position, Record, Rejection, Settled, Task
from poller.core.search import TaskFilter, TaskPage
from poller.core.starts import Begin, EndRow, Row, StartAgain
from poller.core.sums import SourceSums, Sums

Clock = Callable[[], float]  # seconds since the epoch, UTC


class Sink(Protocol):
    """A place where finished tasks go. Each sink has its own delivery loop and never waits for another."""

    name: str  # identifies the sink across restarts, such as "jsonl:finished.jsonl"

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        """Make ready to write. Called once, before `write`.

        `position` is what the last acknowledged `write` returned, None for a sink that the store has never seen.
        `following` are the first undelivered records, the very bytes and order that `write` will bring first.
        Returns the position to note before anything is written. Raises `SinkError` where a person must act.
        """

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        """Write the batch, in order. Called by one caller at a time.

        Returns `Written` only when the records are as safe as the sink can make them; those it refuses for good are
        named there and become dead letters, and `count` leaves the rest to the next call (0 counts as a failure).
        Returns `Retry` for what may pass (a full disk, a receiver that is down): the same batch comes again. After a
        crash between this return and the store's commit the same records, with the same bytes and in the same order,
        may come again in other batches.
        Raises `SinkError` where a person must act, `OutputClosed` where the reader is gone for good. Cancellation may
        leave the batch partly written.
        """

    async def close(self) -> None:
        """Let go of files and connections, within 10 s. Called once, also after an error."""


class FeedStore(Protocol):
    """Where sources store what they read, and find how far they read before."""

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        """Return the latest source of this name and how far it was read; None if there is none."""

    async def new_source(self, name: str, fingerprint: str = "", digest: str = "") -> int:
        """Begin the sums of a source, with the fingerprint and digest of its position 0; return its number."""

    async def was_read(self, position: Position) -> bool:
        """Return whether any source was read up to exactly this position; its fingerprint identifies the file."""

    async def add(self, source: int, chunk: Chunk) -> Added:
        """Store a chunk and the position after it in one transaction. A known (account, task_id) is a duplicate.
        New tasks are due as `delay_first_polls` set it; their deadline's base is their account's noted `paused_s`."""

    async def source(self, name: str) -> SourceSums | None:
        """Return where the lines of the latest source of this name went."""

    async def has_failed(self) -> bool:
        """Return whether any task has an outcome that is not `complete`, or a record that a sink refused. Cheap."""

    async def count_failed(self, chunk: Chunk) -> Failed:
        """Return what became of lines that an earlier run stored; changes nothing."""


class PollStore(Protocol):
    """The queue and the schedule of a lane, and what it remembers."""

    def delay_first_polls(self, account: str, delay_s: float) -> None:
        """Make the account's new tasks due `delay_s` after they are added; before the first call they are due at once.
        Not stored."""

    async def claim(self, account: str, limit: int, *, again: int = 0, fed_until: float | None = None) -> list[Task]:
        """Lease up to `limit` due tasks, longest due first; with `fed_until`, only those that were fed up to then.
        Where more are due, lease up to `again` others that were polled before, too, but no more than there are first
        polls among the former: they come last, and only before a first poll may they have their turn. A lease ends
        with `record`, `release` or the process."""

    async def claim_any(self, account: str, share: float) -> list[Task]:
        """Lease one due task, wherever it is in the queue; none where no task is due. `share` (0 to 1) of the time over
        which due tasks are spread is where it is searched from: a random number makes it a random task."""

    async def next_due_at(self, account: str) -> float | None:
        """Return when the earliest task that is waiting and not leased is due; None if there is none."""

    async def record(self, settled: Sequence[Settled]) -> Sequence[Settled]:
        """Count one poll for each task and store its decision; for finished ones, in the same transaction, the record
        and one undelivered row per attached sink. Returns those that are stored: a task whose lease is not held any
        more is skipped."""

    def put_off(self, tasks: Sequence[tuple[Task, float]]) -> None:
        """Give leases back unused, with other instants at which the tasks are due. Stored with the next commit, within
        a second; until then they cannot be claimed. A crash before it leaves the earlier instants."""

    def release(self, tasks: Sequence[Task]) -> None:
        """Give leases back unused."""

    def save_account(self, name: str, state: AccountState) -> None:
        """Note the account's state; stored with the next commit, within a second."""

    def save_knowledge(self, name: str, knowledge: bytes) -> None:
        """Note what was learned, such as how long imports take; stored with the next commit, within a second."""

    async def flush(self) -> None:
        """Return when everything noted so far is on disk, `save_account` included."""


class StartStore(Protocol):
    """The rows that have no task yet. A row's lease is in memory: it ends with `settle`, `release` or the process."""

    async def claim(self, account: str, limit: int, *, unsure: bool = False) -> list[Row]:
        """Lease up to `limit` due rows, longest due first; with `unsure`, only of those whose start got no answer."""

    async def next_due_at(self, account: str) -> float | None:
        """Return when the earliest row that is not leased is due; None if there is none."""

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        """Store that a POST is about to leave, as one whose answer is lost: a crash from here on leaves the row unsure,
        due at `due_at`. Returns the row as stored once that is on disk; only then may the first byte leave."""

    async def settle(self, row: Row, decision: Begin | StartAgain | EndRow, record: Record | None = None) -> bool:
        """Store what a certain answer to the start that `intend` stored means, and end the lease. `record`: the row's
        outcome, with `EndRow`. False, and nothing stored, where the id in `Begin` is another task's: the answer was not
        this row's."""

    async def end_unsent(self, row: Row, record: Record) -> None:
        """Store the outcome of an unsure row that is not sent again, and end the lease."""

    def release(self, rows: Sequence[Row]) -> None:
        """End leases; the rows are as they are stored."""

    async def backlog(self, account: str, limit: int) -> int:
        """Return how many rows have no task; counts no further than `limit`."""

    async def underway(self, account: str) -> int:
        """Return how many tasks of rows have no outcome."""

    async def unsure_due(self, account: str, limit: int) -> list[float]:
        """Return when rows are due whose start got no answer and that are not leased: the earliest `limit`."""

    async def landed(self, account: str, limit: int) -> int:
        """Return how many rows became a file; counts no further than `limit`."""


class DeliveryStore(Protocol):
    """The outbox of every sink."""

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        """Make these, and only these, the sinks of the run; return each one's noted position. A sink gets everything
        that finished while it was not attached, also before it was first named."""

    async def positions(self, sinks: Sequence[str]) -> Mapping[str, bytes | None]:
        """Return each sink's noted position, None for one without; changes nothing."""

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        """Return the first undelivered records that are safely on disk, in the order in which they finished: up to
        `limit`, fewer where those before the last of them have `LARGEST_PAGE` bytes."""

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        """Take the batch out of the sink's outbox, note its position if it has one, keep the refused as dead letters.
        A second time changes nothing."""

    async def note_position(self, sink: str, position: bytes | None) -> None:
        """Note a sink's position by itself, after `Sink.open`."""

    async def mark_position(self, sink: str, position: bytes) -> None:
        """Note a sink's position for each record that it takes: survives the end of the process. A power cut may lose
        the latest marks, so that it is cheap."""

    async def replay(self, sink: str, selection: Selection, *, from_start: bool = False) -> int:
        """Put the selected records that are kept back into the sink's outbox, dead letters too; return how many. One
        that is undelivered already stays as it is. `from_start` forgets the sink's position in the same transaction.
        Raises `ConfigError` for a sink that the state does not know."""


class StateReader(Protocol):
    """What a state contains, also for a process that only reads it while its owner runs. One answer, one instant."""

    async def sums(self) -> Sums:
        """Count everything from the rows themselves."""

    async def sources(self, limit: int) -> Sequence[SourceSums]:
        """Return where the lines of the latest sources went, in the order of their beginning."""

    async def known_lines(self, chunk: Chunk) -> Mapping[str, KnownLines]:
        """Return by account how many usable lines of `chunk` have a task already, in a state that holds them."""

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""

    async def waiting_of(self, accounts: Collection[str]) -> int:
        """Return how many tasks without an outcome, and rows without a task, these accounts have: some 20 ms for a
        million."""

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `save_knowledge` last noted under this name; None if nothing."""

    async def last_fed_at(self) -> float | None:
        """Return when the last task was fed; None where there is none."""

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""

    async def find_tasks(
        self,
        wanted: TaskFilter,
        *,
        after: int = 0,
        limit: int,
        is_late: Callable[[], bool] = lambda: False,
        with_bodies: bool = False,
    ) -> TaskPage:
        """Return up to `limit` tasks that match, in the order in which they were fed, then rows without a task in
        theirs, from those beyond the key `after`. Ends early once `is_late`, which another thread may call. The event
        loop does not wait for a long search."""

    async def fleet_view(self) -> FleetView | None:
        """Return who is in the fleet that uses the state; None where it has no member."""

    async def fleet_published(self) -> Sequence[Published]:
        """Return the latest status of each member of the fleet that published one."""

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`: up to
        `limit`, fewer where those before the last of them have `LARGEST_PAGE` bytes."""

    async def rows_without_task(self, row: str) -> Sequence[Row]:
        """Return the rows without a task that have this identity, one for each account that has it, by account."""

    async def start_bodies(self, account: str, rows: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bodies of the start calls of these rows of the account, by row, as far as they are kept."""

    async def oldest_waiting(self) -> float | None:
        """Return when the task that waits longest for its outcome was fed; None if none waits."""

    async def dead_letters(
        self,
        sink: str | None = None,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_bodies: bool = False,
    ) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first: the first `limit`, or all."""

    async def count_dead(self, sink: str | None = None) -> int:
        """Return how many records the sink, or any sink, refused for good."""

    async def close(self) -> None:
        """Close the state, after a commit of what is pending. A second call does nothing."""


class Store(FeedStore, PollStore, DeliveryStore, StateReader, Protocol):
    """The queue, the schedule and the outbox in one: the only durable truth.

    What a method wrote is on disk when it returns, except by `save_account`, `save_knowledge`, `put_off` and
    `release`. While the disk is full, writing methods wait and go on when there is room. `StoreError`: the state cannot
    be trusted, stop.
    """

    @property
    def starts(self) -> StartStore:
        """The rows to import."""

    @property
    def fleet(self) -> Membership | None:
        """This process's place in a fleet; None where it is the state's one owner."""

    @property
    def writable(self) -> bool:
        """False while writing methods wait, for a disk that is full or a server that is out of reach."""

    @property
    def unwritable_reason(self) -> str:
        """What writing methods wait for; empty while `writable`."""

    def beat(self) -> None:
        """Note the owner's heartbeat, which `poller healthcheck` sees from outside; every commit does so too."""

    async def rebase_instants(self) -> float:
        """Move what an earlier run stored by a clock that was set while it ran, as it noted, or that was ahead of ours;
        return by how many seconds that one was ahead, 0.0 where nothing moved. Called before the run uses the state:
        the age and the waits of its tasks stay what they were."""

    async def index_rows(self, limit: int) -> int:
        """Index the ids and rows of up to `limit` tasks for `find_tasks`, the oldest that are not indexed; return the
        number. Only full runs are indexed. What is not indexed is found as well, but by reading it."""

    async def prune(self, before: float, limit: int, walk: PruneWalk | None = None) -> int:
        """Delete up to `limit` tasks that finished before the instant; return how many: fewer where `walk`, or a new
        one, has come to its end. Keeps what an attached sink lacks or refused, and examines it in portions that hold
        nothing up. The counts stay in `sums`; a pruned id that is fed once more is a new task."""
