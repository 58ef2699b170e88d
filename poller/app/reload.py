"""Applies changed settings to a run at work: nothing is lost or doubled, and what needs a restart is reported.

`Settings` marks what needs a restart. All other settings are applied here: to sinks, accounts and sources, and through
one `apply` each to the service and to what `run` passes (site, log).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from poller.app import inputs
from poller.app.build import Builder, start_path_of
from poller.app.fleet import FleetRun
from poller.config import AccountSettings, Settings
from poller.core.errors import ConfigError, PollerError, SinkError
from poller.core.request_protocols import TokenSource
from poller.engine import DeliveryLoop, Lane, Service
from poller.engine.import_lane import ImportLane
from poller.sinks import SinkSpec
from poller.sinks.command.sink import CommandSink
from poller.sources import Source, check_sources

log = structlog.get_logger("poller")

# What a run that only delivers does no more: it reads no input, and makes no request.
OF_WORK = frozenset({"account", "accounts", "input", "imports", "sources", *AccountSettings.model_fields})


@dataclass(slots=True)
class Reload:
    """Has a run's settings, and applies other ones."""

    settings: Settings  # in force
    input_specs: Sequence[str]
    service: Service
    builder: Builder
    apply_to_others: Sequence[Callable[[Settings], None]]
    fleet: FleetRun | None = None  # its turns take and give accounts and sinks
    count: int = 0

    async def run(self) -> None:
        """Reload each time that `service.reload_asked` is set."""
        while True:
            await self.service.reload_asked.wait()
            self.service.reload_asked.clear()
            async with self.service.changing():
                await self._reload()

    async def _reload(self) -> None:
        """Read the settings again and apply them. Where they are wrong, nothing changes and the reason is reported."""
        self.count += 1
        result: dict[str, Any]
        try:
            read = self.builder.environment.read_settings
            result = await self._apply(self.settings if read is None else read())
        except PollerError as error:
            reason = str(error)
            log.error("config.refused", reason=reason)  # noqa: TRY400 - a traceback does not help a person
            result = {"refused": reason}
        else:
            log.info(
                "config.reloaded",
                changed=result["changed"],
                needs_restart=result["needs_restart"],
                left_waiting=result["left_waiting"],
            )
        at = self.builder.environment.clock()
        self.builder.store.save_knowledge(
            result_name(self.settings), orjson.dumps({"count": self.count, "at": at, **result})
        )
        await self.builder.store.flush()

    async def _apply(self, wanted: Settings) -> dict[str, Any]:
        """Apply what can be; first what may be refused, then the rest."""
        old, service = self.settings, self.service
        if service.draining:
            raise ConfigError("the run is stopping. The next one reads the settings as they are then")
        fixed = Settings.fixed() | OF_WORK if service.is_ending else Settings.fixed()
        new = wanted.model_copy(update={name: getattr(old, name) for name in fixed})
        if self.fleet is not None:
            new = new.model_copy(update={"sinks": old.sinks})
        new = new.model_copy(update={"input": new.input.model_copy(update={"feeds": old.input.feeds})})
        if new.feeds_imports and not old.feeds_imports:
            raise ConfigError("a source of imports was added to a run of ids: restart it, for its accounts start none")
        removed = old.account_settings().keys() - new.account_settings().keys()
        if removed and not service.endless:
            new, removed = _with_accounts_of(old, new), set[str]()
        needs_restart = differences(_by_name(new), _by_name(wanted))
        sources = inputs.sources(new, self.input_specs)
        check_sources(source for source in sources if source not in service.ingest.sources)
        if self.fleet is None:
            await self._apply_to_accounts(new, sources)
        else:
            async with self.fleet.opening:  # a lane that a turn takes has the old settings by now, or will have the new
                await self._apply_to_accounts(new, sources)
                self.fleet.settings = new
        streams = await service.ingest.change(sources)
        left_waiting: list[str] = []
        if self.fleet is not None:
            await self.fleet.announce()
            self.fleet.reopen_sinks(_must_reopen)
        else:
            left_waiting = [name for name in sorted(removed) if await self._end_account(name)]
        service.apply(retention_s=new.retention_s, shutdown_s=new.shutdown_s, give_up_s=new.give_up_s, trial=new.trial)
        for apply in self.apply_to_others:
            apply(new)
        self.settings = new
        changed = [name for name in differences(_by_name(old), _by_name(wanted)) if name not in needs_restart]
        needs_restart += [f"how {stream} is read" for stream in streams]
        return {"changed": changed, "needs_restart": needs_restart, "left_waiting": left_waiting}

    # --- accounts

    async def _apply_to_accounts(self, new: Settings, sources: Sequence[Source]) -> None:
        """Apply to sinks and accounts what may be refused, then the rest."""
        tokens, lanes = await self._prepare_accounts(new)
        if self.fleet is None:
            await self._apply_to_sinks(new)
        self.service.endless |= inputs.is_endless(new, sources)
        for name, source in tokens.items():
            await self.builder.apply(name, new, source, self.service)
        for lane in lanes:
            self.service.begin_lane(lane)

    async def _prepare_accounts(self, new: Settings) -> tuple[dict[str, TokenSource | None], list[Lane]]:
        """Return the accounts that stay, with their tokens where they changed, and the lanes of new accounts. Raises
        `ConfigError` for one that has no token, or that starts imports and has another API's status path."""
        old, wanted = self.settings.account_settings(), new.account_settings()
        for name, account in wanted.items():
            if new.feeds_imports or isinstance(self.service.lanes.get(name), ImportLane):
                start_path_of(account)
        same_patience = new.give_up_s == self.settings.give_up_s
        tokens = {
            name: None if account == old.get(name) and same_patience else await self.builder.tokens(account)
            for name, account in wanted.items()
            if name in (old if self.fleet is None else self.service.lanes)
        }
        if self.fleet is not None:
            return tokens, []  # its turns take what is new
        return tokens, [await self.builder.lane(name, new, self.service) for name in wanted if name not in old]

    async def _end_account(self, name: str) -> bool:
        """End an account's work; return whether it leaves tasks waiting."""
        await self.service.end_lane(name)
        return await self.builder.store.next_due_at(name) is not None

    # --- sinks

    async def _apply_to_sinks(self, new: Settings) -> None:
        """Open new sinks, and again those that changed or had stopped, and commands that must not see other variables;
        then close those not wanted any more. Where one cannot be opened, restore all."""
        old, loops = self.settings, self.service.deliveries.loops
        specs, hidden_as_before = old.sink_specs, old.secret_variables() == new.secret_variables()
        kept = {
            repr(spec): loop
            for spec, loop in zip(specs, loops, strict=True)
            if (hidden_as_before or not isinstance(loop.sink, CommandSink)) and not _must_reopen(loop, spec)
        }
        wanted = self.builder.delivery_loops(new, kept)
        fresh = [loop for loop in wanted if loop not in kept.values()]
        if fresh or len(wanted) != len(loops):
            current = dict(zip([loop.sink.name for loop in loops], specs, strict=True))
            await self._exchange(fresh, wanted, current)

    async def _exchange(
        self, fresh: list[DeliveryLoop], wanted: list[DeliveryLoop], current: Mapping[str, SinkSpec]
    ) -> None:
        service, store = self.service, self.builder.store
        names = [loop.sink.name for loop in fresh]
        replaced = [loop for loop in service.deliveries.loops if loop.sink.name in names]
        for loop in replaced:
            await service.deliveries.end(loop)
        try:
            positions = await store.positions(names)
            for loop in fresh:
                await loop.open(positions[loop.sink.name])
            await store.attach_sinks(list(dict.fromkeys([*current, *names])))
            await self.builder.count_delivered(names)
        except BaseException as error:
            for loop in fresh:
                await loop.close()
            if isinstance(error, PollerError):
                await self._restore(replaced, current)
            raise
        for loop in fresh:
            service.deliveries.begin(loop)
        removed = [loop for loop in service.deliveries.loops if loop not in wanted]
        for loop in removed:
            await service.deliveries.end(loop, is_to_deliver=True)
        try:
            await store.attach_sinks([loop.sink.name for loop in wanted])
        except PollerError:
            for loop in fresh:
                await service.deliveries.end(loop)
            await self._restore([*replaced, *removed], current)
            by_name = {loop.sink.name: loop for loop in service.deliveries.loops}
            service.deliveries.loops = [by_name[name] for name in current]
            raise
        service.deliveries.loops = wanted

    async def _restore(self, replaced: Sequence[DeliveryLoop], current: Mapping[str, SinkSpec]) -> None:
        """Open sinks again as they were. One that cannot be made or opened any more stops by itself."""
        positions = await self.builder.store.positions(list(current))
        await self.builder.count_delivered([loop.sink.name for loop in replaced])
        for before in replaced:
            loop = before
            try:
                loop = self.builder.delivery_loop(current[before.sink.name], self.settings)
                await loop.open(positions[loop.sink.name])
            except (ConfigError, SinkError) as error:
                loop.fail(error)
            self.service.deliveries.begin(loop)


