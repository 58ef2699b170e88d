"""Apply settings that changed while a run is at work; nothing is lost or doubled, and what cannot change is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from poller.app import build
from poller.app.build import Builder
from poller.config import AccountSettings, Settings
from poller.core.errors import PollerError, SinkError
from poller.core.protocols import TokenSource
from poller.engine import DeliveryLoop, Lane, Service
from poller.sinks import SinkSpec
from poller.sources import check_sources

log = structlog.get_logger()

RESULT = "reload"  # the store keeps under this name what came of the latest reload, for `poller reload` to read

_LIVE = frozenset(AccountSettings.model_fields) | {
    "account", "accounts", "input", "sources", "sinks", "log", "retention_s", "shutdown_s", "give_up_s",
}  # fmt: skip
_OF_CLIENT = ("base_url", "status_path", "token_env", "token_file", "oauth", "request_timeout_s", "max_body_bytes")
_OF_TIMING = ("polling", "deadline_s", "expect_result", "status_path")


class Reload:
    """Keeps a run's settings, and applies other ones."""

    def __init__(self, settings: Settings, inputs: Sequence[str], service: Service, builder: Builder) -> None:
        self._settings = settings
        self._inputs = inputs
        self._service = service
        self._builder = builder
        self._count = 0

    async def whenever_asked(self) -> None:
        """Reload each time that `service.reload_asked` is set."""
        while True:
            await self._service.reload_asked.wait()
            self._service.reload_asked.clear()
            if not self._service.is_ending:
                await self.now()

    async def now(self) -> None:
        """Read the settings anew and apply them; where they are wrong, nothing changes and the reason is told."""
        self._count += 1
        result: dict[str, Any]
        try:
            result = await self._apply(self._reread())
        except PollerError as error:
            reason = str(error)
            log.error("config.refused", reason=reason)  # noqa: TRY400 - the traceback says nothing to a person
            result = {"refused": reason}
        else:
            log.info(
                "config.reloaded",
                changed=result["changed"],
                needs_restart=result["needs_restart"],
                left_waiting=result["left_waiting"],
            )
        at = self._builder.environment.clock()
        self._builder.store.save_knowledge(RESULT, orjson.dumps({"count": self._count, "at": at, **result}))
        await self._builder.store.flush()

    def _reread(self) -> Settings:
        reread = self._builder.environment.reread
        return self._settings if reread is None else reread()

    async def _apply(self, wanted: Settings) -> dict[str, Any]:
        old = self._settings
        changed = differences(_told(old), _told(wanted))
        stays = {name: getattr(old, name) for name in type(old).model_fields if name not in _LIVE}
        new = wanted.model_copy(update=stays)
        gone = old.account_settings().keys() - new.account_settings().keys()
        if gone and not self._service.endless:
            new, gone = _with_accounts(new, old), set[str]()
        needs_restart = differences(_told(new), _told(wanted))
        sources = build.sources(new, self._inputs)
        check_sources(source for source in sources if source not in self._service.ingest.sources)
        tokens, lanes = await self._prepare_accounts(new)
        await self._change_sinks(new)
        await self._change_accounts(new, tokens, lanes)
        self._service.endless |= build.is_endless(new, sources)
        await self._service.ingest.change(sources)
        left_waiting = [name for name in sorted(gone) if await self._end_account(name)]
        self._service.apply(retention_s=new.retention_s, shutdown_s=new.shutdown_s, give_up_s=new.give_up_s)
        self._builder.environment.set_log(new)
        self._settings = new
        live = [name for name in changed if name not in needs_restart]
        return {"changed": live, "needs_restart": needs_restart, "left_waiting": left_waiting}

    # --- accounts

    async def _prepare_accounts(self, new: Settings) -> tuple[dict[str, TokenSource], list[Lane]]:
        """Return the token sources that changed, and the new accounts: what may be refused."""
        old, wanted = self._settings.account_settings(), new.account_settings()
        tokens = {
            name: await self._builder.tokens(account)
            for name, account in wanted.items()
            if name in old and _differ(old[name], account, _OF_CLIENT)
        }
        return tokens, [await self._builder.lane(name, new, self._service) for name in wanted if name not in old]

    async def _change_accounts(self, new: Settings, tokens: Mapping[str, TokenSource], lanes: Sequence[Lane]) -> None:
        old, builder = self._settings.account_settings(), self._builder
        for name, account in new.account_settings().items():
            if name not in old:
                continue
            lane = self._service.lanes[name]
            if name in tokens:
                lane.use_client(builder.client(name, account, tokens[name]))
            if new.give_up_s != self._settings.give_up_s or _differ(old[name], account, _OF_TIMING):
                lane.keep_knowledge()
                lane.retune(account.polling_rules(), await builder.timing(name, account), new.give_up_s)
            news = tokens[name].has_changed if name in tokens else None
            builder.gates[name].retune(build.gate_limits(account), has_new_token=news)
        for lane in lanes:
            self._service.begin_lane(lane)

    async def _end_account(self, name: str) -> bool:
        """End an account's work; tell whether tasks of it stay behind, waiting."""
        await self._service.end_lane(name)
        return await self._builder.store.next_due_at(name) is not None

    # --- sinks

    async def _change_sinks(self, new: Settings) -> None:
        """Open new sinks, and anew those whose options changed or that had stopped; then let go of what is not wanted.
        Where one cannot be opened, all is as it was."""
        old_specs, new_specs = build.sink_specs(self._settings), build.sink_specs(new)
        current = dict(zip([loop.sink.name for loop in self._service.delivery_loops], old_specs, strict=True))
        kept = {
            loop.sink.name: loop
            for loop in self._service.delivery_loops
            if current[loop.sink.name] in new_specs and not _is_to_be_opened_anew(loop, current[loop.sink.name])
        }
        fresh = {
            spec_number: self._builder.delivery_loop(spec, new)
            for spec_number, spec in enumerate(new_specs)
            if not any(current[name] == spec for name in kept)
        }
        by_spec = {_key(current[name]): loop for name, loop in kept.items()}
        wanted = [fresh.get(number) or by_spec[_key(spec)] for number, spec in enumerate(new_specs)]
        build.refuse_same_names(wanted)
        if fresh or len(wanted) != len(self._service.delivery_loops):
            await self._exchange(list(fresh.values()), wanted, current)

    async def _exchange(
        self, fresh: list[DeliveryLoop], wanted: list[DeliveryLoop], current: Mapping[str, SinkSpec]
    ) -> None:
        service, store = self._service, self._builder.store
        names = [loop.sink.name for loop in fresh]
        replaced = [loop for loop in service.delivery_loops if loop.sink.name in names]
        for loop in replaced:
            await service.end_delivery(loop)
        positions = await store.attach_sinks(list(dict.fromkeys([*current, *names])))
        try:
            for loop in fresh:
                await loop.open(positions[loop.sink.name])
        except PollerError:
            for loop in fresh:
                await loop.sink.close()
            await self._put_back(replaced, current)
            raise
        for loop in fresh:
            service.begin_delivery(loop)
        for loop in [each for each in service.delivery_loops if each not in wanted]:
            await service.end_delivery(loop, is_to_deliver=True)
        service.delivery_loops = wanted
        await store.attach_sinks([loop.sink.name for loop in wanted])

    async def _put_back(self, replaced: Sequence[DeliveryLoop], current: Mapping[str, SinkSpec]) -> None:
        """Open sinks again as they were. One that had stopped before, and cannot be opened, stays stopped."""
        positions = await self._builder.store.attach_sinks(list(current))
        for before in replaced:
            again = self._builder.delivery_loop(current[before.sink.name], self._settings)
            try:
                await again.open(positions[again.sink.name])
            except SinkError as error:
                again.stopped_by, again.backlog_reason = error, str(error)
            self._service.begin_delivery(again)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Return the dotted names of settings that differ; a table that came or went is one."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{at}{name}.")
        elif one != other:
            found.append(f"{at}{name}")
    return found


def _told(settings: Settings) -> dict[str, Any]:
    """What accounts merely inherit stands at the top."""
    values = settings.model_dump()
    top = {name: values[name] for name in AccountSettings.model_fields}
    for name, own in values["accounts"].items():
        values["accounts"][name] = {key: value for key, value in own.items() if value != top[key]}
    return values


def _with_accounts(new: Settings, old: Settings) -> Settings:
    """A run that ends with its work keeps the accounts it began with: their tasks could not end any more."""
    accounts = old.account_settings() | new.account_settings()
    return new.model_copy(update={"accounts": accounts})


def _differ(old: AccountSettings, new: AccountSettings, names: Sequence[str]) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in names)


def _is_to_be_opened_anew(loop: DeliveryLoop, spec: SinkSpec) -> bool:
    """What stopped for a person to act, and what reads a secret from a file."""
    return loop.stopped_by is not None or any(key.endswith("_file") for key in spec if not isinstance(spec, str))


def _key(spec: SinkSpec) -> str:
    return repr(spec)
