"""The log: one line for each event on standard error, without secrets.

Three filters keep secrets out of it. They are a safety net: no code may log a secret.

- A value is left out if its name looks like that of a secret.
- Text that looks like a secret is masked anywhere in a line.
- Tracebacks have no local variables.

Nor can it fill a disk: each level has a share of what may be written in a day, so that a flood of one kind does not silence
another. What is left out is counted, in the log itself and in `cms status`.

Only this file imports structlog. It uses few processors, because logging a request costs more time than answering it (a
fifth more with structlog's usual processors).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Protocol, TextIO

import structlog

from cms.core.ration import Ration
from cms_oauth.moves import Move
from cms_oauth.text import shown

LEVELS = ("debug", "info", "warning", "error")
FORMS = ("auto", "console", "logfmt", "journal", "json")

# A traceback with an exception group has about 10 KB. A longer line is of no use, and may be meant to fill the disk.
MAX_LINE = 32 * 1024

# What each share of the log may have at once, and in each day after that, in bytes. A healthy account has a few lines a day,
# and an outage of ten thousand accounts two megabytes. All shares together: 12 MB a day.
SHARE = 4 * 1024 * 1024
_SHARES = {"debug": "info", "exception": "error", "critical": "error"}

MASK = "[masked]"

# Names of values that are left out. `code` is also the name of harmless values, see `_is_harmless`.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:token|secret|password|passphrase|verifier|assertion|credential|authorization|auth|cookie|key|code)s?$",
    re.IGNORECASE,
)
_HARMLESS_NAMES = frozenset({"user_code", "exit_code", "status_code"})
# A word of the wire protocol (`sign-in-required`) or a number, not an authorization code.
_HARMLESS_CODE = re.compile(r"[a-z-]{1,24}|[0-9]{1,6}")

# What secrets look like in running text.
_NAMED = (
    r"(?:access_token|refresh_token|id_token|client_secret|client_assertion|assertion|device_code|code_verifier"
    r"|client_info|password|passphrase|secret)"
)
_SECRET_SHAPE = re.compile(
    # A JWT: three base64url parts of which the first is a JSON object.
    r"(?P<jwt>\beyJ[\w-]{8,}(?:\.[\w-]*)*)"
    # Microsoft's opaque access tokens for personal accounts.
    r"|(?P<opaque>\bEw[\w+/-]{40,}=*)"
    # XOAUTH2 and OAUTHBEARER in base64: "user=" and "n,a=".
    r"|(?P<sasl>\b(?:dXNlcj|bixhP)[\w+/]{20,}=*)"
    # HTTP's and SASL's own form.
    r"|(?P<bearer>(?<=\bBearer )[^\s\"'\\,]{8,})"
    # An authorization code in a URL or a form. Words of the wire protocol are shorter.
    r"|(?P<code>(?<=\bcode=)[^\s\"'\\&]{20,})"
    # JSON, Python's repr and forms, with any number of escapes.
    rf"|(?P<named>(?P<name>\b{_NAMED}\\*[\"']?\s*[:=]\s*\\*[\"']?)[^\s\"'\\&,;]{{6,}})"
    # Refresh tokens, and anything else that is long and has no structure. A login link has no part as long, so people
    # see all of it: its longest parts are the nonce (64) and the PKCE challenge (43).
    r"|(?P<long>[\w.~+!*$-]{80,})",  # _LONG
    # Secrets are ASCII, and so are small tables.
    re.ASCII,
)

# The expression above can only match a line that contains one of these, or a word as long as `_LONG`. Looking for these
# first costs a tenth as much, and most lines have none of them.
_SIGNS = ("eyJ", "Ew", "dXNlcj", "bixhP", "Bearer ", "code", "token", "secret", "assertion", "client_info", "pass")
_LONG = 80

# Libraries that log secrets at debug level: msal logs authorization codes, urllib3 URLs that contain them.
_NEVER_DEBUG = ("msal", "urllib3")

# When descriptors run out, trio logs a traceback ten times a second for every TCP listener. The token sockets and the
# control socket already log it once.
_NEVER = "trio.serve_listeners"

# The prefix that tells journald a line's priority (sd-daemon(3)).
_PRIORITY = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}

Event = MutableMapping[str, Any]
Renderer = Callable[[str, Event, str], str]


class Logger(Protocol):
    """The logger of a module. Values are named facts; none may be a secret."""

    def debug(self, event: str, **values: object) -> None: ...
    def info(self, event: str, **values: object) -> None: ...
    def warning(self, event: str, **values: object) -> None: ...
    def error(self, event: str, **values: object) -> None: ...
    def critical(self, event: str, **values: object) -> None: ...
    def exception(self, event: str, **values: object) -> None: ...


def get_logger() -> Logger:
    """Return a logger. May be called before `setup`, as modules do when they are imported."""
    logger: Logger = structlog.get_logger()
    return logger


def setup(*, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send the log to `stream` (default: standard error), from `level` (of `LEVELS`) up, in one of `FORMS`.

    The logging and warnings of libraries go there too. "auto" is "console" on a terminal, "journal" if journald reads
    standard error, else "logfmt".
    """
    out = stream or sys.stderr
    chosen = _form_for(out) if form == "auto" else form
    rendered = _Line(_RENDERERS[chosen])
    _current.budget = _Budget(rendered)
    structlog.configure(
        processors=[_without_secrets, rendered, _current.budget],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Sink(out),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Bridge()], level=level.upper(), force=True)
    logging.captureWarnings(True)
    logging.getLogger(_NEVER).disabled = True
    for name in _NEVER_DEBUG:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))


