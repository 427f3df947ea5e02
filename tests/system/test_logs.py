from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from support.foreign import HOSTILE

from cms.system import logs
from cms_oauth.moves import cms, fill

JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJodHRwczovL291dGxvb2sifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
OPAQUE = "EwB4A8l6BAAUbDba3x2OMJElkF7gJ4z/VbCPEz0AAZ3d" + "aB3+/xYz" * 20 + "=="
REFRESH = "0.AXEBAtcsd2Zb9UOa." + "AgABAwEAAADW6jl31mB3T7ugrWTT8pFeAwDs" * 5
CODE = "1.AVEB-short-authorization-code_x.y"
LOGIN_URL = (
    "https://login.microsoftonline.com/common/oauth2/v2.0/authorize?client_id=122f4826-adf9-465d-8e84-e9d00bc9f234"
    "&response_type=code&redirect_uri=http%3A%2F%2F127.0.0.1%3A8080%2Foauth2%2Fmsal"
    "&scope=https%3A%2F%2Foutlook.office.com%2FSMTP.Send+offline_access+openid+profile&state=HvXbNdKpQwErTyUi"
    "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
    "&nonce=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08&client_info=1"
)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process's logging as it was."""
    monkeypatch.setattr(logs, "_current", logs._Current())
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.basicConfig(handlers=[], force=True)


def told(form: str = "logfmt", level: str = "info") -> io.StringIO:
    """Set the log up and return what it writes to."""
    out = io.StringIO()
    logs.setup(level=level, form=form, stream=out)
    return out


def handling(error: Exception, say: Callable[[], object]) -> None:
    """Log from the handler of this exception."""
    try:
        raise error
    except type(error):
        say()


def test_facts_for_another_place_are_as_in_a_line() -> None:
    """Masked, each value one word."""
    assert f'user="a b" why={logs.MASK} pid=7' == logs.pairs(user="a b", why=JWT, pid=7)


def test_a_line_is_time_level_event_and_facts() -> None:
    """A logfmt line has them in this order, and quotes what is not one word."""
    out = told()
    logs.get_logger().info("token answered", user="a@example.test", reason="", why="two words", count=3)

    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "T", out.getvalue())
    assert 'time=T level=info event="token answered" user=a@example.test reason="" why="two words" count=3\n' == line


@pytest.mark.parametrize("form", ["logfmt", "journal", "console", "json"])
def test_nothing_that_a_peer_sends_makes_a_second_line(form: str) -> None:
    """Line ends and terminal sequences in an event or a value are escaped."""
    out = told(form)
    logs.get_logger().warning("said\nby\x1b[2J", user="a\n<3>forged\x1b[2J")

    assert (1, False) == (out.getvalue().count("\n"), "\x1b" in out.getvalue())


@pytest.mark.parametrize("form", ["logfmt", "journal", "console", "json"])
def test_no_form_moves_a_cursor(form: str) -> None:
    """In an event, a value or the text of an exception."""
    out = told(form)
    logs.get_logger().error(f"said {HOSTILE}", user=HOSTILE, exc_info=ValueError(HOSTILE))

    assert out.getvalue().replace("\n", "").isprintable()
    assert "said" in out.getvalue()


def test_json_is_one_object_a_line() -> None:
    """The JSON form can be read back, level and facts as they were, other objects as text."""
    out = told("json")
    logs.get_logger().error("it failed", tries=2, where=OSError("disk full"))

    body = json.loads(out.getvalue())
    assert ("it failed", "error", 2, "disk full") == (body["event"], body["level"], body["tries"], body["where"])


def test_console_lines_are_for_reading() -> None:
    """On a terminal the level and the event come first, without names."""
    out = told("console")
    logs.get_logger().info("ready", accounts=2)

    assert re.fullmatch(r"[0-9TZ:-]+ info     ready accounts=2\n", out.getvalue())