def result_name(settings: Settings) -> str:
    """Return the store's name for the result of this process's latest reload, which `poller reload` reads."""
    return "reload" if settings.own_replica is None else answer_name(settings.own_replica)


def answer_name(replica: str) -> str:
    """Return the store's name for the result of the latest reload of this replica of a fleet."""
    return f"reload:{replica}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Return the dotted names of settings that differ; a table that was added or removed is one."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{at}{name}.")
        elif one != other:
            found.append(f"{at}{name}")
    return found


def _by_name(settings: Settings) -> dict[str, Any]:
    """Return the settings as people write them: what accounts inherit is only at the top."""
    values = settings.model_dump()
    top = {name: values[name] for name in AccountSettings.model_fields}
    for name, own in values["accounts"].items():
        values["accounts"][name] = {key: value for key, value in own.items() if value != top[key]}
    return values


def _with_accounts_of(old: Settings, new: Settings) -> Settings:
    """A run that ends with its work keeps all its accounts: without them, their tasks could not finish."""
    return new.model_copy(update={"accounts": old.account_settings() | new.account_settings()})


def _must_reopen(loop: DeliveryLoop, spec: SinkSpec) -> bool:
    """Whether a sink with the same spec is opened again: it had stopped, or reads a secret from a file."""
    return loop.stopped_by is not None or any(key.endswith("_file") for key in spec if not isinstance(spec, str))