def left_out() -> int:
    """Return how many lines were left out since `setup`, because their share was used up."""
    return _current.budget.left_out


def mask(text: str) -> str:
    """Return the text with everything masked that looks like a secret."""
    if any(sign in text for sign in _SIGNS) or any(len(word) >= _LONG for word in text.split()):
        return _SECRET_SHAPE.sub(_masked, text)
    return text


def _masked(match: re.Match[str]) -> str:
    return f"{match['name'] or ''}{MASK}"


def stamp() -> str:
    """Return the time as the log writes it."""
    return _stamp(int(time.time()))


def pairs(**values: object) -> str:
    """Return facts as a line of the log has them, masked, for a record that is kept elsewhere."""
    return mask(_pairs(values, ""))[:MAX_LINE]


def _form_for(out: TextIO) -> str:
    if out.isatty():
        return "console"
    return "journal" if _is_journal(out) else "logfmt"


def _is_journal(out: TextIO) -> bool:
    """True if journald reads this stream, and it was not redirected to a file or pipe."""
    try:
        status = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Sink:
    """Writes lines. It ignores errors (a full disk, a pipe without a reader), so that they do not stop the daemon."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def msg(self, line: str) -> None:
        try:
            self._out.write(line)
            self._out.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


def _without_secrets(_logger: object, _method: str, event: Event) -> Event:
    for name in [name for name, value in event.items() if _looks_secret(name) and not _is_harmless(name, value)]:
        del event[name]
    return event


@lru_cache(maxsize=1024)
def _looks_secret(name: str) -> bool:
    return name not in _HARMLESS_NAMES and _SECRET_NAME.search(name) is not None


def _is_harmless(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool | float | int):
        return True
    return name == "code" and isinstance(value, str) and _HARMLESS_CODE.fullmatch(value) is not None


class _Line:
    """Renders an event as a line, masked and limited in length."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def __call__(self, _logger: object, method: str, event: Event) -> str:
        level = "error" if method == "exception" else method
        trace = _traceback(event.pop("exc_info", None))
        return mask(self._renderer(level, event, trace))[:MAX_LINE] + "\n"


