"""A HubSpot that knows who sent each request: the token of replica `r3` for account `acct7` is `acct7.r3`."""

import time
from collections.abc import Sequence
from dataclasses import replace

import orjson

from campaign.fleet.history import Arrival
from poller.sandbox import SandboxApi, Scenario
from poller.sandbox.reply import SandboxReply, SandboxRequest


class StrictHubspot(SandboxApi):
    """One simulated account for each name, each with its own tasks, limit and window, and a history of arrivals."""

    def __init__(self, scenario: Scenario, accounts: Sequence[str]) -> None:
        super().__init__(scenario, time.time)
        self.arrivals: list[Arrival] = []
        self.accounts = {
            name: SandboxApi(replace(scenario, seed=scenario.seed + number), time.time)
            for number, name in enumerate(accounts, start=1)
        }

    def respond(self, request: SandboxRequest) -> SandboxReply:
        """Answer for the account that the token names. Raises `KeyError` for a token of no account."""
        account, _, replica = (request.token or "").partition(".")
        at = time.time()
        reply = self.accounts[account].respond(request)
        self.arrivals.append(
            Arrival(
                at=at,
                account=account,
                replica=replica,
                task_id=request.path.split("/")[-2] if request.method == "GET" else "",
                is_final=_is_final(reply),
            )
        )
        return reply

    def started(self) -> list[tuple[str, str, float]]:
        """Return account, URL and instant of every start call that was read, accepted or not."""
        return [(name, url, at) for name, api in self.accounts.items() for at, url in api.starts.posts]


def _is_final(reply: SandboxReply) -> bool:
    if reply.code in (400, 404):
        return True
    return reply.code == 200 and orjson.loads(reply.body).get("status") in ("COMPLETE", "CANCELED")