@pytest.mark.parametrize("form", ["console", "journal"])
def test_a_command_is_shown_as_a_shell_takes_it(form: str) -> None:
    """People copy it from a terminal and from the journal; text of others keeps its escapes."""
    move = fill("sign in: {login}", {"login": cms("login", "o'connor@x")})
    out = told(form)
    logs.get_logger().warning("it ended", do=move, reason='it\'s "so"')

    assert out.getvalue().endswith(f'it ended do="{move}" reason="it\'s \\"so\\""\n')
    assert ["cms", "login", "o'connor@x"] == shlex.split(out.getvalue().split("`")[1])


def test_programs_get_the_same_command_from_their_form() -> None:
    """They read escapes."""
    move = fill("sign in: {login}", {"login": cms("login", "o'connor@x")})
    out = told("logfmt")
    logs.get_logger().warning("ended", do=move)

    assert move == json.loads(out.getvalue().partition("do=")[2])


def test_journal_lines_carry_a_priority_and_no_time() -> None:
    """journald knows the time and takes the priority from the head of every line."""
    out = told("journal")
    handling(OSError("disk full"), lambda: logs.get_logger().exception("it failed"))

    assert out.getvalue().startswith("<3>it failed\n<3>Traceback")
    assert all(line.startswith("<3>") for line in out.getvalue().splitlines())


def test_levels_below_the_chosen_one_are_silent() -> None:
    """At level warning an info line is not written."""
    out = told(level="warning")
    logs.get_logger().info("quiet")
    logs.get_logger().warning("loud")

    assert ["loud"] == re.findall(r"event=(\w+)", out.getvalue())


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        OPAQUE,
        REFRESH,
        f"user=a@example.test\x01auth=Bearer {JWT}\x01\x01",
        "auth=Bearer short-one",
        "Authorization: Bearer abc.def-ghi",
        f"GET /oauth2/msal?code={CODE}&state=x HTTP/1.1",
        f'{{"access_token": "{REFRESH}", "token_type": "Bearer"}}',
        "{'refresh_token': 'r3fresh-me'}",
        r"{\"client_secret\": \"s3cr3t~value\"}",
        "client_secret=s3cr3t~value&grant_type=x",
        "code_verifier=abcdefghijklmnop",
        "dXNlcj1hQGV4YW1wbGUudGVzdAFhdXRoPUJlYXJlciB4",
        "bixhPWFAZXhhbXBsZS50ZXN0LAFhdXRoPUJlYXJlciB4",
    ],
)
@pytest.mark.parametrize("form", ["logfmt", "journal", "console", "json"])
def test_what_has_a_secrets_shape_is_masked_wherever_it_is(text: str, form: str) -> None:
    """In the event, a value, a nested value and an exception's text: nothing of the secret stays, in any form."""
    out = told(form)
    say = partial(logs.get_logger().exception, f"said {text}", line=text, nested={"body": [text]})
    handling(ValueError(text), say)

    secrets = [
        JWT, OPAQUE, REFRESH, CODE, "short-one", "abc.def", "r3fresh", "s3cr3t", "abcdefghijklmnop", "aAFhdXRo", "AFhdXRo",
    ]  # fmt: skip
    assert [] == [secret for secret in secrets if secret in out.getvalue()]
    assert logs.MASK in out.getvalue()


@given(
    st.sampled_from(
        ["eyJ", "Ew", "dXNlcj", "bixhP", "Bearer ", "code=", "access_token:", "'secret': '", "passphrase="]
    ),
    st.text("aB0-_.+/= \n\"'\\", max_size=100),
)
def test_looking_for_signs_first_overlooks_nothing(head: str, tail: str) -> None:
    """The short cut of `mask` gives what the whole expression gives, for everything that begins like a secret."""
    text = f"{tail}{head}{tail}"

    assert logs._SECRET_SHAPE.sub(logs._masked, text) == logs.mask(text)
    assert logs._SECRET_SHAPE.sub(logs._masked, tail) == logs.mask(tail)


