"""Answers the start call: checks it, accepts it, applies the faults of starts, and lets the downloads land in order."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from poller.core.protocols import Clock
from poller.sandbox import reply as replies
from poller.sandbox.faults import UNACCEPTED, spoil_start
from poller.sandbox.file_store import FileStore, StoredFile
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.sandbox.scenario import START_FAULTS, Scenario, chance, pick
from poller.sandbox.start_call import StartOptions, read_start
from poller.sandbox.tasks import STATUS_HOST, SimulatedTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """How a download ended; `file` is None where a duplicate rejected it."""

    file: StoredFile | None


class Starts:
    """All start calls of one simulated HubSpot, and the files that they become."""

    def __init__(
        self, scenario: Scenario, clock: Clock, *, begin: Callable[[str], str], task: Callable[[str], SimulatedTask]
    ) -> None:
        """`begin` starts an import of a URL and returns its id; `task` returns its whole life."""
        self.files = FileStore(duplicates_by=scenario.duplicates_by)
        self.posts: list[tuple[float, str]] = []  # when, and the URL, of each valid start call, accepted or not
        self.accepted: Counter[str] = Counter()  # imports by URL
        self.faults: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()  # valid start calls by URL: how often one was sent decides its fault
        self._seed = scenario.seed
        self._shares = {name: share for name, share in scenario.faults.items() if name in START_FAULTS}
        self._clock = clock
        self._begin = begin
        self._task = task
        self._under_way: list[tuple[float, int, SimulatedTask, StartOptions]] = []
        self._landings: dict[str, Landing] = {}

    def respond(self, request: SandboxRequest, correlation_id: str) -> SandboxReply:
        """Return the reply to a start call. Its fault depends on the seed, the URL and how often that was sent, not on
        the order of the requests."""
        if request.method != "POST":
            return replies.html(405, "Error 405 Method Not Allowed")
        self.advance()
        try:
            options = read_start(request.body, request.path)
        except ValueError as message:
            return replies.error(400, "VALIDATION_ERROR", str(message), correlation_id)
        self.posts.append((self._clock(), options.url))
        self._sent[options.url] += 1
        fault = pick(self._shares, chance(self._seed, options.url, self._sent[options.url], "start fault"))
        self.faults.update([fault] if fault else [])
        if fault in UNACCEPTED:
            return spoil_start(SandboxReply(), fault, correlation_id)
        task_id = self._accept(options)
        good = replies.json_reply(
            202, {"id": task_id, "links": {"status": f"{STATUS_HOST}{request.path}/tasks/{task_id}/status"}}
        )
        return spoil_start(good, fault, correlation_id) if fault else good

    def _accept(self, options: StartOptions) -> str:
        task_id = self._begin(options.url)
        self.accepted[options.url] += 1
        task = self._task(task_id)
        if task.makes_file:
            heappush(self._under_way, (task.ends_at, len(self.posts), task, options))
        return task_id

    def advance(self) -> None:
        """Let all downloads land that have ended by now, in the order of their ends."""
        now = self._clock()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, task, options = heappop(self._under_way)
            file = self.files.land(task.task_id, options, task.starts_at)
            self._landings[task.task_id] = Landing(file=file)

    def with_landing(self, task: SimulatedTask) -> SimulatedTask:
        """Return the task with the file that it became, if it has landed as one of a start call."""
        self.advance()
        landing = self._landings.get(task.task_id)
        if landing is None:
            return task
        return replace(task, file=landing.file, is_duplicate=landing.file is None)
