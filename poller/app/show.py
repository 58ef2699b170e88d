"""Shows a state on the live page without a run: reads the state, changes nothing, until a signal ends it."""

import asyncio
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from poller.app.messages import write
from poller.app.page_note import find_page, noted_page
from poller.app.tokens import site_token
from poller.config import Address, Settings, address_of
from poller.core import log as logs
from poller.core.errors import ConfigError, Exit
from poller.store import StateReader, last_beat, read_store
from poller.web import StateContext, listen, make_state_site


async def show_state(settings: Settings, environ: Mapping[str, str], *, is_address_chosen: bool) -> Exit:
    """Serve the page of the state until SIGINT or SIGTERM. Where `is_address_chosen` is not set and the default port is
    taken, as by a run, it takes a free one. Raises `PollerError`."""
    logs.configure(format=settings.log.format, level="warning", clock=time.time)
    async with AsyncExitStack() as stack:
        store = await read_store(settings.state)
        stack.push_async_callback(store.close)
        tokens = await site_token(settings, environ)

        async def serve(address: Address) -> Address:
            state = StateContext(
                store=store,
                clock=time.time,
                deadline_s=settings.longest_deadline_s,
                timings=settings.timing_keys,
            )
            site = make_state_site(state, tokens, partial(last_beat, settings.state))
            return await stack.enter_async_context(listen(site, address))

        address = address_of(settings.listen)
        if address is None:
            raise ConfigError('listen is "off", and a page needs an address: --listen 127.0.0.1:8321')
        try:
            taken = await serve(address)
        except ConfigError:
            if is_address_chosen:
                raise
            taken = await serve(address.at(0))
        write(f"poller: page of the state at http://{taken.near()}/, for reading only. Ctrl-C ends it")
        if (beat := last_beat(settings.state)) is not None and (page := await page_at_work(store, beat[0])) is not None:
            write(f"poller: process {beat[0]} works on it, with a page that can change it: http://{page}/")
        await _signal()
    return Exit.ALL_COMPLETE


async def page_at_work(store: StateReader, pid: int) -> Address | None:
    """Return where process `pid` serves its page on this machine; None where it does not answer there: a person would
    give its token to a stranger's page."""
    near, _ = await asyncio.to_thread(find_page, pid, await noted_page(store, pid))
    return near


async def _signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
