"""Bugs of a fleet to plant. `python -m campaign.fleet --plant NAME` runs one under fire, too, and
`--find` runs the trials that find those of `FOUND_BY`.
"""

from collections.abc import Mapping

from campaign.planted.bug import Bug

ACCOUNTS, WRITER = "poller/store/postgres/fleet/accounts.py", "poller/store/postgres/fleet/writer.py"
WINDOWS = "poller/hubspot/limits/windows.py"
FENCE, TURNS = ("store/test_fleet_fence",), ("engine/fleet/test_turns",)

FLEET_BUGS = (
    Bug(
        name="pruning-before-the-order-of-records",
        file="poller/store/postgres/outbox.py",
        old='f"SELECT pg_advisory_xact_lock({RECORD_ORDER}); LOCK TABLE',
        new='f"LOCK TABLE',
        tests=("store/test_fleet_sinks",),
    ),
    Bug(
        name="a-taken-sink-locked-against-recording",
        file="poller/store/postgres/fleet/sinks.py",
        old="FOR NO KEY UPDATE SKIP LOCKED",
        new="FOR UPDATE SKIP LOCKED",
        tests=("store/test_fleet_sinks",),
    ),
    Bug(
        name="a-member-trusts-itself-forever",
        file="poller/engine/fleet/trust.py",
        old="        return self.age_s < self._trust_s\n",
        new="        return self._beaten is not None\n",
        tests=TURNS,
    ),
    Bug(
        name="an-account-of-a-killed-member-is-used-at-once",
        file=WINDOWS,
        old="            self.fill(self.longest.hold_s + handover.settle_s, now)\n",
        new="            pass\n",
        tests=TURNS,
    ),
    Bug(
        name="a-wait-is-forgotten-when-its-account-is-given-away",
        file=WINDOWS,
        old="        if self.in_flight or self._full_until > now:\n            return None\n",
        new="        if self.in_flight:\n            return None\n",
        tests=TURNS,
    ),
    Bug(
        name="a-buried-member-may-write",
        file=WRITER,
        old="        if cursor.rowcount != 1:\n            raise self._fenced()\n",
        new="",
        tests=FENCE,
    ),
    Bug(
        name="a-record-does-not-ask-for-the-owner",
        file=ACCOUNTS,
        old="a.epoch = x.epoch AND a.owner = %s RETURNING t.key, t.polls",
        new="%s IS NOT NULL RETURNING t.key, t.polls",
        tests=FENCE,
    ),
    Bug(
        name="records-are-numbered-in-no-order",
        file=WRITER,
        old='    f"SELECT pg_advisory_xact_lock({RECORD_ORDER});"  # noqa: S608 - a constant\n    " WITH new',
        new='    f"SELECT {RECORD_ORDER};"  # noqa: S608 - a constant\n    " WITH new',
        tests=FENCE,
    ),
    Bug(
        name="the-order-of-records-is-locked-early",
        file=ACCOUNTS,
        old="    stored: set[int] = set()\n    polled = [",
        new="    stored: set[int] = set()\n"
        "    order = '(1349479538::bigint << 32) | to_regnamespace(current_schema())::oid::bigint'\n"
        "    await connection.execute(f'SELECT pg_advisory_xact_lock({order})'.encode())\n    polled = [",
        tests=FENCE,
    ),
    Bug(
        name="an-account-is-free-where-no-member-seems-to-own-it",
        file=ACCOUNTS,
        old="FROM account WHERE owner IS NULL AND name = ANY (%s)",
        new="FROM account c WHERE NOT EXISTS (SELECT FROM replica r WHERE r.id = c.owner) AND name = ANY (%s)",
        tests=("store/test_fleet",),
    ),
    Bug(
        name="a-start-does-not-ask-for-the-owner",
        file="poller/store/postgres/fleet/starts.py",
        old='sql = "SELECT FROM account WHERE id = %s AND owner = %s AND epoch = %s"',
        new='sql = "SELECT FROM account WHERE id = %s AND %s::bigint IS NOT NULL AND epoch = %s"',
        tests=FENCE,
    ),
    Bug(
        name="starts-that-a-failover-lost-are-forgotten",
        file="poller/store/postgres/fleet/membership.py",
        old="        await self._read(self._restore)\n",
        new="",
        tests=("store/test_fleet_outage",),
    ),
    Bug(
        name="a-member-that-is-cut-off-in-mid-message-is-never-buried",
        file="poller/store/postgres/fleet/members.py",
        old="        await end_sessions(connection, [name for (name,) in locked])\n",
        new="",
        tests=("store/test_fleet_outage",),
    ),
    Bug(
        name="a-member-goes-by-its-machines-clock",
        file="poller/app/compose.py",
        old='            clock.move(await store.fleet.server_ahead_s(), since="the server of the state")\n',
        new="            pass\n",
        tests=("service/test_fleet",),
    ),
    Bug(
        name="sessions-of-broken-connections-wait-for-locks-until-the-server-is-full",
        file="poller/store/postgres/dsn.py",
        old="            for name, value, condition in NOT_EVERYWHERE\n",
        new="            for name, value, condition in NOT_EVERYWHERE[1:]\n",
        tests=("store/test_fleet_outage",),
    ),
    Bug(
        name="a-pool-in-transaction-mode-is-taken-for-a-session",
        file="poller/store/postgres/connection.py",
        old="                if theirs == mine or await backend_of(connection) != mine:\n",
        new="                if theirs == mine != mine:\n",
        tests=("store/test_pooler",),
    ),
    Bug(
        name="a-heartbeat-hangs-where-its-new-connection-freezes",
        file="poller/store/postgres/fleet/heart.py",
        old="            await answered(self._listen(connection), connection, within_s=CONNECT_WITHIN_S)\n",
        new="            await self._listen(connection)\n",
        tests=("store/test_fleet_outage",),
    ),
    Bug(
        name="hints-that-a-broken-connection-lost-are-forgotten",
        file="poller/store/postgres/fleet/heart.py",
        old="        self._heard.add(MISSED)\n",
        new="",
        tests=("store/test_fleet_outage",),
    ),
    Bug(
        name="rows-wait-where-their-owner-polls-ids",
        file="poller/engine/fleet/turns.py",
        old="for account in await self._membership.with_rows(asked):",
        new="for account in ():",
        tests=("service/test_fleet_imports",),
    ),
    Bug(
        name="a-trial-that-fails-stops-one-replica-after-the-other",
        file="poller/app/build.py",
        old="on_trial_failed=None if service.is_member else _stop_after_trial(service),",
        new="on_trial_failed=_stop_after_trial(service),",
        tests=("service/test_fleet_imports",),
    ),
    Bug(
        name="a-buried-member-reads-on-where-it-was-in-its-files",
        file="poller/engine/fleet/turns.py",
        old="        await self._service.ingest.leave_off()  # a failover may have taken the position back\n",
        new="",
        tests=("service/test_fleet",),
    ),
)