@pytest.mark.parametrize(
    "text",
    [
        LOGIN_URL,
        "code=sign-in-required",
        "/home/somebody/with/a/long/path/that/goes/on/and/on/for/a/while/until/it/ends/here/state/cms/vault.file",
        "AADSTS50173: correlation id 9a7e3c7e-5d5e-4b0c-9a53-2f1f8f6d0f11",
        "user_code: A1B2C3D4E",
    ],
)
def test_what_a_person_needs_to_see_is_not_masked(text: str) -> None:
    """A login address, a code of the wire protocol, a path, Entra's ids and a device flow's user code stay whole."""
    assert text == logs.mask(text)


def test_values_with_a_secrets_name_are_left_out() -> None:
    """What is called a token, secret, key, verifier or code is dropped, however harmless it looks."""
    out = told()
    logs.get_logger().info(
        "x", token="a", access_token="b", client_secret="c", Password="d", code_verifier="e", code="F00", key="g"
    )

    assert out.getvalue().endswith("event=x\n")


def test_harmless_values_with_such_names_stay() -> None:
    """Numbers, flags, the wire protocol's codes and a device flow's user code say something and give nothing away."""
    out = told()
    logs.get_logger().info("x", code="sign-in-required", token=True, key=None, user_code="AB12", exit_code="0")

    assert out.getvalue().endswith('event=x code=sign-in-required token=True key="" user_code=AB12 exit_code=0\n')


def test_a_traceback_shows_no_local_variable() -> None:
    """The exception and where it was raised are shown; the values around it are not."""
    out = told()

    def fail() -> None:
        hidden = "local-value-" + "x" * 5
        raise RuntimeError("broken", len(hidden))

    with pytest.raises(RuntimeError) as caught:
        fail()
    logs.get_logger().error("it failed", exc_info=caught.value)

    assert "RuntimeError: ('broken', 17)" in out.getvalue()
    assert "local-value-x" not in out.getvalue()


def test_a_traceback_may_come_as_a_tuple_or_not_at_all() -> None:
    """`exc_info` takes all that logging takes; without an exception there is no traceback."""
    out = told()
    handling(RuntimeError("broken"), lambda: logs.get_logger().error("a", exc_info=sys.exc_info()))
    logs.get_logger().error("b", exc_info=True)

    first, second = out.getvalue().splitlines()
    assert ("RuntimeError: broken" in first, "traceback" in second) == (True, False)


def test_a_line_has_an_end() -> None:
    """However much is logged at once, a line stays within its bound."""
    out = told()
    logs.get_logger().info("x", text="a b " * 100_000)

    assert logs.MAX_LINE + 1 == len(out.getvalue())


def test_libraries_log_the_same_way() -> None:
    """What goes through logging, exceptions included, comes out as our lines, masked."""
    out = told()
    handling(OSError("no route"), partial(logging.getLogger("some.library").exception, "failed with %s", JWT))

    assert 'event="failed with [masked]" library=some.library traceback=' in out.getvalue()
    assert "level=error" in out.getvalue()


def test_a_library_may_get_its_format_wrong() -> None:
    """Arguments that do not fit cost the arguments, not the line."""
    out = told()
    logging.getLogger("some.library").warning("two %s %s", "one")  # noqa: PLE1206 - the library's mistake

    assert 'level=warning event="two %s %s"' in out.getvalue()


@pytest.mark.parametrize(
    ("number", "name"), [(10, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "critical")]
)
def test_levels_of_logging_are_ours(number: int, name: str) -> None:
    """Each level of logging's comes out under its own name."""
    out = told(level="debug")
    logging.getLogger("some.library").log(number, "x")

    assert f"level={name} " in out.getvalue()


@pytest.mark.parametrize("library", ["msal.oauth2cli.authcode", "urllib3.connectionpool"])
def test_libraries_that_print_codes_never_get_to_debug(library: str) -> None:
    """msal's and urllib3's debug lines hold authorization codes: they stay off at level debug."""
    out = told(level="debug")
    logging.getLogger(library).debug("code is here")
    logging.getLogger(library).info("said")

    assert ["said"] == re.findall(r"event=(\w+)", out.getvalue())


