"""Cancels a task for certain."""

import asyncio

CANCEL_AGAIN_S = 1.0


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task until it has ended: a library may swallow a cancellation that comes with its own answer."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