# The invariant that each of these breaks, and the trial that shows it in a minute or two. `--rest 0`: it waits for no
# outcomes.
FOUND_BY: Mapping[str, tuple[str, str]] = {
    "a-member-trusts-itself-forever": (
        "no_request_comes_from_a_replaced_owner",
        "--kinds freeze --seconds 60 --accounts 12 --seed 1 --rest 0",
    ),
    "an-account-of-a-killed-member-is-used-at-once": (
        "no_request_comes_before_the_wait_of_an_unclean_change",
        "--kinds kill --seconds 35 --every 3 --accounts 4 --seed 1 --rest 0",
    ),
    "a-wait-is-forgotten-when-its-account-is-given-away": (
        "no_request_comes_before_the_wait_of_an_unclean_change",
        "--kinds kill --window 10 --seconds 40 --every 6 --seed 1 --rest 0",
    ),
    "a-buried-member-may-write": (
        "no_buried_member_writes",
        "--kinds freeze --seconds 35 --accounts 4 --seed 1 --rest 0",
    ),
    "the-order-of-records-is-locked-early": (
        "no_client_holds_the_order_of_records",
        "--kinds partition freeze --seconds 20 --every 3 --seed 1 --rest 0",
    ),
    "starts-that-a-failover-lost-are-forgotten": (
        "no_row_is_started_twice_but_flagged",
        "--kinds failover --seconds 20 --every 3 --accounts 4 --seed 3010",
    ),
    "an-account-is-free-where-no-member-seems-to-own-it": (
        "no_account_is_taken_from_a_member",
        "--kinds kill kill slow --seconds 50 --every 3 --replicas 4 --accounts 24 --seed 1 --rest 0",
    ),
}
