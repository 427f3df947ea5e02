"""The control socket, which `cms status`, `cms login` and the other commands talk to: only for the owner and root.

One connection is one command. Both sides speak lines of JSON:

    {"command": "status", "user": ""}                        -> {"event": "done", "ok": true, "json": ..., ...}
    {"command": "login", "user": "", "method": "device"}     -> {"event": "prompt", "url": ..., ...}, then "done"
    {"command": "import", "user": "", "path": "/...", ...}   -> {"event": "password", ...} where one is needed, then "done"
    {"password": "..."}  (during an import)
    {"pasted": "http://127.0.0.1:8080/?code=..."}  (during a login)  -> {"event": "told", ...} if it will not do
    {"command": "export", "users": []}  (and the other errands)  -> {"event": "password" or "question", ...}, "told", then "done"
    {"password": "..."} or {"yes": true or false}  (the answers)

Commands: ping, status, login, import, export, restore, prune, rekey, logout, leave, revoke, refresh, reload, stop. The last
line of every answer is `{"event": "done", "ok": true or false, "message": ..., "hint": ...}`. `method` is "" or one of
`cms.core.accounts.METHODS`: "browser", "device", "paste" or "broker".
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import trio

from cms.core import json_lines
from cms.core.accounts import METHODS, application
from cms.core.json_lines import Garbled
from cms.core.lifecycle import Refused
from cms.core.policy import Peer
from cms.daemon.commands import Commands
from cms.daemon.control.answers import ERRANDS, Result, ended
from cms.daemon.signin.flow import FLOW_SECONDS, MAX_PASTED, Flow
from cms.grants.messages import Place, Prompt
from cms.system.listener import Listener
from cms.system.logs import get_logger
from cms.system.process import give_back_memory
from cms_oauth.peer import ROOT

# A pasted address is the longest thing that a client sends; JSON may double its length.
MAX_LINE = 2 * MAX_PASTED + 1024
# How long a client may take to send its command.
COMMAND_SECONDS = 5.0
# More commands at one time than people and monitoring need. A further connection takes the place of the oldest that has
# not sent its command; if all have, it is refused.
MAX_CONNECTIONS = 64

log = get_logger()


class Lines:
    """A connection that carries lines of JSON both ways, each of limited length."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._cut = json_lines.Lines(MAX_LINE)
        self._received: deque[bytes] = deque()

    async def send(self, message: Mapping[str, Any]) -> None:
        async with self._sending:
            await self._stream.send_all(json_lines.pack(message))

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None at the end. Raises Garbled."""
        while not self._received:
            chunk = await self._stream.receive_some()
            if not chunk:
                return None
            self._received += self._cut.feed(chunk)
        return json_lines.unpack(self._received.popleft())


async def serve(
    listener: Listener,
    commands: Commands,
    *,
    owner: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control socket until cancelled; close the listener then."""
    places = _Places()
    async with trio.open_nursery() as nursery:
        task_status.started()
        try:
            while True:
                await listener.wait()
                for sock, peer in listener.accept():
                    stream = trio.SocketStream(trio.socket.socket(fileno=sock.detach()))
                    nursery.start_soon(places.serve, stream, peer, commands, owner)
        finally:
            listener.close()


class _Places:
    """Limits how many connections are served at one time."""

    def __init__(self) -> None:
        # The connections that have not sent their command, oldest first, and those that have.
        self._silent: dict[trio.CancelScope, None] = {}
        self._busy: set[trio.CancelScope] = set()

    async def serve(self, stream: trio.SocketStream, peer: Peer, commands: Commands, owner: int) -> None:
        """Serve a connection, or refuse it."""
        if len(self._silent) + len(self._busy) >= MAX_CONNECTIONS:
            if not self._silent:
                await _refuse(stream)
                return
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._silent[scope] = None
            try:
                await serve_one(stream, peer, commands, owner, lambda: self._heard(scope))
            finally:
                self._silent.pop(scope, None)
                self._busy.discard(scope)

    def _heard(self, scope: trio.CancelScope) -> None:
        if scope in self._silent:
            del self._silent[scope]
            self._busy.add(scope)


async def _refuse(stream: trio.SocketStream) -> None:
    with trio.move_on_after(COMMAND_SECONDS), suppress(OSError, trio.BrokenResourceError):
        await _finish(Lines(stream), Result(False, "the daemon carries out too many commands", "try again in a minute"))
    await trio.aclose_forcefully(stream)


async def serve_one(
    stream: trio.abc.Stream, peer: Peer, commands: Commands, owner: int, heard: Callable[[], None] = lambda: None
) -> None:
    """Serve one connection, and call `heard` when its command has come. A failure only ends this connection."""
    try:
        await _answer(Lines(stream), peer, commands, owner, heard)
    except (OSError, trio.BrokenResourceError):
        pass
    except Exception:
        log.exception("a command failed", pid=peer.pid, uid=peer.uid)
    finally:
        await trio.aclose_forcefully(stream)
        # The status of ten thousand accounts takes ten megabytes for a moment.
        give_back_memory()


async def _answer(lines: Lines, peer: Peer, commands: Commands, owner: int, heard: Callable[[], None]) -> None:
    if peer.uid not in (owner, ROOT):
        log.warning("a stranger at the control socket", pid=peer.pid, uid=peer.uid)
        await _finish(lines, Result(False, "this daemon takes commands from its owner and from root only"))
        return
    message: dict[str, Any] | None = None
    try:
        with trio.move_on_after(COMMAND_SECONDS):
            message = await lines.receive()
    except Garbled as error:
        await _finish(lines, Result(False, f"cms was sent {error}", _OTHER_VERSION))
    if message is not None:
        heard()
        await _carry_out(lines, message, commands)


