"""A TCP relay between a replica and PostgreSQL that can freeze, cut or delay what it carries: partitions on demand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK = 65_536


class Relay:
    """Carries connections to a server's Unix socket or TCP address, as long as it is `open`."""

    def __init__(self, *, socket: str | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target: tuple[str | None, str, int] = (socket, host, port)
        self._outward, self._inward = asyncio.Event(), asyncio.Event()  # to the server, and from it
        self.thaw()
        self.loses_answers = False  # a connection breaks once the server has read a commit
        self._connections: set[asyncio.StreamWriter] = set()
        self.delay_s = 0.0  # added to each chunk, either way
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Relay"]:
        """Accept connections on a free loopback port, `port`, while the context lasts."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.thaw()
            self.cut()

    def freeze(self, *, outward: bool = True, inward: bool = True) -> None:
        """Carry nothing more in these directions, and close nothing: what was sent waits until `thaw`."""
        if outward:
            self._outward.clear()
        if inward:
            self._inward.clear()

    def thaw(self) -> None:
        self._outward.set()
        self._inward.set()

    def cut(self) -> None:
        """Abort every connection."""
        for writer in self._connections:
            writer.transport.abort()

    def retarget(self, socket: str) -> None:
        """Carry the connections from now on to another Unix socket."""
        self._target = (socket, "", 0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket, host, port = self._target
        try:
            await self._outward.wait()
            opened = asyncio.open_unix_connection(socket) if socket else asyncio.open_connection(host, port)
            there_reader, there_writer = await opened
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there_writer}
        self._connections |= both
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, there_writer, self._outward))
                pumps.create_task(self._pump(there_reader, writer, self._inward))
        finally:
            self._connections -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        """Carry one direction to its end, which is the other's end too."""
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await flows.wait()
                writer.write(data)
                await writer.drain()
                if self.loses_answers and flows is self._outward and b"COMMIT\0" in data:
                    return
