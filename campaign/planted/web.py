"""Bugs of the server and its page, to plant."""

from campaign.planted.bug import Bug

WEB_BUGS = (
    Bug(
        name="a-stalled-viewer-keeps-its-stream",
        file="poller/web/dashboard/__init__.py",
        old="            async with asyncio.timeout(MAX_SEND_S):",
        new="            async with asyncio.timeout(None):",
        tests=("web/dashboard/test_overview",),
    ),
    Bug(
        name="other-refs-of-a-request-unnoticed",
        file="poller/web/add_tasks.py",
        old="        self.other_refs += added.other_refs\n",
        new="",
        tests=("web/test_add_tasks",),
    ),
    Bug(
        name="silent-connections-keep-a-request-out",
        file="poller/web/server.py",
        old="        if idle:\n",
        new="        if False:\n",
        tests=("web/test_server",),
    ),
    Bug(
        name="a-body-of-an-unknown-encoding-is-read-as-it-is",
        file="poller/web/request_body.py",
        old='    if encoding not in ("identity", "gzip", "deflate"):\n',
        new="    if False:\n",
        tests=("web/test_add_tasks",),
    ),
    Bug(
        name="tasks-whose-storing-failed-are-answered-200",
        file="poller/web/add_tasks.py",
        old="        match storing.result():\n",
        new="        match None:\n",
        tests=("web/test_store_limit",),
    ),
    Bug(
        name="a-post-waits-for-the-store-without-a-limit",
        file="poller/web/add_tasks.py",
        old=" or asyncio.get_running_loop().time() >= ends_at\n",
        new="\n",
        tests=("web/test_store_limit",),
    ),
    Bug(
        name="a-read-waits-for-the-store-without-a-limit",
        file="poller/web/store_limit.py",
        old="        async with asyncio.timeout(STORE_S):\n",
        new="        async with asyncio.timeout(None):\n",
        tests=("web/test_store_limit",),
    ),
    Bug(
        name="slow-requests-keep-a-probe-out",
        file="poller/web/server.py",
        old="        if len(self._busy) >= MAX_REQUESTS and request.path not in PROBES:\n",
        new="        if False:\n",
        tests=("web/test_server",),
    ),
)
