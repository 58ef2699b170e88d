"""`python -m bench PART`, a part such as `polls`: measure, print a table and the machine's data."""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from bench.contenders import CONTENDERS
from bench.finding import finding
from bench.fleet import fleet
from bench.postgres import postgres
from bench.server import cores, free_port, pinned, serving
from bench.service import Run, instant, run_service

SERVICE = "poller"
IMPORTING = {
    "POLLER_INPUT__FEEDS": "imports",
    "POLLER_IMPORTS__OPTIONS": '{"access": "PRIVATE", "folderPath": "/products/{brand}", "name": "{sku}"}',
}
IDS_A_REQUEST = 10_000  # the most that a request may hold
SLOW = {"httpx": 0.05, "official": 0.05, "official_kept": 0.1}  # share of the polls: these are that much slower


def polls(args: argparse.Namespace) -> None:
    """Every contender against the same server in turn, `rounds` times; the service with all its promises. Of bare: the
    median of the ratios of each round, for neighbours on the machine slow both."""
    server_core, core = cores()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in [*args.contenders, SERVICE]}
    policy = {"POLLER_POLLING__POLICY": "learned"} if args.learned else {}
    tasks = args.polls if args.finishing else args.polls // 3
    with serving(server_core, cookies=args.cookies, finishing=args.finishing) as base_url:
        for _ in range(args.rounds):
            for name in args.contenders:
                found[name].append(_contend(name, base_url, int(args.polls * SLOW.get(name, 1)), core))
            found[SERVICE].append(_serve(base_url, tasks, core, **policy))
    rate = {name: median(each[0] for each in rounds) for name, rounds in found.items()}
    cost = {name: median(each[1] for each in rounds) for name, rounds in found.items()}
    print(f"{'':14} polls/s  of bare  processor µs a poll  of bare  peak MB")
    for name, rounds in found.items():
        peak = max(each[2] for each in rounds)
        rate_of_bare, cost_of_bare = (
            median(mine[part] / bare[part] for mine, bare in zip(rounds, found["bare"], strict=True)) for part in (0, 1)
        )
        print(
            f"{name:14} {rate[name]:7.0f} {rate_of_bare:8.2f} {cost[name] * 1e6:19.0f} {cost_of_bare:8.2f} {peak:8.0f}"
        )


