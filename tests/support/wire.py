"""A wire between a store and a PostgreSQL server, which tests cut, freeze, or break at a commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from psycopg import conninfo


class Wire:
    """A wire to the server that can be cut, at the worst moment."""

    def __init__(self, server_url: str) -> None:
        self._server = {name: str(value) for name, value in conninfo.conninfo_to_dict(server_url).items()}
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.is_cut = False
        self.broke = asyncio.Event()  # a transaction was lost
        self.loses: Literal["commit", "answer"] | None = None  # of the next transaction; the wire breaks then
        self.flows = asyncio.Event()  # while it is not set, the server seems to be frozen
        self.flows.set()

    def url(self, state_url: str) -> str:
        """Return the URL of the same state, through this wire."""
        schema = state_url.rpartition("schema=")[2]
        user, database = self._server.get("user", "postgres"), self._server.get("dbname", "postgres")
        password = self._server.get("password", "")
        query = f"sslmode=disable&gssencmode=disable&schema={schema}"
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}?{query}"

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        host, port = self._server.get("host", "127.0.0.1"), self._server.get("port", "5432")
        if host.startswith("/"):
            far_reader, far_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        both = {writer, far_writer}
        self._open |= both
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(self._pump(reader, far_writer, far_reader))
            pumps.create_task(self._pump(far_reader, writer, None))
        self._open -= both

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.StreamReader | None
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self.flows.wait()
                if self.loses is not None and answers is not None and b"COMMIT\0" in data:
                    await self._lose(data, writer)
                    return
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def _lose(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Cut the wire before the server reads the commit, or after it and before its answer comes back."""
        loses, self.loses = self.loses, None
        self.broke.set()
        if loses == "answer":
            for near in self._open - {writer}:
                near.transport.abort()
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.5)
        for each in self._open:
            each.transport.abort()


@asynccontextmanager
async def wire_to(server_url: str) -> AsyncIterator[Wire]:
    wire = Wire(server_url)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.flows.set()
        wire.cut()
        server.close()