class _Budget:
    """Leaves lines out whose share is used up, and says how many when the share has room again."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._shares = {name: Ration(SHARE, SHARE) for name in ("info", "warning", "error")}

    @property
    def left_out(self) -> int:
        return sum(share.refused for share in self._shares.values())

    # structlog's types say that a processor takes an event; this one has what the one before it returned.
    def __call__(self, _logger: object, method: str, line: Any) -> str:
        assert isinstance(line, str)
        share = self._shares[_SHARES.get(method, method)]
        if not share.take(len(line.encode(errors="replace")), _clock()):
            raise structlog.DropEvent
        if not share.untold:
            return line
        return self._line(None, "warning", {"event": _LEFT_OUT, "lines": share.told()}) + line


_LEFT_OUT = "lines were left out here: more came than the log may have in a day"

_clock = time.monotonic


def _traceback(exc_info: object) -> str:
    """Return a traceback as text, with the messages of exceptions but without local variables."""
    if exc_info is True:
        exc_info = sys.exception()
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    return "".join(traceback.format_exception(exc_info)).rstrip() if isinstance(exc_info, BaseException) else ""


@lru_cache(maxsize=1)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def _text(value: object) -> str:
    """Return a value as one word, quoted if needed, so that text from a peer stays within its line."""
    text = "" if value is None else str(value)
    if text and text.isprintable() and not _QUOTED.search(text):
        return text
    # ensure_ascii, because JSON does not escape C1 controls and marks of direction.
    return json.dumps(text, ensure_ascii=not text.isprintable())


_QUOTED = re.compile(r"[\s\"=\\]")


def _shown(value: object) -> str:
    """Return a value as `_text` does, but a move without escapes: people copy its commands into a shell."""
    return f'"{value}"' if isinstance(value, Move) and value.isprintable() else _text(value)


def _pairs(event: Event, trace: str, text: Callable[[object], str] = _text) -> str:
    pairs = [f"{name}={text(value)}" for name, value in event.items() if name != "event"]
    return " ".join([*pairs, f"traceback={_text(trace)}"] if trace else pairs)


def _logfmt(level: str, event: Event, trace: str) -> str:
    return f"time={stamp()} level={level} event={_text(event['event'])} {_pairs(event, trace)}".rstrip()


def _journal(level: str, event: Event, trace: str) -> str:
    # journald adds the time. Each line of a traceback is a separate entry, so that journalctl shows it unchanged.
    head = f"{_PRIORITY[level]}{_sentence(event)}"
    return "\n".join([head, *(f"{_PRIORITY[level]}{line}" for line in shown(trace).split("\n") if line)])


def _console(level: str, event: Event, trace: str) -> str:
    head = f"{stamp()} {level:<8} {_sentence(event)}"
    return f"{head}\n{shown(trace)}" if trace else head


def _sentence(event: Event) -> str:
    said = str(event["event"])
    said = said if said.isprintable() else _text(said)
    return f"{said} {_pairs(event, '', _shown)}".rstrip()


def _json(level: str, event: Event, trace: str) -> str:
    body = {"time": stamp(), "level": level, **event}
    whole = {**body, "traceback": trace} if trace else body
    rendered = _encode(whole)
    # JSON does not escape C1 controls and marks of direction, and people read the log too.
    return rendered if rendered.isprintable() else json.dumps(whole, default=str)


# One encoder for all lines: json.dumps creates a new one for each call with arguments.
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode

_RENDERERS: dict[str, Renderer] = {"logfmt": _logfmt, "journal": _journal, "console": _console, "json": _json}


class _Current:
    """What `setup` has set up."""

    budget = _Budget(_Line(_logfmt))


_current = _Current()


class _Bridge(logging.Handler):
    """Passes what libraries log, and Python's warnings, to this log."""

    def emit(self, record: logging.LogRecord) -> None:
        say = getattr(structlog.get_logger(), _level_name(record.levelno))
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            # The arguments do not fit the format string. That is the library's bug; the line is logged anyway.
            said = str(record.msg)
        say(said, library=record.name, exc_info=_exception(record.exc_info))


def _level_name(number: int) -> str:
    for least, name in ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warning")):
        if number >= least:
            return name
    return "info" if number >= logging.INFO else "debug"


def _exception(exc_info: object) -> BaseException | None:
    return exc_info[1] if isinstance(exc_info, tuple) else None


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception. The daemon's `sys.excepthook`, because Python's own prints the text unmasked."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("cms ends by a bug", exc_info=error.with_traceback(trace))