_OTHER_VERSION = "the daemon may have another version than this command: restart the daemon"


async def _carry_out(lines: Lines, message: Mapping[str, Any], commands: Commands) -> None:
    command, user = message.get("command"), message.get("user", "")
    if not isinstance(command, str) or not isinstance(user, str):
        await _finish(lines, Result(False, "cms was sent no command", _OTHER_VERSION))
    elif command == "login":
        await _login(lines, user, message.get("method", ""), commands)
    elif command == "import":
        await _import(lines, user, message, commands)
    elif command in ERRANDS:
        await _finish(lines, await commands.errand(command, message, partial(_asked, lines)))
    elif command == "status":
        await commands.look()
        await _finish(lines, commands.status(user))
    else:
        await _finish(lines, await _result(command, user, commands))


async def _result(command: str, user: str, commands: Commands) -> Result:
    log.debug("command", command=command, user=user)
    match command:
        case "ping":
            return Result(True, "here")
        case "logout":
            return await commands.logout(user)
        case "refresh":
            return await commands.refresh(user)
        case "reload":
            return await commands.reload()
        case "stop":
            return commands.stop()
    return Result(False, f"the daemon knows no command {command[:20]!r}", _OTHER_VERSION)


async def _finish(lines: Lines, result: Result) -> None:
    done = {"event": "done", "ok": result.ok, "message": result.message, "hint": result.hint}
    await lines.send({**done, **result.extra})


async def _login(lines: Lines, user: str, method: object, commands: Commands) -> None:
    if method not in ("", *METHODS) or not isinstance(method, str):
        await _finish(lines, Result(False, f"no such way to sign in: {method!r:.20}"))
        return
    flow = commands.login(user, method)
    if isinstance(flow, Result):
        await _finish(lines, flow)
        return
    with flow.held():
        await _follow(lines, flow)


async def _import(lines: Lines, user: str, message: Mapping[str, Any], commands: Commands) -> None:
    said = [message.get(name, "") for name in ("path", "source", "entry")]
    if not all(isinstance(each, str) for each in said) or not said[0]:
        await _finish(lines, Result(False, "cms was not told what to import", _OTHER_VERSION))
        return
    if not _is_name(said[0]):
        await _finish(lines, Result(False, "no file can have this name", "name the file with the sign-in"))
        return
    place = Place(*said)
    named = "" if user else await commands.named_in(place)
    end = await commands.bring_in(user or named, place)
    if isinstance(end, Refused) and end.trouble.kind == "password":
        await lines.send({"event": "password", "message": end.trouble.message})
        password = await _password(lines)
        if password is None:
            return
        end = await commands.bring_in(user or named, replace(place, password=password))
    result = end if isinstance(end, Result) else ended(end)
    await _finish(lines, replace(result, message=f"the file is {named}'s: {result.message}") if named else result)


def _is_name(path: str) -> bool:
    """True if a file can have this name: it has no NUL, and no surrogate that stands for no byte."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


async def _password(lines: Lines) -> str | None:
    """Return the password that the client sends, None if it leaves or sends none."""
    with suppress(Garbled), trio.move_on_after(FLOW_SECONDS):
        message = await lines.receive() or {}
        password = message.get("password")
        return password if isinstance(password, str) and password else None
    return None


async def _asked(lines: Lines, event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send an event and return the answer, {} if the client leaves or does not answer in time."""
    await lines.send(event)
    if event["event"] == "told":
        return {}
    with suppress(Garbled), trio.move_on_after(FLOW_SECONDS):
        return await lines.receive() or {}
    return {}


async def _follow(lines: Lines, flow: Flow) -> None:
    """Serve a sign-in until it ends or the client leaves."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell, lines, flow, nursery.cancel_scope)
        nursery.start_soon(_listen, lines, flow, nursery.cancel_scope)


async def _tell(lines: Lines, flow: Flow, scope: trio.CancelScope) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        shown = await flow.prompt()
        if isinstance(shown, Prompt):
            await lines.send(prompt_event(flow, shown))
        await _finish(lines, ended(await flow.outcome()))
    scope.cancel()


async def _listen(lines: Lines, flow: Flow, scope: trio.CancelScope) -> None:
    """Read what the client pastes, until it leaves."""
    with suppress(Garbled, OSError, trio.BrokenResourceError):
        while (message := await lines.receive()) is not None:
            wrong = await flow.pasted(str(message.get("pasted", "")))
            if wrong:
                await lines.send({"event": "told", "message": wrong})
    scope.cancel()


def prompt_event(flow: Flow, shown: Prompt) -> dict[str, Any]:
    """Return a prompt as an event for the terminal."""
    event = asdict(shown)
    del event["number"], event["state"]
    # A device code may live for longer than the flow that waits for it.
    event["expires_in"] = min(shown.expires_in, FLOW_SECONDS)
    return {
        "event": "prompt",
        "user": flow.grant.login,
        "registration": application(flow.grant),
        "provider": flow.grant.provider,
        "page": flow.page,
        # Where the browser returns to on this machine, "" and 0 if it does not.
        "host": flow.host,
        "port": flow.address.port if flow.address else 0,
        "instead": flow.instead,
        **event,
    }
