"""Runs the hooks: programs that are told when a sign-in is needed, ends or works again. One runs at a time, in turn.

A hook is the user's program and may fail, hang or print without end: it has a deadline, and what it does harms nothing
but the notices behind it. It is told the facts in environment variables (`FACTS`), none of which is a secret. The
desktop's notification is such a program as well (`cms.daemon.desktop`), so that neither D-Bus nor its library comes
into the daemon. The log is told as a hook is, but at once and in the daemon.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from cms.core.notices import Facts, Heard, Hook, Notice, first_heard, hear
from cms.daemon.children import ENVIRONMENT, REAP_SECONDS, LogLines
from cms.system.clock import Clock
from cms.system.logs import get_logger
from cms_oauth.text import printable

# How long a hook may take. It is there to tell: a mail is handed to the queue, a message is posted.
HOOK_SECONDS = 10.0

# After a change, before hooks are told: by then the page for a sign-in that is required is up, and what changes for all
# accounts at once has changed.
GATHER_SECONDS = 0.3

# So many notices may wait for their turn, which is a minute of quick hooks for a thousand accounts. Later ones of the
# same event and account take the place of earlier ones, so only as many hooks as accounts come near to it.
MAX_WAITING = 4096

# The log takes what a hook prints, but a notice is no place for a report.
MAX_LINES = 20

# What a variable may have of a text that comes from elsewhere: Linux refuses one above 128 KiB, and no address of a
# sign-in is as long as this.
MAX_FACT = 8192

# The variables that a hook is told the facts in; each is there each time, "" for what does not apply.
FACTS: dict[str, Callable[[Notice], str]] = {
    "CMS_EVENT": lambda notice: notice.event,
    "CMS_ACCOUNT": lambda notice: notice.account,
    "CMS_MESSAGE": lambda notice: notice.message,
    "CMS_HINT": lambda notice: notice.hint,
    "CMS_LOGIN": lambda notice: str(notice.how.command or ""),
    "CMS_URL": lambda notice: notice.how.url,
    "CMS_CODE": lambda notice: notice.how.code,
    "CMS_PAGE": lambda notice: notice.how.page,
    "CMS_DUE": lambda notice: str(int(notice.due)) if notice.due else "",
    "CMS_AADSTS": lambda notice: str(notice.aadsts or ""),
}

# A hook gets what the grant worker gets of the environment, less what leads to the vault's key or to a token of the
# machine's own (an Azure identity), and what a program needs to show something on a desktop.
_LESS = re.compile(r"CREDENTIALS_DIRECTORY|AZURE_\w+|IDENTITY_\w+|IMDS_\w+|MSI_\w+")
# It may reach the network by the machine's proxy, but not in the name that the worker goes by: NAME:PASSWORD@.
_PROXIED = re.compile(r"(?:https?|all)_proxy", re.IGNORECASE)
_USERINFO = re.compile(r"(?:(?<=://)|^(?!\w+://)).*@")
_MORE = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")

# The log: told like a hook, but at once and by no program, and not reminded.
LOG = Hook((), remind=0.0, prompts=False, each_refusal=True)

# The desktop's. It does not tell of a sign-in that has begun: the person who began it knows.
DESKTOP = Hook(
    (sys.executable, "-I", "-m", "cms.daemon.desktop"),
    events=("sign-in-required", "sign-in-due", "locked", "failing", "recovered", "signed-in"),
    remind=4 * 60 * 60.0,
    prompts=False,
)
# Where systemd has a user's session bus.
USUAL_BUS = "/run/user/{uid}/bus"
# What the desktop's program is told beside the facts: the number of the notification that this one replaces.
REPLACES = "CMS_REPLACES"

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Told:
    """What stands in the queue. One of the same hook, account and event takes its place."""

    hook: Hook
    key: str
    event: str


class Hooks:
    """All hooks of the daemon.

    `facts` gives what is true of a sign-in, by its grant's key, None for one that has gone; `environ` is the daemon's
    environment.
    """

    def __init__(self, facts: Callable[[str], Facts | None], clock: Clock, environ: Mapping[str, str]) -> None:
        self._facts = facts
        self._clock = clock
        self._environ = environ
        self._hooks: tuple[Hook, ...] = ()
        # Per sign-in: when to look next, and what each hook has been told.
        self._looks: dict[str, float] = {}
        self._heard: dict[str, dict[Hook, Heard]] = {}
        # Which remarks are in the log.
        self._remarked: set[str] = set()
        self._queue: dict[_Told, Notice] = {}
        self._full = False
        self._nudge = trio.Event()
        self._filled = trio.Event()
        # The number of the notification on the desktop, by sign-in.
        self._shown: dict[str, str] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell until cancelled; the hook that runs then is ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._deliver)
            task_status.started()

    def apply(self, hooks: Iterable[Hook], keys: Iterable[str], *, desktop: bool) -> None:
        """Go on with these hooks and sign-ins. A hook that stays is not told again what it has been told."""
        self._hooks = (LOG, *([DESKTOP] if desktop else []), *dict.fromkeys(hooks))
        known = set(keys)
        self._heard = {key: self._known(key) for key in known}
        self._looks = dict.fromkeys(known, 0.0)
        self._queue = {
            told: notice for told, notice in self._queue.items() if told.hook in self._hooks and told.key in known
        }
        self._nudge.set()
        for key in known:
            self._tell_log(key)

    def _known(self, key: str) -> dict[Hook, Heard]:
        """Return what each hook has been told of a sign-in; one that is new begins here and now."""
        facts, told = self._facts(key), self._heard.get(key, {})
        return {hook: told.get(hook) or first_heard(facts) for hook in self._hooks} if facts else {}

    def changed(self, key: str) -> None:
        """Tell the log at once what has changed of a sign-in, and look soon what there is to tell the hooks."""
        self._tell_log(key)
        self._looks[key] = 0.0
        self._nudge.set()

    def wake(self) -> None:
        """Look at the clock again, as after a suspend."""
        self._nudge.set()

    async def _watch(self) -> None:
        while True:
            # Nothing runs between this line and the look, so no nudge is missed.
            self._nudge = trio.Event()
            now = self._clock.boot()
            for key in [key for key, when in self._looks.items() if when <= now]:
                self._look(key, now)
            pause = min(self._looks.values(), default=math.inf) - now
            with trio.move_on_after(max(0.0, pause)):
                await self._nudge.wait()
                await trio.sleep(GATHER_SECONDS)

    def _look(self, key: str, now: float) -> None:
        facts = self._facts(key)
        if facts is None:
            del self._looks[key]
            return
        self._looks[key] = min(self._hear(hook, key, facts, now) for hook in self._hooks)

    def _hear(self, hook: Hook, key: str, facts: Facts, now: float) -> float:
        """Pass on what one hook is to be told of a sign-in now; return when to look again."""
        heard = self._heard.setdefault(key, {})
        hearing = hear(hook, heard.get(hook) or first_heard(facts), facts, now)
        heard[hook] = hearing.heard
        for notice in hearing.notices:
            if hook == LOG:
                tell(notice)
            else:
                self._put(hook, key, notice)
        return hearing.again

    def _tell_log(self, key: str) -> None:
        facts = self._facts(key)
        if facts is None:
            return
        self._hear(LOG, key, facts, self._clock.boot())
        for remark in facts.remarks:
            if remark.which not in self._remarked:
                self._remarked.add(remark.which)
                log.warning(remark.message, **({"account": remark.account} if remark.account else {}))

    def _put(self, hook: Hook, key: str, notice: Notice) -> None:
        told = _Told(hook, key, notice.event)
        if told not in self._queue and len(self._queue) >= MAX_WAITING:
            if not self._full:
                log.warning("hooks are too slow: notices are left out", waiting=len(self._queue))
            self._full = True
            return
        self._queue[told] = notice
        self._filled.set()

    async def _deliver(self) -> None:
        while True:
            while self._queue:
                told = next(iter(self._queue))
                await self._tell(told, self._queue.pop(told))
            self._full = False
            self._filled = trio.Event()
            await self._filled.wait()

    async def _tell(self, told: _Told, notice: Notice) -> None:
        try:
            environment = hook_environment(self._environ) | facts_of(notice)
            if told.hook == DESKTOP:
                # Asks the file system, which may refuse: Python before 3.14 hands some of that on.
                bus = desktop_bus(self._environ, os.getuid())
                if not bus:
                    return
                environment |= {"DBUS_SESSION_BUS_ADDRESS": bus, REPLACES: self._shown.get(told.key, "")}
            printed = await run_hook(told.hook.argv, environment, notice)
        except Exception:
            log.exception("a hook could not be run by a bug")
            return
        if told.hook == DESKTOP and printed and printed[-1].isdecimal():
            self._shown[told.key] = printed[-1]
        else:
            for line in printed:
                log.info("hook", line=line, notice=notice.event)


def hook_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a hook may have."""
    stems = tuple(name.removesuffix("*") for name in ENVIRONMENT if name.endswith("*"))
    names = {*ENVIRONMENT, *_MORE}
    given = {name: value for name, value in environ.items() if name in names or name.startswith(stems)}
    return {
        name: _USERINFO.sub("", value, count=1) if _PROXIED.fullmatch(name) else value
        for name, value in given.items()
        if not _LESS.fullmatch(name)
    }


