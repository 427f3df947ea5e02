"""What stands beside cms: servers, and commands that fetch one token. Each of the generators runs one of them.

One that is not on this machine raises `NotHere`, and `Ground.missing` says what to install.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from bench.entra import user
from bench.ground import INSIDE, Ground, environment
from bench.measure import FAULTS, Failed
from bench.programs import PATIENCE, Command, output, until

ASYNCIO, FLOOR, ORIGINAL = "plain asyncio", "C, the floor", "the original's stand-in"
OIDC_AGENT, MUTT, PIZAUTH = "oidc-agent", "mutt_oauth2.py", "pizauth"

_MUTT_SCRIPT = Path("/usr/share/doc/mutt/examples/mutt_oauth2.py")


@dataclass(frozen=True)
class Peer:
    """One of them, running. `sock` is its socket, where it has one like ours; `command` prints a token."""

    who: str
    pid: int = 0
    sock: str = ""
    request: str = f"SMTP {user(0)}\n"
    # The load's.
    options: str = ""
    command: Command = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class NotHere(Failed):
    """A peer is not on this machine. The text says how to get it."""


def running(stack: ExitStack, ground: Ground, *names: str, size: int) -> list[Peer]:
    """Run these peers, whose replies have so many bytes, until the stack is closed; return those that are here."""
    found = []
    for name in names if ground.peers else ():
        try:
            found.append(stack.enter_context(_PEERS[name](ground, size)))
        except FAULTS as fault:
            ground.missing[name] = str(fault)
    return found


@contextmanager
def _server(ground: Ground, size: int, *, who: str) -> Iterator[Peer]:
    """Run one of our own."""
    sock, fetch = str(ground.place() / "sock"), list[str | Path]()
    command: Command = [ground.tools.path("floor"), sock, str(size)]
    if who == ASYNCIO:
        command = [ground.python, INSIDE / "asyncio_server.py", sock, str(size)]
    if who == ORIGINAL:
        command = [ground.python, INSIDE / "original_server.py", sock, str(size), user(0)]
        fetch = [ground.python, INSIDE / "original_client.py", f"--user={user(0)}", f"--cms_sock={sock}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise Failed(f"{who} has ended")
            yield Peer(who, process.pid, sock, command=fetch, environment=environment(ground.folder))
        finally:
            process.kill()


@contextmanager
def _oidc_agent(ground: Ground, _: int) -> Iterator[Peer]:
    """Debian's oidc-agent, signed in to the sandbox's OpenID provider: it holds a token."""
    if not shutil.which("oidc-agent"):
        raise NotHere("apt install oidc-agent-cli")
    home = ground.place()
    (home / "oidc").mkdir(mode=0o700)
    settings = environment(home, OIDC_CONFIG_DIR=str(home / "oidc"), TMPDIR=str(home))
    # It goes into the background, and says where it is in the words of a shell.
    settings |= dict(re.findall(r"(OIDC\w+)=([^;]+);", output(["oidc-agent"], settings)))
    pid = int(settings["OIDCD_PID"])
    try:
        options = f"--iss={ground.entra.plain}/ --client-id=bench --client-secret=none --rt=first --scope=openid --prompt=none"
        output(["oidc-gen", "--manual", "--confirm-default", "--pw-cmd=echo none", *options.split(), "bench"], settings)
        yield Peer(OIDC_AGENT, pid, command=["oidc-token", "bench"], environment=settings)
    finally:
        os.kill(pid, signal.SIGTERM)


@contextmanager
def _mutt(ground: Ground, size: int) -> Iterator[Peer]:
    """Debian's mutt_oauth2.py with a token that is valid, and `cat` for gpg: the least that it can cost."""
    if not _MUTT_SCRIPT.exists():
        raise NotHere(f"{_MUTT_SCRIPT} is missing: apt install mutt")
    place = ground.place()
    script, tokens = place / "mutt_oauth2.py", place / "tokens"
    script.write_text(re.sub(r"(?m)^(\w+CRYPTION_PIPE) = .*$", r"\1 = ['cat']", _MUTT_SCRIPT.read_text()))
    tokens.touch(mode=0o600)
    held = {"access_token": "x" * size, "access_token_expiration": "2999-01-01T00:00:00", "refresh_token": "none"}
    tokens.write_text(json.dumps({"registration": "microsoft", "authflow": "authcode", "email": user(0), **held}))
    yield Peer(MUTT, command=[ground.python, script, tokens], environment=environment(place))


@contextmanager
def _pizauth(ground: Ground, _: int) -> Iterator[Peer]:
    """pizauth, which Debian does not have: where it is found in PATH."""
    program = shutil.which("pizauth")
    if program is None:
        raise NotHere("it is not in PATH")
    home = ground.place()
    (home / "run").mkdir(mode=0o700)
    settings, config = environment(home), home / "pizauth.conf"
    ends = f'auth_uri = "{ground.entra.plain}/none"; token_uri = "{ground.entra.plain}/token";'
    config.write_text(f'account "bench" {{ {ends} client_id = "bench"; scopes = ["offline_access"]; }}\n')
    sock = home / "run" / "pizauth" / "pizauth.sock"
    show = partial(
        subprocess.run, [program, "show", "bench"], env=settings, capture_output=True, text=True, check=False
    )
    with subprocess.Popen([program, "server", "-d", "-c", config], env=settings) as server:
        try:
            until(sock.exists, "pizauth's socket")
            found = re.search(r"http\S+", show().stderr)
            if not found:
                raise Failed("it shows no link")
            # Back from the sign-in's page, as a browser would come.
            asked = parse_qs(urlsplit(found[0]).query)
            back = f"{asked['redirect_uri'][0]}?{urlencode({'code': 'bench', 'state': asked['state'][0]})}"
            urllib.request.urlopen(back, timeout=PATIENCE).close()
            until(lambda: not show().returncode, "pizauth's token")
            yield Peer(
                PIZAUTH, server.pid, str(sock), "showtoken:withouturl bench", "-e", [program, "show", "bench"], settings
            )
        finally:
            server.terminate()


_PEERS: dict[str, Callable[[Ground, int], AbstractContextManager[Peer]]] = {
    **{who: partial(_server, who=who) for who in (ASYNCIO, FLOOR, ORIGINAL)},
    OIDC_AGENT: _oidc_agent,
    MUTT: _mutt,
    PIZAUTH: _pizauth,
}