def feeding(args: argparse.Namespace) -> None:
    """Ids, then rows to import, from a file into a state on disk, with no API to ask: a run that is drained once the
    input has ended."""
    for kind, make_id in (("ids in order", _ordered), ("random ids", _random)):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            run = _fed(folder, _ids(folder, args.tasks, make_id))
            _print_feeding(kind, run, args.tasks)
            run, taken_s = _fed_over_http(folder / "http", args.tasks // 5, make_id)
            print(f"{'':4}over HTTP {args.tasks // 5 / taken_s:7.0f} ids/s, peak {run.peak_mb:.0f} MB")

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, rows = Path(name), args.tasks // 5
        _print_feeding("rows", _fed(folder, _rows(folder, rows), **IMPORTING), rows)


def _print_feeding(kind: str, run: Run, lines: int) -> None:
    began, ended = (_event(run, event) for event in ("source.opened", "source.ended"))
    processor_s = run.processor(ended) - run.processor(began)
    print(
        f"{kind:13} {lines / (ended - began):8.0f}/s, processor {processor_s / lines * 1e6:.2f} µs each"
        f" ({lines / processor_s:.0f}/s), peak {run.peak_mb:.0f} MB"
    )


def scale(args: argparse.Namespace) -> None:
    """A state of N waiting tasks: time to the first poll, polls a second, memory."""
    server_core, core = cores()
    for tasks in args.tasks:
        with tempfile.TemporaryDirectory(prefix="bench-") as name, serving(server_core) as base_url:
            folder = Path(name)
            _fed(folder, _ids(folder, tasks, _random if args.random else _ordered))
            settings = {"POLLER_LOG__LEVEL": "debug", "POLLER_REQUESTS": "100"}
            time.sleep(2.1)  # the window of the run that fed
            first = run_service(folder, base_url, [], core=core, until="poll.answered", **settings)
            waited_s = _event(first, "poll.answered") - first.began_at
            time.sleep(2.1)
            run = run_service(folder, base_url, [], core=core, seconds=args.seconds)
            rate, cost = run.polls()
            print(
                f"{tasks:9} tasks: first poll after {waited_s:.2f} s, {rate:.0f} polls/s, processor {cost * 1e6:.0f} µs"
                f" a poll, peak {max(first.peak_mb, run.peak_mb):.0f} MB"
            )


def startup(args: argparse.Namespace) -> None:
    """The command line's own start."""
    program = Path(sys.executable).parent / "poller"
    for flags in (["--version"], ["--help"], ["run", "--help"]):
        taken = []
        for _ in range(args.rounds):
            began = time.perf_counter()
            subprocess.run([program, *flags], check=True, capture_output=True)
            taken.append(time.perf_counter() - began)
        print(f"poller {' '.join(flags):10} best {min(taken):.3f} s, median {median(taken):.3f} s")


def _contend(name: str, base_url: str, number: int, core: int | None) -> tuple[float, float, float]:
    command = [sys.executable, "-m", "bench.contenders", name, base_url, str(number)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=pinned(core)
    )
    made, wall_s, processor_s, peak_mb = map(float, done.stdout.split())
    return made / wall_s, processor_s / made, peak_mb


def _serve(base_url: str, tasks: int, core: int | None, **environ: str) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        run = run_service(folder, base_url, [_ids(folder, tasks, _ordered)], core=core, **environ)
        if run.exit_code != 0:
            raise SystemExit(f"the service ended with {run.exit_code}: {run.events[-1]}")
        return (*run.polls(), run.peak_mb)


def _fed(folder: Path, lines: Path, **environ: str) -> Run:
    """Feed a state while nothing can be polled: the API is a port without a server."""
    environ = {"POLLER_WORKERS": "1", **environ}
    return run_service(folder, "http://127.0.0.1:9", [lines], core=cores()[1], until="source.ended", **environ)


def _rows(folder: Path, count: int) -> Path:
    """Return a CSV of URLs with five more columns, of which two are in templates."""
    file = folder / "rows.csv"
    with file.open("w") as rows:
        rows.write("url,sku,brand,title,price,stock\n")
        for n in range(count):
            url = f"https://cdn.example.com/catalogue/{n:08}.png"
            rows.write(f"{url},{n:08},brand{n % 40},A product of some name {n},{n % 997}.95,{n % 13}\n")
    return file


def _fed_over_http(folder: Path, tasks: int, make_id: Callable[[int], str]) -> tuple[Run, float]:
    """Feed the most ids a request may hold, one request after the other, over one connection."""
    folder.mkdir()
    port, taken_s = free_port(), 0.0
    ids = [f"{make_id(number)}\n" for number in range(tasks)]
    bodies = ["".join(ids[at : at + IDS_A_REQUEST]) for at in range(0, tasks, IDS_A_REQUEST)]

    def post_all() -> None:
        nonlocal taken_s
        connection = _connected(port)
        began = time.perf_counter()
        for body in bodies:
            connection.request("POST", "/v1/tasks", body, {"Content-Type": "text/plain"})
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise SystemExit(f"the service answered {answer.status}: {answer.read(500)!r}")
            answer.read()
        taken_s = time.perf_counter() - began

    listen = f"127.0.0.1:{port}"
    no_api = "http://127.0.0.1:9"
    settings = {"POLLER_WORKERS": "1", "POLLER_LISTEN": listen, "POLLER_FOLLOW": "true"}
    run = run_service(folder, no_api, [], core=cores()[1], while_running=post_all, **settings)
    return run, taken_s


def _connected(port: int) -> HTTPConnection:
    """Wait for the service to be up."""
    until = time.monotonic() + 10
    while True:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return connection


def _event(run: Run, name: str) -> float:
    return next(instant(event) for event in run.events if event["event"] == name)


def _ids(folder: Path, tasks: int, make_id: Callable[[int], str]) -> Path:
    path = folder / "ids.txt"
    with path.open("w") as file:
        file.writelines(f"{make_id(number)}\n" for number in range(tasks))
    return path


def _ordered(number: int) -> str:
    return f"AAAA{number:010d}"


_CHANCE = random.Random(1)  # noqa: S311 - ids for a measurement


def _random(_number: int) -> str:
    return urlsafe_b64encode(_CHANCE.randbytes(9)).decode()


def _print_machine() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("polls", help=polls.__doc__)
    part.add_argument("--polls", type=int, default=60_000)
    part.add_argument("--rounds", type=int, default=3)
    part.add_argument("--cookies", action="store_true", help="every answer sets a cookie, as API fronts do")
    part.add_argument("--finishing", action="store_true", help="every poll finds its task finished, not a third")
    part.add_argument("--learned", action="store_true", help="the service by its default policy, not by fixed gaps")
    part.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="with bare")
    part.set_defaults(measure=polls)
    part = parts.add_parser("feeding", help=feeding.__doc__)
    part.add_argument("--tasks", type=int, default=1_000_000)
    part.set_defaults(measure=feeding)
    part = parts.add_parser("scale", help=scale.__doc__)
    part.add_argument("--tasks", type=int, nargs="+", default=[10_000, 1_000_000])
    part.add_argument("--seconds", type=float, default=15.0)
    part.add_argument("--random", action="store_true", help="ids in no order")
    part.set_defaults(measure=scale)
    part = parts.add_parser("startup", help=startup.__doc__)
    part.add_argument("--rounds", type=int, default=10)
    part.set_defaults(measure=startup)
    part = parts.add_parser("postgres", help=postgres.__doc__)
    part.add_argument("--parts", nargs="+", default=["polls", "feeding", "waiting"])
    part.add_argument("--trees", nargs="+", default=["."], help="checkouts to compare, each round in turn")
    part.add_argument("--polls", type=int, default=60_000)
    part.add_argument("--accounts", type=int, default=1)
    part.add_argument("--fed", type=int, default=300_000)
    part.add_argument("--waiting", type=int, default=1_000_000)
    part.add_argument("--seconds", type=float, default=15.0)
    part.add_argument("--rounds", type=int, default=3)
    part.set_defaults(measure=postgres)
    part = parts.add_parser("fleet", help=fleet.__doc__)
    part.add_argument("--parts", nargs="+", default=["rest", "work"])
    part.add_argument("--members", type=int, default=8)
    part.add_argument("--accounts", type=int, default=200)
    part.add_argument("--seconds", type=float, default=20.0)
    part.set_defaults(measure=fleet)
    part = parts.add_parser("finding", help=finding.__doc__)
    part.add_argument("--tasks", type=int, default=1_000_000)
    part.add_argument("--state", help="a file that is kept, and used where it exists")
    part.add_argument("--postgres", action="store_true", help="a state in a PostgreSQL server of its own")
    part.set_defaults(measure=finding)
    args = parser.parse_args()
    args.measure(args)
    _print_machine()


if __name__ == "__main__":
    main()
