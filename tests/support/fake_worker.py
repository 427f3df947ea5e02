"""A grant worker that does what the grant's login says, to prove that the daemon outlives all of it.

Run as the real one is: a socket as standard input, lines of `cms.grants.messages` both ways. The state folder of the
first message is a scratch folder: each process adds its id to `started` in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from cms.core.accounts import StoredSignIn
from cms.core.lifecycle import Granted, Refused, SignInFacts, Transient, Trouble
from cms.grants import messages
from cms.grants.messages import (
    Acquire,
    Cancel,
    Delete,
    Done,
    Explore,
    Explored,
    Export,
    Exported,
    Heard,
    Import,
    Listed,
    Look,
    Looked,
    Place,
    Prompt,
    Redirected,
    SignIn,
    SignOut,
    Survey,
)


class Fake:
    def __init__(self) -> None:
        self.sock = socket.socket(fileno=os.dup(0))
        # Until `Open` names one, what is noted goes nowhere.
        self.folder = Path("/dev/null")
        self.memory: set[str] = set()

    def run(self) -> None:
        with self.sock.makefile("rb") as lines:
            for line in lines:
                self.take(messages.unpack_question(line))
        self.note("closed")

    def take(self, question: messages.Question) -> None:
        match question:
            case messages.Open(state_folder=folder):
                self.folder = Path(folder)
                self.note("started", str(os.getpid()))
            case Acquire(number=number, grant=grant):
                self.act(number, grant.login.partition("@")[0])
            case Look(number=number, grant=grant):
                self.done(number, Looked(5.0) if grant.login.startswith("alike") else granted(number))
            case SignIn(number=number, grant=grant, method=method, claims=claims):
                self.note("claims", claims)
                self.note("clients", grant.client_id)
                self.sign_in(number, grant.login.partition("@")[0], method)
            case Redirected(number=number, fields=fields):
                self.redirected(number, fields["code"])
            case Cancel(number=number):
                self.note("cancelled", str(number))
            case SignOut(number=number, grant=grant) if grant.login.startswith("kept"):
                self.done(number, Transient(Trouble("storage", "the disk is read-only", "mount it")))
            case Import(number=number, grant=grant, place=place):
                self.bring_in(number, grant.login.partition("@")[0], place)
            case SignOut(number=number):
                self.memory.clear()
                self.done(number, Granted("", 0.0, 0.0))
            case _:
                self.attend(question)

    def attend(self, question: messages.Question) -> None:
        """Answer a question about the vault or the surroundings as a whole."""
        match question:
            case Survey(number=number, keys=keys):
                self.done(
                    number, Listed(tuple(StoredSignIn(key, "https://login.example.test/x", "c", key) for key in keys))
                )
            case Delete(number=number):
                self.done(number, Granted("", 0.0, 0.0))
            case Explore(number=number, url=url) if url != "refused":
                self.done(number, Explored(url, "", unknown=False, no_keyring=""))
            case Explore(number=number):
                self.done(number, Transient(Trouble("network", "no network")))
            case Export(number=number, grants=grants):
                self.done(number, Exported("sealed", tuple(grant.key for grant in grants)))

    def act(self, number: int, what: str) -> None:  # noqa: C901, PLR0912 - one case for each way to behave
        """Do what the login says; "-once" means the first process only."""
        if what.endswith("-once") and self.is_first():
            what = what.removesuffix("-once")
        match what:
            case "hang":
                self.note("hung")
            case "die":
                os._exit(3)
            case "leave":
                self.sock.close()
                os._exit(0)
            case "garbage":
                self.sock.sendall(b"this is no message\n")
            case "babble":
                self.babble()
            case "chatty":
                self.chatter()
                self.done(number, granted(number))
            case "told":
                self.send(Heard(("a-grant",)))
                self.done(number, granted(number))
            case "twice":
                self.done(number, granted(number))
                self.done(number, granted(number))
                self.done(999_999, granted(number))
            case "surroundings":
                self.done(number, Transient(Trouble("network", json.dumps(surroundings()))))
            case "stored":
                self.done(number, replace(granted(number), sign_in=SignInFacts(redeemed_at=1.0)))
            case "stubborn":
                self.done(number, granted(number))
                time.sleep(3600)
            case "unsigned" | "machine":
                self.done(number, Refused(Trouble("no-sign-in", "nobody has signed in", "sign in", claims='{"a":1}')))
            case "storing":
                self.finish_late()
            case "memory" if what not in self.memory:
                self.done(number, Refused(Trouble("no-sign-in", "not in this process")))
            case "memory":
                self.done(number, granted(number, persisted=False))
            case _:
                self.done(number, granted(number))

    def sign_in(self, number: int, what: str, method: str) -> None:
        if what == "refused":
            self.done(number, Refused(Trouble("refused", "no")))
        elif what == "dead":
            os._exit(3)
        elif what != "silent":
            if what == "memory":
                self.memory.add(what)
            self.send(Prompt(number, method, "https://login.example.test/", state="s", expires_in=600.0))

    def bring_in(self, number: int, what: str, place: Place) -> None:
        """A path that ends with "sealed" has a password: "open"."""
        self.note("imported", f"{place.path} {place.source} {place.entry}")
        if what == "refused":
            self.done(number, Refused(Trouble("unfit", "no", "why not")))
        elif place.path.endswith("sealed") and place.password != "open":
            kind = "unfit" if place.password else "password"
            self.done(number, Refused(Trouble(kind, "it has a password")))
        else:
            self.done(number, granted(number, persisted=what != "memory"))

    def redirected(self, number: int, code: str) -> None:
        if code != "hang":
            self.done(number, granted(number, persisted=not self.memory))

    def babble(self) -> None:
        try:
            while True:
                self.sock.sendall(b"x" * 65_536)
        except OSError:
            time.sleep(3600)

    def chatter(self) -> None:
        print("hello from the worker", flush=True)
        print("eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl", file=sys.stderr, flush=True)
        print("y" * 100_000, file=sys.stderr, flush=True)
        print("".join(f"line {number}\n" for number in range(2000)), end="no end of line", flush=True)

    def finish_late(self) -> None:
        """Answer nothing, as while Entra is asked; once the socket closes, store and end."""
        self.note("storing")
        while self.sock.recv(1024):
            pass
        self.note("stored")
        os._exit(0)

    def is_first(self) -> bool:
        return len((self.folder / "started").read_text().split()) == 1

    def note(self, name: str, text: str = "") -> None:
        if self.folder.is_dir():
            with (self.folder / name).open("a") as out:
                out.write(f"{text}\n")

    def done(self, number: int, outcome: messages.Ended) -> None:
        self.send(Done(number, outcome))

    def send(self, reply: messages.WorkerReply) -> None:
        self.sock.sendall(messages.pack(reply))


def granted(number: int, *, persisted: bool = True) -> Granted:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Granted(
        f"token-{os.getpid()}-{number}", now, 3600.0, sign_in=SignInFacts(persisted=persisted, key_from="fake")
    )


def surroundings() -> dict[str, list[str]]:
    """Return the names in the environment and what the descriptors are."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        # The folder itself is open while it is listed, and gone when its turn comes.
        with contextlib.suppress(FileNotFoundError):
            links.append(str(link.readlink()))
    return {"environment": sorted(os.environ), "descriptors": links, "flags": [str(sys.flags.isolated)]}


if __name__ == "__main__":
    Fake().run()
