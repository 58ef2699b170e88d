"""Bugs of composition, runs and reloads, to plant."""

from campaign.planted.bug import Bug

APP_BUGS = (
    Bug(
        name="an-unchanged-file-has-the-code-of-what-ran-last",
        file="poller/app/run.py",
        old="is_all_unchanged=not has_more)",
        new="is_all_unchanged=False)",
        tests=("service/test_same_file_again",),
    ),
    Bug(
        name="shared-tokens-unnoticed",
        file="poller/app/build.py",
        old="        if same:\n",
        new="        if False:\n",
        tests=("app/test_reload",),
    ),
    Bug(
        name="replay-doubles-a-file",
        file="poller/app/replay.py",
        old="    if sink.has_data():\n",
        new="    if False:\n",
        tests=("cli/test_replay",),
    ),
    Bug(
        name="replay-attaches-before-it-may-be-refused",
        file="poller/app/replay.py",
        old="    await loop.open(None if from_start",
        new="    await store.attach_sinks([name])\n    await loop.open(None if from_start",
        tests=("cli/test_replay",),
    ),
    Bug(
        name="refused-run-attaches-its-sinks",
        file="poller/app/compose.py",
        old="    positions = await store.positions(names)\n",
        new="    positions = await store.attach_sinks(names)\n",
        tests=("cli/test_replay",),
    ),
    Bug(
        name="defect-ends-with-code-1",
        file="poller/app/compose.py",
        old="    except* Exception as errors:\n",
        new="    except* ArithmeticError as errors:\n",
        tests=("service/test_service",),
    ),
    Bug(
        name="stop-is-not-shown",
        file="poller/app/progress.py",
        old="        ending=ending,\n",
        new="",
        tests=("app/test_progress",),
    ),
    Bug(
        name="log-lines-over-the-progress",
        file="poller/app/live_block.py",
        old='                self._put(f"{self._erased()}{whole}{end}{self._drawn()}")',
        new='                self._put(f"{whole}{end}")',
        tests=("app/test_live_block",),
    ),
    Bug(
        name="sighup-before-the-start-is-forgotten",
        file="poller/app/signals.py",
        old="            self._is_reload_asked = True\n",
        new="            pass\n",
        tests=("app/test_event_loop",),
    ),
    Bug(
        name="clock-that-was-set-not-noted",
        file="poller/app/compose.py",
        old="    clock.on_jump = note\n",
        new="",
        tests=("service/test_clock",),
    ),
    Bug(
        name="reload-without-the-server",
        file="poller/app/compose.py",
        old='        context.feeding = inputs.feeding(now, "ids")\n',
        new='        context.feeding = inputs.feeding(settings, "ids")\n',
        tests=("app/test_reload",),
    ),
    Bug(
        name="a-task-is-taken-though-its-body-failed",
        file="poller/app/embed/run.py",
        old="            if is_body_done:\n                with suppress",
        new="            if True:\n                with suppress",
        tests=("app/embed/test_poller",),
    ),
    Bug(
        name="a-feed-counts-only-once-it-runs",
        file="poller/app/embed/poller.py",
        old="        run.feeds.add(mark)  # now, not when it is awaited: `finished` waits for it\n",
        new="",
        tests=("app/embed/test_poller",),
    ),
    Bug(
        name="a-refused-token-lets-a-loop-wait-forever",
        file="poller/app/build.py",
        old="        is_awaited = not service.endless or self.consumer is not None\n",
        new="        is_awaited = not service.endless\n",
        tests=("app/embed/test_errors",),
    ),
)
