"""`cms_oauth` as a library, against a daemon that follows a script: what it returns, asks and raises."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.foreign import HARMLESS, HOSTILE
from support.scripted import Daemon

import cms_oauth
from cms_oauth import library, sasl, wire

TOKEN = "eyJ0eXAi.T-o_k~e+n/" + "x" * 40
OTHER = "eyJ0eXAi." + "y" * 40
USER = "user@domain.com"
XOAUTH2 = sasl.xoauth2(USER, TOKEN).encode()
FRESH = sasl.xoauth2(USER, OTHER).encode()
LINE = wire.refusal_line("sign-in-required", f"nobody is signed in as {USER}", "log in", 42)
REFUSAL = json.dumps(wire.json_refusal("sign-in-required", f"nobody is signed in as {USER}", "log in", 42)).encode()

Scripted = Callable[..., Daemon]


@pytest.fixture
def scripted(tmp_path: Path) -> Scripted:
    """Make a daemon that gives these answers."""
    return lambda *answers: Daemon(tmp_path / "cms.sock", *answers)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def test_a_token(scripted: Scripted) -> None:
    """A bare token for the user and the protocol that are named."""
    with scripted(XOAUTH2) as daemon:
        answer = cms_oauth.token(USER, protocol="IMAP", socket=daemon.path)

    assert TOKEN == answer
    assert [f"IMAP,why {USER}\n".encode()] == daemon.requests


def test_the_only_account_and_the_usual_place(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments: SMTP, for the only account, from where $CMS_SOCK says."""
    with scripted(XOAUTH2) as daemon:
        monkeypatch.setenv("CMS_SOCK", daemon.path)
        answer = cms_oauth.token()

    assert TOKEN == answer
    assert [b"SMTP,why\n"] == daemon.requests


def test_a_refused_token_is_named_by_its_hash(scripted: Scripted) -> None:
    """cms answers with another token; the same one again is an error."""
    with scripted(FRESH, XOAUTH2) as daemon:
        fresh = cms_oauth.token(USER, rejected=TOKEN, socket=daemon.path)
        with pytest.raises(cms_oauth.TokenError) as caught:
            cms_oauth.token(USER, rejected=TOKEN, socket=daemon.path)

    assert OTHER == fresh
    assert 2 * [f"SMTP,why,rejected={digest(TOKEN)} {USER}\n".encode()] == daemon.requests
    assert "unavailable" == caught.value.code


@pytest.mark.parametrize("refused", ["caf\udce9", "\ud800", "p\xe4ss word"])
def test_a_refused_word_that_is_no_token_has_a_hash(scripted: Scripted, refused: str) -> None:
    """Bytes that are not UTF-8, as the command line decodes them, give a hash like any other and no UnicodeError."""
    with scripted(XOAUTH2) as daemon:
        answer = cms_oauth.token(USER, rejected=refused, socket=daemon.path)

    assert TOKEN == answer
    assert wire.parse_request(daemon.requests[0]).rejected


@pytest.mark.parametrize("answers", [(LINE,), (b"", REFUSAL)], ids=["this daemon", "an older one"])
def test_an_error_has_all_that_the_daemon_said(scripted: Scripted, answers: tuple[bytes, ...]) -> None:
    """Code, message, hint, the pause, and the exit status that goes with the code."""
    with scripted(*answers) as daemon, pytest.raises(cms_oauth.TokenError) as caught:
        cms_oauth.token(USER, socket=daemon.path)

    error = caught.value
    assert ("sign-in-required", f"nobody is signed in as {USER}") == (error.code, error.message)
    assert ("log in; cms tries again in 42 s", 42, 75) == (error.hint, error.retry_after, error.exit_code)
    assert f"nobody is signed in as {USER} (sign-in-required) - log in; cms tries again in 42 s" == str(error)
    assert len(answers) == len(daemon.requests)


@pytest.mark.parametrize("pause", ["soon", -1, None])
def test_an_invalid_pause_is_ignored(scripted: Scripted, pause: object) -> None:
    """The library ignores an invalid pause from a later daemon."""
    refusal = json.dumps({"error": {"code": "of-tomorrow", "message": "no", "retry_after": pause}}).encode()
    with scripted(b"", refusal) as daemon, pytest.raises(cms_oauth.TokenError) as caught:
        cms_oauth.token(USER, socket=daemon.path)

    assert (0, 75, "run: cms status") == (caught.value.retry_after, caught.value.exit_code, caught.value.hint)


def test_no_daemon(tmp_path: Path) -> None:
    """What the client says itself is raised as well."""
    with pytest.raises(cms_oauth.TokenError) as caught:
        cms_oauth.token(USER, socket=str(tmp_path / "none"))

    assert ("no-daemon", 69, 0) == (caught.value.code, caught.value.exit_code, caught.value.retry_after)


FORMS = pytest.mark.parametrize(("mechanism", "form"), [("XOAUTH2", sasl.xoauth2), ("OAUTHBEARER", sasl.oauthbearer)])


@FORMS
def test_smtp_login(scripted: Scripted, mechanism: str, form: Callable[[str, str], str]) -> None:
    """The credential at once or after an empty invitation; a refusal's reason is answered without it."""
    with scripted(XOAUTH2) as daemon:
        answer = cms_oauth.Login(USER, mechanism=mechanism, socket=daemon.path).smtp()

    assert [form(USER, TOKEN), form(USER, TOKEN)] == [answer(), answer(b"")]
    assert sasl.closing_answer(mechanism) == answer(b'{"status":"401"}')
    assert [f"SMTP,why {USER}\n".encode()] == daemon.requests


