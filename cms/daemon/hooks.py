"""Runs hooks: the user's programs that cms calls when a sign-in is needed, ends soon or works again. One runs at a time.

A hook may fail, hang or print without end. It has a deadline, and can only delay the notices queued behind it. It gets
the facts in environment variables (`FACTS`), none of which is a secret. Desktop notifications are also a program that is
run like a hook (`cms.daemon.desktop`), so that D-Bus stays out of the daemon. The log gets the same notices, immediately.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from cms.core.hooks import Hook
from cms.core.notices import NOTHING_HEARD, Facts, Heard, Notice, first_heard, hear
from cms.daemon.children import ENVIRONMENT, REAP_SECONDS, LogLines
from cms.system.clock import Clock
from cms.system.logs import get_logger
from cms_oauth.frozen import dataclass
from cms_oauth.text import printable

# How long a hook may take. Its job is to notify: to queue a mail, or to post a message.
HOOK_SECONDS = 10.0

# The pause between a change and its hooks: by then the page for a required sign-in is open, and a change that affects all
# accounts has reached each.
GATHER_SECONDS = 0.3

# How many grants are looked at before requests get their turn: about two milliseconds.
LOOKS_IN_A_ROW = 50

# How many notices may be queued: about a minute of quick hooks for a thousand accounts. A later notice replaces an
# earlier one of the same hook, event and account, so the queue fills only with very many accounts and hooks.
MAX_WAITING = 4096

# How many lines of a hook's output the log takes.
MAX_LINES = 20

# The longest value of a variable: Linux refuses one above 128 KiB, and no sign-in address is as long as this.
MAX_FACT = 8192

# The environment variables with the facts. Each is always set, to "" if it does not apply.
FACTS: dict[str, Callable[[Notice], str]] = {
    "CMS_EVENT": lambda notice: notice.event,
    "CMS_ACCOUNT": lambda notice: notice.account,
    "CMS_PROVIDER": lambda notice: notice.provider,
    "CMS_MESSAGE": lambda notice: notice.message,
    "CMS_HINT": lambda notice: notice.hint,
    "CMS_LOGIN": lambda notice: str(notice.how.command or ""),
    "CMS_URL": lambda notice: notice.how.url,
    "CMS_CODE": lambda notice: notice.how.code,
    "CMS_PAGE": lambda notice: notice.how.page,
    "CMS_DUE": lambda notice: str(int(notice.due)) if notice.due else "",
    "CMS_RETRY_AT": lambda notice: str(int(notice.retry_at)) if notice.retry_at else "",
    "CMS_AADSTS": lambda notice: str(notice.aadsts or ""),
    "CMS_REASON": lambda notice: notice.reason,
}

# A hook gets the same environment as the grant worker, plus what a program needs to show something on a desktop, minus
# what leads to the vault's key or to a token of the machine itself (an Azure identity).
_LESS = re.compile(r"CREDENTIALS_DIRECTORY|AZURE_\w+|IDENTITY_\w+|IMDS_\w+|MSI_\w+")
# A hook may use the machine's proxy, but does not get the NAME:PASSWORD@ in its address.
_PROXIED = re.compile(r"(?:https?|all)_proxy", re.IGNORECASE)
_USERINFO = re.compile(r"(?:(?<=://)|^(?!\w+://)).*@")
_MORE = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")

# The log, as a hook: it gets notices immediately, runs no program and gets no reminders.
LOG = Hook((), remind=0.0, prompts=False, each_refusal=True)

# Desktop notifications, as a hook. There is none for a sign-in that has begun: the person who began it knows.
DESKTOP = Hook(
    (sys.executable, "-I", "-m", "cms.daemon.desktop"),
    events=("sign-in-required", "sign-in-due", "locked", "failing", "recovered", "signed-in"),
    remind=4 * 60 * 60.0,
    prompts=False,
)
# Where systemd puts a user's session bus.
USUAL_BUS = "/run/user/{uid}/bus"
# The variables that tell the desktop program which notification to replace, and that it may have a button.
REPLACES = "CMS_REPLACES"
BUTTON = "CMS_BUTTON"
# The notice that a sign-in is the answer to, and that has its link.
BUTTONS = ("sign-in-required",)
# How many notifications have a button at one time. Each is a process that waits, and the page that one opens is for all.
MAX_BUTTONS = 3

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Told:
    """The key of a notice in the queue: a later notice of the same hook, account and event replaces it."""

    hook: Hook
    key: str
    event: str


class Hooks:
    """All hooks of the daemon.

    `facts` returns the facts about a grant, by its key, None if it has left the configuration; `environ` is the daemon's
    environment.
    """

    def __init__(self, facts: Callable[[str], Facts | None], clock: Clock, environ: Mapping[str, str]) -> None:
        self._facts = facts
        self._clock = clock
        self._environ = environ
        self._hooks: tuple[Hook, ...] = ()
        # Per grant: when to check it next, and what each hook has been told.
        self._looks: dict[str, float] = {}
        self._heard: dict[str, dict[Hook, Heard]] = {}
        # The remarks that have been logged.
        self._remarked: set[str] = set()
        self._queue: dict[_Told, Notice] = {}
        self._full = False
        self._nudge = trio.Event()
        self._filled = trio.Event()
        # The number of the desktop notification, and what ends the process that waits for its button, by grant.
        self._shown: dict[str, str] = {}
        self._buttons: dict[str, trio.CancelScope] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run hooks until cancelled; a hook that is running then is killed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._deliver, nursery)
            task_status.started()

    def apply(self, hooks: Iterable[Hook], keys: Iterable[str], *, desktop: bool) -> None:
        """Use these hooks and grants from now on. New hooks get the current state; existing hooks are not called again."""
        self._hooks = (LOG, *([DESKTOP] if desktop else []), *dict.fromkeys(hooks))
        known = set(keys)
        self._heard = {key: self._known(key) for key in known}
        self._looks = dict.fromkeys(known, 0.0)
        self._queue = {
            told: notice for told, notice in self._queue.items() if told.hook in self._hooks and told.key in known
        }
        self._nudge.set()

    def _known(self, key: str) -> dict[Hook, Heard]:
        """Return what each hook has been told of a grant; a new hook starts with the current state."""
        told = self._heard.get(key)
        if told is None:
            # A new grant has neither a token nor a sign-in, which is quicker to know than to look up.
            return dict.fromkeys(self._hooks, NOTHING_HEARD)
        if all(hook in told for hook in self._hooks):
            return {hook: told[hook] for hook in self._hooks}
        facts = self._facts(key)
        return {hook: told.get(hook) or first_heard(facts) for hook in self._hooks} if facts else {}

    def changed(self, key: str) -> None:
        """Log what has changed for a grant, and soon check what to tell the hooks."""
        self._tell_log(key)
        self._looks[key] = 0.0
        self._nudge.set()

    def wake(self) -> None:
        """Check the clock again, as after a suspend."""
        self._nudge.set()

    async def _watch(self) -> None:
        while True:
            # Nothing runs between this line and the look, so no nudge is missed.
            self._nudge = trio.Event()
            now = self._clock.boot()
            for number, key in enumerate([key for key, when in self._looks.items() if when <= now]):
                self._look(key, now)
                if number % LOOKS_IN_A_ROW == LOOKS_IN_A_ROW - 1:
                    await trio.lowlevel.checkpoint()
            pause = min(self._looks.values(), default=math.inf) - now
            with trio.move_on_after(max(0.0, pause)):
                await self._nudge.wait()
                await trio.sleep(GATHER_SECONDS)

    def _look(self, key: str, now: float) -> None:
        facts = self._facts(key)
        if facts is None:
            self._looks.pop(key, None)
            self._heard.pop(key, None)
            return
        self._looks[key] = min(self._hear(hook, key, facts, now) for hook in self._hooks)
        self._remark(facts)

    def _hear(self, hook: Hook, key: str, facts: Facts, now: float) -> float:
        """Queue the notices that one hook gets about a grant now; return when to check again."""
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
        self._remark(facts)

    def _remark(self, facts: Facts) -> None:
        for remark in facts.remarks:
            if remark.which not in self._remarked:
                self._remarked.add(remark.which)
                log.warning(remark.message, **({"account": remark.account} if remark.account else {}))

    def _put(self, hook: Hook, key: str, notice: Notice) -> None:
        told = _Told(hook, key, notice.event)
        if told not in self._queue and len(self._queue) >= MAX_WAITING:
            if not self._full:
                log.warning("hooks are too slow: notices are dropped", waiting=len(self._queue))
            self._full = True
            return
        self._queue[told] = notice
        self._filled.set()

    async def _deliver(self, nursery: trio.Nursery) -> None:
        while True:
            while self._queue:
                told = next(iter(self._queue))
                await self._tell(told, self._queue.pop(told), nursery)
            self._full = False
            self._filled = trio.Event()
            await self._filled.wait()

    async def _tell(self, told: _Told, notice: Notice, nursery: trio.Nursery) -> None:
        try:
            environment = hook_environment(self._environ) | facts_of(notice)
            if told.hook != DESKTOP:
                _log(await run_hook(told.hook.argv, environment, notice), notice)
                return
            # Reads the file system, which may fail: Python before 3.14 raises some of these errors.
            bus = desktop_bus(self._environ, os.getuid())
        except Exception:
            log.exception("a hook could not be run by a bug")
            return
        if bus:
            shown = trio.Event()
            nursery.start_soon(self._show, told.key, notice, environment | {"DBUS_SESSION_BUS_ADDRESS": bus}, shown)
            await shown.wait()

    async def _show(self, key: str, notice: Notice, environment: dict[str, str], shown: trio.Event) -> None:
        """Show a notification in the place of the grant's last one. Its process stays while it has a button."""
        before = self._buttons.pop(key, None)
        if before:
            before.cancel()

        def numbered(lines: Sequence[str]) -> bool:
            if lines and lines[-1].isdecimal():
                self._shown[key] = lines[-1]
                shown.set()
            return shown.is_set()

        button = notice.event in BUTTONS and len(self._buttons) < MAX_BUTTONS
        environment |= {REPLACES: self._shown.get(key, ""), BUTTON: "yes" if button else ""}
        try:
            with trio.CancelScope() as scope:
                if button:
                    self._buttons[key] = scope
                printed = await run_hook(DESKTOP.argv, environment, notice, numbered)
                _log(printed[:-1] if shown.is_set() else printed, notice)
        except Exception:
            log.exception("a hook could not be run by a bug")
        finally:
            shown.set()
            if self._buttons.get(key) is scope:
                del self._buttons[key]