def facts_of(notice: Notice) -> dict[str, str]:
    """Return the variables of a notice, each on one line: parts of messages come from elsewhere."""
    return {name: printable(fact(notice), MAX_FACT) for name, fact in FACTS.items()}


def desktop_bus(environ: Mapping[str, str], uid: int) -> str:
    """Return the address of the session's bus where there is a desktop, else "".

    Asked for each notice: a daemon that starts with the machine is there before its user's desktop. A system service
    has neither a display nor a runtime folder with one.
    """
    folder = environ.get("XDG_RUNTIME_DIR", "")
    shown = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or (folder and any(Path(folder).glob("wayland-*")))
    if not shown:
        return ""
    usual = USUAL_BUS.format(uid=uid)
    return environ.get("DBUS_SESSION_BUS_ADDRESS") or (f"unix:path={usual}" if Path(usual).is_socket() else "")


async def run_hook(argv: tuple[str, ...], environment: Mapping[str, str], notice: Notice) -> list[str]:
    """Run a hook to its end, or end it; return what it printed. What goes wrong is a line of the log."""
    facts = {"hook": argv[0], "notice": notice.event, "account": notice.account}
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        log.warning("a hook cannot be started", **facts, error=str(error.strerror))
        return []
    assert process.stdout is not None, "the output is a pipe"
    try:
        lines = await _converse(process, process.stdout)
        overdue = process.returncode is None
    finally:
        await _end(process, process.stdout)
    if overdue:
        log.warning("a hook was ended by force: it took too long", **facts, seconds=HOOK_SECONDS)
    elif process.returncode:
        log.warning("a hook failed", **facts, status=process.returncode)
    return lines


async def _converse(process: trio.Process, output: trio.abc.ReceiveStream) -> list[str]:
    """Take what the hook prints, until it has ended or its time is over."""
    cutter, lines = LogLines(MAX_LINES, "hook"), list[str]()

    async def take() -> None:
        async for chunk in output:
            lines.extend(cutter.feed(bytes(chunk)))

    with trio.move_on_after(HOOK_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await process.wait()
            # What it printed last is in the pipe. What it has started and left behind, such as a browser, may hold the
            # pipe open for longer, and is let alone.
            nursery.cancel_scope.deadline = trio.current_time() + REAP_SECONDS
    return lines + cutter.rest()


async def _end(process: trio.Process, output: trio.abc.ReceiveStream) -> None:
    """End a hook that has not ended, with all that it has started in its session."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(REAP_SECONDS):
                await process.wait()
        await output.aclose()


# Notices of something that is not as it should be.
_WARNINGS = ("sign-in-required", "sign-in-due", "locked", "failing")


def tell(notice: Notice) -> None:
    """Put a notice in the log."""
    say = log.warning if notice.event in _WARNINGS else log.info
    say(notice.message, notice=notice.event, account=notice.account, **({"do": notice.hint} if notice.hint else {}))