@FORMS
def test_imap_login(scripted: Scripted, mechanism: str, form: Callable[[str, str], str]) -> None:
    """As bytes, which is what imaplib encodes."""
    with scripted(XOAUTH2) as daemon:
        answer = cms_oauth.Login(USER, mechanism=mechanism, socket=daemon.path).imap()

    assert form(USER, TOKEN).encode() == answer(b"")
    assert sasl.closing_answer(mechanism).encode() == answer(b'{"status":"400"}')
    assert [f"IMAP,why {USER}\n".encode()] == daemon.requests


def test_the_login_of_the_only_account_is_whose_it_is(scripted: Scripted) -> None:
    """The credential names the account, though the program did not."""
    with scripted(XOAUTH2) as daemon:
        assert sasl.xoauth2(USER, TOKEN) == cms_oauth.Login(socket=daemon.path).smtp()()


def test_a_login_that_was_refused_gets_another_token_next_time(scripted: Scripted) -> None:
    """Once: what is asked after that is an ordinary question again."""
    with scripted(XOAUTH2, FRESH) as daemon:
        login = cms_oauth.Login(USER, socket=daemon.path)
        login.smtp()
        login.rejected()
        second = login.smtp()
        login.smtp()

    plain = f"SMTP,why {USER}\n".encode()
    assert sasl.xoauth2(USER, OTHER) == second()
    assert [plain, f"SMTP,why,rejected={digest(TOKEN)} {USER}\n".encode(), plain] == daemon.requests


def test_a_refusal_is_told_once(scripted: Scripted) -> None:
    """Without another token the next login raises; those after it get the one that there is."""
    with scripted(XOAUTH2, XOAUTH2, XOAUTH2) as daemon:
        login = cms_oauth.Login(USER, socket=daemon.path)
        login.imap()
        login.rejected()
        with pytest.raises(cms_oauth.TokenError) as caught:
            login.imap()
        later = login.imap()

    plain = f"IMAP,why {USER}\n".encode()
    assert "unavailable" == caught.value.code
    assert sasl.xoauth2(USER, TOKEN).encode() == later(b"")
    assert [plain, f"IMAP,why,rejected={digest(TOKEN)} {USER}\n".encode(), plain] == daemon.requests


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_login_without_a_token_answers_nothing(scripted: Scripted, protocol: str) -> None:
    """It raises before there is anything that a library could call in the middle of its dialogue."""
    with scripted(b"", REFUSAL) as daemon, pytest.raises(cms_oauth.TokenError):
        getattr(cms_oauth.Login(USER, socket=daemon.path), protocol)()


def test_an_unknown_mechanism_is_refused() -> None:
    """At once, and the known ones are named."""
    with pytest.raises(ValueError, match="XOAUTH2, OAUTHBEARER"):
        cms_oauth.Login(USER, mechanism="PLAIN")


HOSTILE_REFUSALS = (
    f"!locked 0 {HOSTILE}\t{HOSTILE}\n".encode(),
    json.dumps(wire.json_refusal(f"locked{HOSTILE}", HOSTILE, HOSTILE, 0)).encode(),
)


@pytest.mark.parametrize("answer", HOSTILE_REFUSALS, ids=["a line", "json"])
def test_an_error_moves_no_cursor(scripted: Scripted, answer: bytes) -> None:
    """Its text is what the daemon said, which may be another user's, and Python prints it with a traceback."""
    answers = (answer,) if answer.startswith(b"!") else (b"", answer)
    with scripted(*answers) as daemon, pytest.raises(cms_oauth.TokenError) as caught:
        cms_oauth.token(USER, socket=daemon.path)

    error = caught.value
    assert (HARMLESS, HARMLESS) == (error.message, error.hint)
    assert str(error).isprintable()


def test_no_token_is_shown(scripted: Scripted) -> None:
    """Neither a login nor an error says one."""
    with scripted(XOAUTH2) as daemon:
        login = cms_oauth.Login(USER, socket=daemon.path)
        answers = [login.smtp(), login.imap()]
        with pytest.raises(cms_oauth.TokenError) as caught:
            cms_oauth.token(USER, rejected=TOKEN, socket=daemon.path)

    assert f"Login({USER!r}, mechanism='XOAUTH2')" == repr(login)
    assert TOKEN not in repr(caught.value) + str(caught.value) + repr(answers)


def test_the_package_offers_what_its_types_say() -> None:
    """The stub that type checkers read names what is there, and nothing else."""
    stub = ast.parse(Path(cms_oauth.__file__).with_suffix(".pyi").read_text())
    typed = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert set(cms_oauth.__all__) == typed
    for name in typed:
        assert getattr(library, name) is getattr(cms_oauth, name)


def test_the_package_has_nothing_else() -> None:
    """A misspelt name is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="'cms_oauth' has no attribute 'tokens'"):
        cms_oauth.tokens  # type: ignore[attr-defined] # noqa: B018 - to see what is said


def test_importing_the_package_costs_nothing() -> None:
    """What `cms-oauth` imports for every mail loads no module but itself; and nothing but the standard library later."""
    program = (
        "import sys; before = set(sys.modules); import cms_oauth; print(sorted(set(sys.modules) - before)); "
        "cms_oauth.token; print(sorted({'click', 'platformdirs', 'trio', 'msal'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ["['cms_oauth']", "[]"] == done.stdout.splitlines()