def _log(printed: Iterable[str], notice: Notice) -> None:
    for line in printed:
        log.info("hook", line=line, notice=notice.event)


def hook_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that a hook may have."""
    stems = tuple(name.removesuffix("*") for name in ENVIRONMENT if name.endswith("*"))
    names = {*ENVIRONMENT, *_MORE}
    given = {name: value for name, value in environ.items() if name in names or name.startswith(stems)}
    return {
        name: _USERINFO.sub("", value, count=1) if _PROXIED.fullmatch(name) else value
        for name, value in given.items()
        if not _LESS.fullmatch(name)
    }


def facts_of(notice: Notice) -> dict[str, str]:
    """Return the environment variables of a notice, each made printable: parts of messages come from outside."""
    return {name: printable(fact(notice), MAX_FACT) for name, fact in FACTS.items()}


def desktop_bus(environ: Mapping[str, str], uid: int) -> str:
    """Return the address of the session bus if there is a desktop, else "".

    It is looked up for each notice, because a daemon may start before its user's desktop. A system service has neither a
    display nor a runtime folder with one.
    """
    folder = environ.get("XDG_RUNTIME_DIR", "")
    shown = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or (folder and any(Path(folder).glob("wayland-*")))
    if not shown:
        return ""
    usual = USUAL_BUS.format(uid=uid)
    return environ.get("DBUS_SESSION_BUS_ADDRESS") or (f"unix:path={usual}" if Path(usual).is_socket() else "")


def _never(_lines: Sequence[str]) -> bool:
    return False


async def run_hook(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    notice: Notice,
    may_stay: Callable[[Sequence[str]], bool] = _never,
) -> list[str]:
    """Run a hook until it ends or its time is up; return what it printed. Failures are logged.

    It may take any time as soon as `may_stay`, with the lines that it has printed, is true.
    """
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
        lines = await _converse(process, process.stdout, may_stay)
        if may_stay(lines):
            await process.wait()
        overdue = process.returncode is None
    finally:
        await _end(process, process.stdout)
    if overdue:
        log.warning("a hook was killed: it took too long", **facts, seconds=HOOK_SECONDS)
    elif process.returncode:
        log.warning("a hook failed", **facts, status=process.returncode)
    return lines


async def _converse(
    process: trio.Process, output: trio.abc.ReceiveStream, enough: Callable[[Sequence[str]], bool]
) -> list[str]:
    """Read the hook's output until it ends, its time is up, or this is enough."""
    cutter, lines = LogLines(MAX_LINES, "hook"), list[str]()

    async def take() -> None:
        async for chunk in output:
            lines.extend(cutter.feed(bytes(chunk)))
            if enough(lines):
                nursery.cancel_scope.cancel()

    with trio.move_on_after(HOOK_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await process.wait()
            # Its last output is still in the pipe. A program that it started and left running, such as a browser, may
            # keep the pipe open longer; it is not waited for.
            nursery.cancel_scope.deadline = trio.current_time() + REAP_SECONDS
    return lines + cutter.rest()


async def _end(process: trio.Process, output: trio.abc.ReceiveStream) -> None:
    """Kill a hook that has not ended, with its whole session."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(REAP_SECONDS):
                await process.wait()
        await output.aclose()


# The events that are logged as warnings.
_WARNINGS = ("sign-in-required", "sign-in-due", "locked", "failing")


def tell(notice: Notice) -> None:
    """Log a notice."""
    say = log.warning if notice.event in _WARNINGS else log.info
    say(notice.message, notice=notice.event, account=notice.account, **({"do": notice.hint} if notice.hint else {}))
