"""What the whole test run prints, logs and shows, kept so that a search for secrets can end it.

Every process of the run adds to files in one folder, named by an environment variable that all of them inherit.
`found_secrets` is the search. Secrets come from the sandbox's wire, so that none that Entra knows is missed, and from
callers of `keep_secret`. Files are found by their kind: `secrets-*` and the rest.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cms.sandbox.host import Host

FOLDER_VARIABLE = "CMS_TEST_EVIDENCE"

# Names under which secrets travel, in requests to Entra and in its answers.
SECRET_FIELDS = frozenset(
    (
        "access_token",
        "assertion",
        "client_assertion",
        "client_secret",
        "code",
        "code_verifier",
        "device_code",
        "id_token",
        "refresh_token",
    )
)

# Shorter words occur by chance, and no secret of the sandbox is shorter.
_SHORTEST = 20
_WORD = re.compile(rf"[A-Za-z0-9_+/~-]{{{_SHORTEST},}}")
# Any JSON web token, from any issuer.
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")

# SASL strings, which hide a token in one piece of base64.
_BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}")

_SAMPLE_SECONDS = 0.1

# A process of cms's forbids its core dumps as soon as Python runs. On a busy machine, under strace, that takes a while.
_EXPOSED_SECONDS = 60.0
# What the kernel says of a process whose memory no crash writes to a disk.
_NO_DUMP = re.compile(r"^Max core file size +0 +0 ", re.MULTILINE)

# What cms calls the file with its vault's key in the tests' configurations.
_KEY_FILES = ("vault-key", "vault.key")


def folder() -> Path | None:
    """Return where evidence goes, None outside a test run."""
    name = os.environ.get(FOLDER_VARIABLE)
    return Path(name) if name else None


def keep(kind: str, text: str | bytes | None) -> None:
    """Keep something that a person or a program could have seen."""
    _append(f"{kind}-{os.getpid()}", text.encode() if isinstance(text, str) else text)


def keep_secret(*secrets: str) -> None:
    """Name something that must be in no evidence."""
    _append(f"secrets-{os.getpid()}", "".join(f"{secret}\n" for secret in secrets if secret).encode())


def keep_files(where: Path) -> None:
    """Keep every log below a folder that is about to go, and learn the keys that lie there."""
    # Path.rglob raises where a program that is about to end removes a folder at this moment.
    for folder, _, names in os.walk(where):
        for file in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):
                if file.name.endswith("log") and file.is_file():
                    keep("logs", file.read_bytes())
                if file.name in _KEY_FILES and file.is_file():
                    keep_secret(*spellings(file.read_bytes().strip()))


def spellings(key: bytes) -> Iterator[str]:
    """Yield the ways to write a key that is in base64."""
    with suppress(ValueError):
        raw = b64decode(key, validate=True)
        yield from (key.decode(), urlsafe_b64encode(raw).decode(), raw.hex())


def _append(name: str, text: bytes | None) -> None:
    where = folder()
    if where is None or not text:
        return
    descriptor = os.open(where / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, text + b"\n")
    finally:
        os.close(descriptor)


def witness_sandbox() -> None:
    """Learn the secrets that any sandbox of this process is sent or gives away."""
    answer = Host.answer

    def witnessed(self: Host, request: Any) -> Any:
        reply = answer(self, request)
        keep_secret(*secrets_of(request.fields, reply.body, dict(reply.headers).get("Location", "")))
        return reply

    Host.answer = witnessed  # type: ignore[method-assign]  # the one place that sees both directions


def secrets_of(fields: dict[str, str], body: bytes, location: str) -> Iterator[str]:
    """Yield the secrets of one request and its answer."""
    yield from _secret_values(fields)
    yield from _secret_values(dict(parse_qsl(urlsplit(location).query)))
    try:
        answer = json.loads(body)
    except ValueError:
        return
    if isinstance(answer, dict):
        yield from _secret_values(answer)


def _secret_values(fields: dict[str, Any]) -> Iterator[str]:
    return (str(value) for name, value in fields.items() if name in SECRET_FIELDS)


def found_secrets(where: Path) -> list[str]:
    """Return, for each file of the evidence that holds a secret, a line that says so without quoting it."""
    wanted = known_secrets(where)
    return [problem for file in sorted(where.iterdir()) if (problem := _problem(file, wanted))]


def known_secrets(where: Path) -> set[str]:
    """Return the words by which all secrets so far are known."""
    wanted: set[str] = set()
    for file in where.glob("secrets-*"):
        wanted.update(*(pieces(line) for line in file.read_text().splitlines()))
    return wanted


def holds_secret(text: str, wanted: set[str]) -> bool:
    """Whether a text has one of these words in it, as it is or in base64, or any web token."""
    plain = _plain(text)
    sizes = {len(each) for each in wanted}
    return bool(_JWT.search(plain)) or any(_holds(word, wanted, sizes) for word in set(_WORD.findall(plain)))


def pieces(secret: str) -> set[str]:
    """Return the words by which a secret is known. A web token's header is everyone's, so it is not one of them."""
    head, _, rest = secret.partition(".")
    return set(_WORD.findall(rest if head.startswith("eyJ") else secret))


def _problem(file: Path, wanted: set[str]) -> str:
    if file.name.startswith("secrets-"):
        return ""
    if file.name.startswith("dumps-"):
        return f"{file.name}: a process whose memory a crash would write to a disk: {file.read_text(errors='replace')}"
    text = _plain(file.read_text(errors="replace"))
    if _JWT.search(text):
        return f"{file.name}: a JSON web token"
    sizes = {len(each) for each in wanted}
    if any(_holds(word, wanted, sizes) for word in set(_WORD.findall(text))):
        return f"{file.name}: a secret of the sandbox's"
    return ""


def _plain(text: str) -> str:
    """Return the text with whatever base64 in it decodes to text as well: SASL hides a token so."""
    decoded = (b64decode(word[: len(word) // 4 * 4]) for word in set(_BASE64.findall(text)))
    return "\n".join([text, *(each.decode("utf-8", "replace") for each in decoded)])


def _holds(word: str, wanted: set[str], sizes: set[int]) -> bool:
    """Whether a word is a secret or has one inside it."""
    return any(word[at : at + size] in wanted for size in sizes for at in range(len(word) - size + 1))


class Watch(threading.Thread):
    """Looks at environment, arguments and core-dump limit of every process that this one starts, directly or not."""

    def __init__(self, patience: float = _EXPOSED_SECONDS) -> None:
        super().__init__(name="evidence", daemon=True)
        self._patience = patience
        self._seen: set[tuple[str, bytes, bytes]] = set()
        # When a process of cms's was first seen that may dump its memory, by its number and its start: a number comes again.
        self._exposed: dict[str, float] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._ended.wait(_SAMPLE_SECONDS):
            # A test may use up all file descriptors of this process; the next look sees more again.
            with suppress(OSError):
                self._look_below(str(os.getpid()))

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()

    def _look_below(self, process: str) -> None:
        for child in children(process):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours to look at
                arguments = Path(f"/proc/{child}/cmdline").read_bytes()
                environment = Path(f"/proc/{child}/environ").read_bytes()
                if _is_another_runs(environment):
                    continue
                self._keep(child, arguments, environment)
                if is_cms(arguments.split(b"\0")):
                    # Behind the name, which may have spaces and parentheses in it: field 22 of proc(5).
                    started = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]
                    self._check_dumps(f"{child} {started}", arguments, Path(f"/proc/{child}/limits").read_text())
            self._look_below(child)

    def _check_dumps(self, process: str, arguments: bytes, limits: str) -> None:
        if _NO_DUMP.search(limits):
            self._exposed.pop(process, None)
        elif time.monotonic() - self._exposed.setdefault(process, time.monotonic()) > self._patience:
            keep("dumps", process.encode() + b" " + arguments.replace(b"\0", b" "))

    def _keep(self, process: str, arguments: bytes, environment: bytes) -> None:
        seen = (process, arguments, environment)
        if seen not in self._seen:
            self._seen.add(seen)
            keep("processes", (arguments + b"\n" + environment).replace(b"\0", b"\n"))


def is_cms(words: list[bytes]) -> bool:
    """Whether a command line is that of a process that holds tokens: the daemon, or its worker."""
    python = words[0].rpartition(b"/")[2].startswith(b"python")
    daemon = b"run" in words and any(word.rpartition(b"/")[2] == b"cms" for word in words)
    return python and (daemon or b"cms.grants" in words)


def _is_another_runs(environment: bytes) -> bool:
    """Whether a process belongs to a run of tests within this one, whose evidence is its own."""
    ours = f"{FOLDER_VARIABLE}={folder()}".encode()
    named = [each for each in environment.split(b"\0") if each.startswith(FOLDER_VARIABLE.encode())]
    return bool(named) and named != [ours]


def children(process: int | str) -> list[str]:
    """Return the ids of the processes that this one has started, as far as they are its children still."""
    found: list[str] = []
    # It may end meanwhile, or one of its threads.
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += (thread / "children").read_text().split()
    return found


def descendants(process: int | str) -> Iterator[str]:
    """Yield the ids of the processes below this one."""
    for child in children(process):
        yield child
        yield from descendants(child)


def witness_subprocesses() -> None:
    """Keep the arguments, environment and standard error of every program that the tests of this process start."""
    communicate, start = subprocess.Popen.communicate, subprocess.Popen.__init__

    def started(self: Any, args: Any, *given: Any, **named: Any) -> None:
        keep("commands", repr(args))
        keep("commands", repr(dict(named.get("env") or {})))
        start(self, args, *given, **named)

    def witnessed(self: Any, *given: Any, **named: Any) -> Any:
        output, errors = communicate(self, *given, **named)
        keep("errors", errors)
        if _shows_no_token(self.args):
            keep("output", output)
        return output, errors

    # Every helper of subprocess, and trio's processes too, begin and end here. Not an audit hook: while one runs in
    # Python, threads that start under coverage fail to be traced ("another trace function is being installed").
    subprocess.Popen.__init__ = started  # type: ignore[method-assign]  # as above
    subprocess.Popen.communicate = witnessed  # type: ignore[method-assign]  # as above


def _shows_no_token(arguments: Any) -> bool:
    """Whether this is the admin command or a mail test: their output never holds a token, as other programs' may."""
    words = [str(word) for word in arguments] if isinstance(arguments, (list, tuple)) else str(arguments).split()
    if any(word.startswith("--test-") for word in words):
        return True
    return any(Path(word).name == "cms" or word == "cms.main" for word in words)