def test_a_shortage_of_descriptors_is_not_said_again_and_again() -> None:
    """trio's own line about it, ten a second with a traceback each, is left out."""
    out = told()
    logging.getLogger("trio.serve_listeners").error("accept returned %s", "EMFILE", exc_info=OSError("short"))

    assert "" == out.getvalue()


def test_warnings_go_to_the_log() -> None:
    """Python's warnings are lines of the log, not text on standard error."""
    out = told()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)

    assert "this is old" in out.getvalue()


def test_a_log_that_cannot_be_written_raises_nothing() -> None:
    """A closed or full log loses lines and raises nothing."""
    out = told()
    out.close()
    logs.get_logger().info("unheard")

    assert out.closed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_form_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets the console form, systemd's journal its own, anything else logfmt."""
    with open(os.devnull, "w") as devnull:  # noqa: PTH123 - a stream with a descriptor is what is needed
        status = os.fstat(devnull.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")

        forms = [logs._form_for(stream) for stream in (Terminal(), devnull, io.StringIO())]

    assert ["console", "journal", "logfmt"] == forms


def test_auto_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the log is standard error, from info up."""
    logs.setup()
    logs.get_logger().info("hello")

    assert "level=info event=hello" in capsys.readouterr().err


def test_an_uncaught_exception_is_a_line_of_the_log() -> None:
    """The daemon's excepthook masks the exception's text; Ctrl-C is no bug."""
    out = told()
    logs.log_uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    logs.log_uncaught(ValueError, ValueError(f"said {JWT}"), None)

    assert 1 == out.getvalue().count("\n")
    assert 'level=critical event="cms ends by a bug"' in out.getvalue()
    assert "ValueError: said [masked]" in out.getvalue()


# --- how much there may be ---


def flood(level: str, size: int) -> None:
    """Log so many bytes at a level, and more."""
    say = getattr(logs.get_logger(), level)
    for number in range(size // 8000 + 1):
        say("flood", number=number, text="x y " * 2000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only member is the time."""
    now = [1000.0]
    monkeypatch.setattr(logs, "_clock", lambda: now[0])
    return now


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "exception", "critical"])
def test_a_flood_does_not_fill_a_disk(clock: list[float], level: str) -> None:
    """A share is written and no more, and what was left out is counted."""
    out = told(level="debug")
    flood(level, 2 * logs.SHARE)
    written, lines = out.getvalue(), 2 * logs.SHARE // 8000 + 1

    assert logs.SHARE - 9000 < len(written) <= logs.SHARE
    assert lines == written.count("\n") + logs.left_out()


def test_fewer_lines_are_all_written(clock: list[float]) -> None:
    """The twin of the flood: half a share loses nothing."""
    out = told()
    flood("info", logs.SHARE // 2)

    assert (logs.SHARE // 2 // 8000 + 1, 0) == (out.getvalue().count("\n"), logs.left_out())


@pytest.mark.parametrize(
    ("flooded", "others"),
    [("info", ("warning", "error")), ("warning", ("info", "error")), ("error", ("info", "warning"))],
)
def test_a_flood_of_one_level_silences_no_other(clock: list[float], flooded: str, others: tuple[str, str]) -> None:
    """Each has a share of its own."""
    out = told()
    flood(flooded, 2 * logs.SHARE)
    for level in others:
        getattr(logs.get_logger(), level)("still here", level_of=level)

    assert [level in line for level, line in zip(others, out.getvalue().splitlines()[-2:], strict=True)] == [True, True]


def test_what_was_left_out_is_told_when_there_is_room(clock: list[float]) -> None:
    """In one line, before the first that is written again; and once."""
    out = told()
    flood("info", 2 * logs.SHARE)
    lost, before = logs.left_out(), len(out.getvalue())
    clock[0] += 3600
    logs.get_logger().info("later")
    logs.get_logger().info("later still")
    note, *rest = out.getvalue()[before:].splitlines()

    assert f"level=warning event={json.dumps(logs._LEFT_OUT)} lines={lost}" in note
    assert [True, True] == ["later" in line for line in rest]
