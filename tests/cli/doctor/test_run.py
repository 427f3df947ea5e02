"""The doctor's round: checks side by side and under a deadline, what they share looked at once, and the report."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.foreign import HOSTILE
from support.waiting import PATIENCE

from cms.cli import daemonless
from cms.cli.client import NoDaemon
from cms.cli.doctor import access, checks, examination, probe_machine, probe_mail, probe_network
from cms.cli.doctor.assess import Asked, MailTest
from cms.cli.doctor.assess_network import Https, Names, Reached
from cms.cli.doctor.checks import Check, usable
from cms.cli.doctor.examination import Examination, Limits
from cms.cli.doctor.findings import Finding, passed
from cms.cli.doctor.run import bundle, examine, examine_and_report, write_bundle
from cms.cli.failure import Failure
from cms.config.model import Config, ConfigError, SocketSpec
from cms.core.accounts import Account, Fleet, Grant, Proxy, Source
from cms.daemon.serving import socketmap
from cms.grants.messages import FleetReport, FleetWork, SharedSignIn
from cms_oauth.providers import MICROSOFT, OWN, PROVIDERS, Server

MAIL = ("https://outlook.office.com/SMTP.Send",)
GRANT = Grant("https://login.example.test/common", "client", "ann.lee@example.test", (MAIL,))
ACCOUNT = Account("ann.lee@example.test", GRANT, {"SMTP": MAIL}, smtp_host="127.0.0.1:1", mailbox="INBOX")


def config(*sockets: SocketSpec, **changes: Any) -> Config:
    return replace(Config("/c/cms.cfg", (ACCOUNT,), sockets, None, None, ()), **changes)


def spec(path: Path | str, **changes: Any) -> SocketSpec:
    return replace(SocketSpec(str(path), (ACCOUNT,), ("SMTP",), 0o600, None, None, None, 1), **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of our own, and no daemon."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CMS_SOCK"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_RUNTIME", str(tmp_path / "system"))
    return tmp_path


def examining(home: Path, found: Config | ConfigError | None = None, **more: Any) -> Examination:
    """Return an examination of this configuration."""
    path = home / "cms.cfg"
    if found is not None:
        path.touch()

    def load(_path: str) -> Config:
        if isinstance(found, ConfigError):
            raise found
        assert found is not None
        return found

    limits = Limits(step=30.0, mail=1.0, check=30.0)
    return Examination(str(path), load, **{"home": str(home), "environ": {}, "limits": limits, **more})


def find(name: str, of: Examination) -> list[Finding]:
    """Return what one check finds."""
    return [each for check in checks.CHECKS if check.name == name for each in check.find(of)]


def levels(findings: list[Finding]) -> list[str]:
    return [each.level for each in findings]


# The round.


def test_checks_run_side_by_side_and_are_told_in_order(home: Path) -> None:
    """The first waits for the last to begin; the report has them in the table's order all the same."""
    both, order = threading.Barrier(2, timeout=PATIENCE), list[str]()

    def check(name: str) -> Check:
        def look(_world: Examination) -> Iterator[Finding]:
            both.wait()
            yield passed(name, "done")

        return Check(name, look)

    found = examine(examining(home), lambda each: order.append(each.check), checks=(check("a"), check("b")))

    assert ["a", "b"] == order == [each.check for each in found]


def test_a_check_that_hangs_gets_a_verdict(home: Path) -> None:
    """The others are told, and the whole ends."""
    never = threading.Event()

    def hang(_world: Examination) -> Iterator[Finding]:
        never.wait(120)
        yield passed("hangs", "at last")

    def fine(_world: Examination) -> Iterator[Finding]:
        yield passed("fine", "done")

    limited = examining(home, limits=Limits(check=1.5, mail=0.5))
    found = examine(limited, lambda _: None, checks=(Check("fine", fine), Check("hangs", hang)))
    never.set()

    assert [("fine", "pass", ""), ("hangs", "fail", "hang")] == [
        (each.check, each.level, each.verdicts[0].name if each.verdicts else "") for each in found
    ]


def test_what_hangs_takes_nothing_from_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is reported, and so are the other name's addresses."""
    never = threading.Event()

    def names(host: str) -> Names:
        if host == "login.example.test":
            never.wait(120)
        return Names(host, ("192.0.2.1",))

    monkeypatch.setattr(probe_network, "names", names)
    found = find("dns", examining(home, config(), limits=Limits(check=2.0)))
    never.set()

    assert {
        "login.example.test: the resolver does not answer in time": "fail",
        "127.0.0.1 is 192.0.2.1": "pass",
    } == {each.message: each.level for each in found}


def test_who_is_waited_for_is_shown(home: Path) -> None:
    """Again and again, until it is done."""
    seen = threading.Event()

    def look(_world: Examination) -> Iterator[Finding]:
        seen.wait(120)
        yield passed("slow", "done")

    def progress(text: str) -> None:
        if text == "checking: slow":
            seen.set()

    assert ["pass"] == levels(examine(examining(home), lambda _: None, progress, (Check("slow", look),)))


def test_a_check_that_fails_takes_no_other_with_it(home: Path) -> None:
    """A bug is told as one, without its traceback."""

    def broken(of: Examination) -> Iterator[Finding]:
        yield passed(of.user, f"{int('secret')}")

    (found,) = examine(examining(home), lambda _: None, checks=(Check("broken", broken),))

    assert ("fail", "bug") == (found.level, found.verdicts[0].name)
    assert "secret" not in repr(found)


def test_what_is_shared_is_looked_at_once(home: Path) -> None:
    """The first check that needs it looks; its fault is raised in every check."""
    looked = list[str]()

    def look() -> str:
        looked.append("once")
        return "found"

    def fail() -> str:
        raise ValueError

    of = examining(home)

    assert ["found", "found"] == [of.once("x", look), of.once("x", look)]
    assert ["once"] == looked
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            of.once("y", fail)


# The checks.


def test_no_configuration(home: Path) -> None:
    """What can be looked at without one is, and no server is asked."""
    of = examining(home)
    (found,) = find("configuration", of)

    assert ("fail", "no-configuration", ("`cms init`",)) == (
        found.level,
        found.verdicts[0].name,
        found.verdicts[0].steps,
    )
    assert ["skip"] == levels(find("clock", of))
    assert [] == [
        each for name in ("dns", "tls", "proxy", "socket", "token", "SMTP", "mailbox") for each in find(name, of)
    ]


def test_a_faulty_configuration(home: Path) -> None:
    """Its file and line, what is wrong, and what to do."""
    (found,) = find("configuration", examining(home, ConfigError("/c/cms.cfg", 3, "no such thing", "write another")))
    (whole,) = find("configuration", examining(home, ConfigError("/c/cms.cfg", None, "it names no account")))

    assert ("/c/cms.cfg:3", "no such thing", "write another") == (
        found.message,
        found.verdicts[0].cause,
        found.verdicts[0].steps[0],
    )
    assert ("/c/cms.cfg", "correct that line") == (whole.message, whole.verdicts[0].steps[0])


def test_a_good_configuration(home: Path) -> None:
    """What it has, its warnings, and whether it has the account that was named."""
    of = examining(home, config(warnings=("look out",)))

    assert [("pass", "/c/cms.cfg: 1 account, 0 sockets"), ("warn", "look out")] == [
        (each.level, each.message) for each in find("configuration", of)
    ]
    assert ["pass"] == levels(find("configuration", examining(home, config(), user="Ann.Lee@example.test")))
    assert ["pass", "fail"] == levels(find("configuration", examining(home, config(), user="bob@example.test")))


def test_the_program(home: Path) -> None:
    """This Python and these libraries are what the tests run with."""
    assert ["pass", "pass"] == levels(find("python, libraries", examining(home)))


@contextmanager
def daemon(home: Path, status: Mapping[str, Any]) -> Iterator[None]:
    """Be a daemon that says this of itself, once."""
    folder = home / "run" / "cms"
    folder.mkdir(parents=True)

    def play() -> None:
        client, _ = listener.accept()
        with client, client.makefile("rb") as lines:
            lines.readline()
            client.sendall(json.dumps({"event": "done", "ok": True, "json": status}).encode() + b"\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield
        thread.join(60)


STATUS: dict[str, Any] = {
    "daemon": {"version": "0.0.1", "pid": 7, "uptime": 5, "config": "/c/cms.cfg", "warnings": []},
    "accounts": [
        {"user": "ann.lee@example.test", "state": "ok", "protocols": ["SMTP"], "key_from": "file /key"},
        {"user": "bob@example.test", "state": "ok", "protocols": ["SMTP"]},
    ],
}


def test_the_daemon_is_asked_once_for_all(home: Path) -> None:
    """Its version, its rows of the accounts that are meant, where its key is from."""
    with daemon(home, STATUS):
        of = examining(home, config(), user="ann.lee@example.test")
        found = find("daemon", of)

    assert ["warn"] == levels(found)
    assert "old-daemon" == found[0].verdicts[0].name
    assert ["ann.lee@example.test, SMTP: ok"] == [each.message for each in find("sign-in", of)]
    assert ["file /key"] == [each.message for each in find("key", of)]
    assert 2 == len(replace_user(of).rows)


def test_the_daemon_may_know_the_file_by_another_name(home: Path) -> None:
    """It was started in another folder, or with a link to the file; another file is named."""
    names = {"/c/../c/cms.cfg": ["old-daemon"], "/d/cms.cfg": ["old-daemon", "other-config"]}
    for name, told in names.items():
        with daemon(home, {**STATUS, "daemon": {**STATUS["daemon"], "config": name}}):
            found = find("daemon", examining(home, config()))
        (home / "run" / "cms" / "control.sock").unlink()
        (home / "run" / "cms").rmdir()
        assert told == [each.verdicts[0].name for each in found]


def replace_user(of: Examination) -> Examination:
    """Return the same examination, for every account."""
    of.user = ""
    return of


def test_no_daemon(home: Path) -> None:
    """It is said, and nothing that it alone knows is."""
    of = examining(home, config())

    assert isinstance(of.status, NoDaemon)
    assert ["fail"] == levels(find("daemon", of))
    assert ([], ["pass"]) == (find("sign-in", of), levels(find("key", of)))
    assert ["pass"] == levels(find("state folder", of))
    assert "cms run" in str(find("daemon", of)[0].verdicts[0].steps)


def test_root_is_told_who_sees_the_folder_of_the_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's own state folder says nothing of the service's."""
    monkeypatch.setattr(checks, "service_of", {"/c/cms.cfg": pwd.getpwnam("nobody").pw_uid}.get)
    (found,) = find("state folder", examining(home, config()))

    assert ("skip", "it is the service's: `sudo -u nobody cms doctor` looks at it") == (found.level, found.message)


def test_no_daemon_starts_with_a_configuration_that_does_not_load(home: Path) -> None:
    """So nobody is sent to `cms run`: the configuration is first."""
    (found,) = find("daemon", examining(home, ConfigError("/c/cms.cfg", 3, "no such thing", "write another")))

    assert ("mend the configuration first, as said above",) == found.verdicts[0].steps


@contextmanager
def tokens(path: Path, answer: bytes | Callable[[bytes], bytes]) -> Iterator[None]:
    """Be a token socket that says this to each request."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                request = client.recv(4096)
                client.sendall(answer(request) if callable(answer) else answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


NAMELESS = [replace(ACCOUNT, user="", grant=replace(GRANT, login="", client_id=each)) for each in ("one", "two")]


def test_accounts_that_the_configuration_does_not_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon knows who has signed in: each is asked for, and logs in, under that name, and none for another."""
    rows = [{"user": user, "state": "ok", "protocols": ["SMTP"]} for user in ("ann@x.test", "bob@x.test")]
    accounts = (*NAMELESS, ACCOUNT)
    status = {**STATUS, "accounts": [*rows, {"user": ACCOUNT.user, "state": "ok", "protocols": ["SMTP"]}]}
    offered = config(replace(spec(home / "cms.sock"), accounts=accounts), accounts=accounts)
    with daemon(home, status), tokens(home / "cms.sock", echo):
        of = examining(home, offered)
        said = [each.message.partition(",")[0] for each in find("token", of)]
        monkeypatch.setattr(
            probe_mail, "run", lambda protocol, place, user, _token, **_: MailTest(protocol, user, place)
        )
        logins = [each.message.partition(" ")[0] for each in find("SMTP", of)]
        of.user = "bob@x.test"
        meant = of.accounts

    assert ["ann@x.test", "bob@x.test", ACCOUNT.user] == said == logins
    assert [NAMELESS[1]] == meant


def echo(request: bytes) -> bytes:
    """Answer a request as a daemon does that has a token for every user."""
    return json.dumps({"token": "opaque", "user": request.split()[-1].decode()}).encode()


def test_rows_of_a_daemon_with_other_accounts_are_ignored(home: Path) -> None:
    """Its rows are not this configuration's."""
    with daemon(home, STATUS):
        of = examining(home, config(accounts=(NAMELESS[0], replace(ACCOUNT, user="zoe@example.test"))))
        name = of.name_of(NAMELESS[0])

    assert "" == name


REFUSED = {"error": {"code": "sign-in-required", "message": "nobody has signed in", "hint": "`cms login`"}}


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (json.dumps({"token": "opaque"}).encode(), "pass", "opaque"),
        (json.dumps(REFUSED).encode(), "fail", "sign-in-required"),
        (b"", "fail", "denied"),
        (b"[]", "fail", "denied"),
    ],
)
def test_a_token_is_asked_for_as_a_mail_program_does(home: Path, answer: bytes, level: str, words: str) -> None:
    """Over the socket that serves the account; what comes back is judged, and no token is in any finding."""
    with tokens(home / "cms.sock", answer):
        (found,) = find("token", examining(home, config(spec(home / "cms.sock"))))

    assert level == found.level
    assert words in found.message


def test_an_address_of_an_account_for_all_of_a_domain(home: Path) -> None:
    """The address to check is asked for, and its status is that of the account; without one there is nothing to ask for."""
    every = replace(ACCOUNT, user="*@Example.test")
    found = config(spec(home / "cms.sock", accounts=(every,)), accounts=(every,))
    one, other, none = (examining(home, found, user=each) for each in ("<desk@example.test>", "x@other.test", ""))
    with tokens(home / "cms.sock", echo), daemon(home, {"accounts": [{"user": "*@Example.test"}]}):
        (asked,) = find("token", one)
        assert ["*@Example.test"] == [row["user"] for row in one.rows]
    (skipped,) = find("token", none)

    assert ("pass", "skip") == (asked.level, skipped.level)
    assert asked.message.startswith("desk@example.test, SMTP: ")
    assert "*@Example.test, SMTP: name one of its addresses, `cms doctor ADDRESS`" == skipped.message
    assert [] == other.accounts


def test_a_token_that_no_client_can_ask_for(home: Path) -> None:
    """No socket serves the account, or the socket is missing."""
    unserved = examining(home, config())
    missing = examining(home, config(spec(home / "cms.sock")))

    assert (["skip"], ["fail"]) == (levels(find("token", unserved)), levels(find("token", missing)))
    assert [] == find("consent", missing)
    assert ["skip"] == levels(find("SMTP", missing))


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (socketmap.found("ann.lee@example.test", "opaque"), "pass", "ann.lee@example.test, SMTP: opaque"),
        (socketmap.temporary("nobody has signed in: `cms login`"), "fail", "nobody has signed in: `cms login`"),
        (socketmap.not_found(), "fail", "does not have it"),
        (b"", "fail", "no table of cms"),
    ],
)
def test_a_relay_has_only_a_table(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, level: str, words: str
) -> None:
    """The account is looked up there, as Postfix does it, and the mail server is tried with what comes back."""
    tried, asked = opened(monkeypatch), list[bytes]()
    of = examining(home, config(spec(home / "postfix.sock", speaks="postfix")))

    def answering(request: bytes) -> bytes:
        asked.append(request)
        return answer

    with tokens(home / "postfix.sock", answering):
        (found,), login = find("token", of), find("SMTP", of)

    assert [socketmap.query("cms", ACCOUNT.user)] == asked
    assert level == found.level
    assert words in f"{found.message} {[each.cause for each in found.verdicts]}"
    assert (["pass"], [ACCOUNT.user]) == (levels(login), tried) if level == "pass" else levels(login) == ["skip"]


def test_a_table_that_is_gone(home: Path) -> None:
    """It is said as of any socket, with what to do."""
    (found,) = find("token", examining(home, config(spec(home / "postfix.sock", speaks="postfix"))))

    assert ("fail", True) == (found.level, "no-daemon" in found.message)


def test_mail_servers_are_tried_with_the_token(home: Path) -> None:
    """A port that is closed is told once, with whose mail it concerns, and no login is tried there."""
    with tokens(home / "cms.sock", json.dumps({"token": "opaque"}).encode()):
        of = examining(home, config(spec(home / "cms.sock")))
        port, login = find("mail servers", of), find("SMTP", of)

    assert (["fail"], ["skip"]) == (levels(port), levels(login))
    assert port[0].message.startswith("127.0.0.1:1: ")
    assert port[0].message.endswith(" (for ann.lee@example.test)")


BOXES = [replace(ACCOUNT, user=f"box{number:03}@example.test") for number in range(200)]


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return whose login is tried, in this process and with success: of a server that accepts connections."""
    tried = list[str]()

    def run(protocol: str, place: str, user: str, _token: str, **_: Any) -> MailTest:
        tried.append(user)
        return MailTest(protocol, user, place)

    monkeypatch.setattr(probe_mail, "run", run)
    monkeypatch.setattr(probe_network, "reached", lambda host, port, _seconds: Reached(host, port))
    return tried


def test_a_sign_in_of_two_hundred_mailboxes_is_looked_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token is asked for and tried; what is set up otherwise is looked at besides."""
    tried, asked = opened(monkeypatch), list[bytes]()

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return json.dumps({"token": "opaque"}).encode()

    other = replace(BOXES[7], smtp_host="127.0.0.1:2")
    boxes = (*BOXES[:7], other, *BOXES[8:])
    of = examining(home, config(spec(home / "cms.sock", accounts=boxes), accounts=boxes))
    with tokens(home / "cms.sock", answer):
        found, logins = find("token", of), find("SMTP", of)

    assert [boxes[0].user, other.user] == sorted(tried)
    assert 2 == len(asked)
    assert ["pass", "pass", "skip"] == levels(found)
    assert "198 more accounts share the sign-in of one of these: `cms doctor USER` looks at one" == found[-1].message
    assert ["pass", "pass"] == levels(logins)


def test_a_few_of_two_hundred_sign_ins_are_tried(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is asked for, and a server is not stormed; the report says what it has left out, and is short."""
    tried = opened(monkeypatch)
    boxes = tuple(replace(each, grant=replace(GRANT, login=each.user)) for each in BOXES)
    monkeypatch.setattr(examination, "_ask", lambda _of, account, each: (Asked(account, each, got=True), "opaque"))
    of = examining(home, config(spec(home / "cms.sock", accounts=boxes), accounts=boxes))
    told = list[Finding]()
    table = [each for each in checks.CHECKS if each.name in ("token", "SMTP")]
    found = examine(of, told.append, checks=table)

    assert checks.MOST_TRIED == len(tried)
    assert [("token", "pass"), ("SMTP", "pass"), ("SMTP", "skip")] == [(each.check, each.level) for each in told]
    assert "box007@example.test, 192 more, SMTP: opaque" in told[0].message
    assert "195 more sign-ins were not tried at 127.0.0.1:1: `cms doctor USER` tries one" == told[2].message
    assert 200 == len([each for each in found if each.check == "token"])


def test_a_pattern_names_accounts(home: Path) -> None:
    """As for `cms status`."""
    of = examining(home, config(accounts=tuple(BOXES)), user="box00?@*")

    assert BOXES[:10] == of.accounts


def test_a_refusal_is_judged_by_the_clock_and_the_provider_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the skew that the account's own login host has shown; where it has shown none, nothing is said of it."""
    judged_by = list[tuple[float | None, str]]()

    def run(
        protocol: str, place: str, user: str, _token: str, *, skew: float | None, provider: str, **_: Any
    ) -> MailTest:
        judged_by.append((skew, provider))
        return MailTest(protocol, user, place)

    def https(door: probe_network.Door, *_: object) -> Https:
        return Https(door.place, trusted=True, skew=700.0 if door.host == "login.example.test" else None)

    monkeypatch.setattr(probe_mail, "run", run)
    monkeypatch.setattr(probe_network, "reached", lambda host, port, _seconds: Reached(host, port))
    monkeypatch.setattr(probe_network, "https", https)
    other = replace(
        ACCOUNT, user="b@x.test", grant=replace(GRANT, authority="https://other.example.test:1/t", provider=OWN)
    )
    for account in (ACCOUNT, other):
        with tokens(home / "cms.sock", json.dumps({"token": "opaque"}).encode()):
            mine = config(spec(home / "cms.sock", accounts=(account,)), accounts=(account,))
            find("SMTP", examining(home, mine, limits=Limits(step=60.0)))
        (home / "cms.sock").unlink()

    assert [(700.0, MICROSOFT), (None, OWN)] == judged_by


def test_an_invalid_host(home: Path) -> None:
    """The doctor does not connect to an invalid host."""
    odd = config(accounts=(replace(ACCOUNT, smtp_host="no host"),))
    (found,) = find("mail servers", examining(home, odd))

    assert "it is no HOST or HOST:PORT" in found.message


def test_a_mailbox_waits_for_a_token(home: Path) -> None:
    """Without one it is not looked at."""
    imap = replace(ACCOUNT, scopes={"IMAP": MAIL}, imap_host="127.0.0.1:1")
    (found,) = find("mailbox", examining(home, config(accounts=(imap,))))

    assert ("skip", "mailbox INBOX") == (found.level, found.check)


def test_names_of_login_and_mail_hosts(home: Path) -> None:
    """Each once."""
    local = replace(ACCOUNT, grant=replace(GRANT, authority="https://localhost:1/t"), smtp_host="localhost:1")
    found = find("dns", examining(home, config(accounts=(local,))))

    assert ["pass"] == levels(found)


@pytest.mark.parametrize(
    ("proxy", "asked"),
    [("http://192.0.2.1:1", False), ("socks5h://192.0.2.1:1", False), ("socks5://192.0.2.1:1", True)],
)
def test_a_name_that_a_proxy_looks_up(home: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, asked: bool) -> None:
    """A company's machine often cannot, and need not: nothing is wrong with it."""
    looked_up = list[str]()

    def names(host: str) -> Names:
        looked_up.append(host)
        return Names(host, ("192.0.2.1",))

    monkeypatch.setattr(probe_network, "names", names)
    find("dns", examining(home, config(proxy=Proxy(proxy, ()))))

    assert asked is ("login.example.test" in looked_up)
    assert "127.0.0.1" in looked_up


def test_a_login_host_that_is_not_there(home: Path) -> None:
    """No clock to compare with, no TLS, and the proxy of the configuration is named where there is one."""
    local = replace(ACCOUNT, grant=replace(GRANT, authority="https://127.0.0.1:1/t"))
    plain = examining(home, config(accounts=(local,)))
    proxied = examining(home, config(accounts=(local,), proxy=Proxy("http://127.0.0.1:2", (), "me")))
    secret = Proxy("http://127.0.0.1:2", (), "me", Source("file", ("/password",)))
    unseen = examining(home, config(accounts=(local,), proxy=secret))
    beside = examining(home, config(accounts=(local,), proxy=Proxy("http://127.0.0.1:2", ("127.0.0.1",))))

    assert (["skip"], ["fail"], ["pass"]) == tuple(levels(find(name, plain)) for name in ("clock", "tls", "proxy"))
    assert "http://127.0.0.1:2, to 127.0.0.1:1: Connection refused" == find("proxy", proxied)[0].message
    assert "none on the way" in find("proxy", beside)[0].message
    assert ["skip"] == levels(find("proxy", unseen))


def test_the_hosts_of_another_provider(home: Path) -> None:
    """Where a person signs in, and where cms gets tokens: at Google these are two hosts, and a firewall may know only one."""
    google = replace(
        GRANT, authority="https://accounts.google.com", provider="google", server=PROVIDERS["google"].server
    )
    found = examining(home, config(accounts=(ACCOUNT, replace(ACCOUNT, grant=google)))).doors

    assert ["accounts.google.com", "oauth2.googleapis.com"] == [each.host for each in found][1:]


def test_the_variables_of_this_process_are_looked_at(home: Path) -> None:
    """The first bundle that is set counts, and none beside Tls(ca=...); OpenSSL's count for mail programs in any case."""
    environ = {"REQUESTS_CA_BUNDLE": "/no/a.pem", "CURL_CA_BUNDLE": "/no/b.pem", "OPENSSL_CONF": "/no/c.cnf"}
    named, beside = (examining(home, config(ca=ca), environ=environ) for ca in (None, "/ca.pem"))

    assert [("fail", "REQUESTS_CA_BUNDLE"), ("warn", "OPENSSL_CONF")] == [
        (each.level, each.message.partition(" ")[0]) for each in find("environment", named)
    ]
    assert ["warn"] == levels(find("environment", beside))


def test_sockets_are_looked_at_for_each_user(home: Path) -> None:
    """Those that are named here too; one that this machine does not know is said."""
    of = examining(home, config(spec(home / "cms.sock")), asking=("no-such-user", "nobody"))

    assert ["no-user", "no-socket", "no-socket"] == [each.verdicts[0].name for each in find("socket", of)]


def test_root_asks_the_daemon_for_its_sockets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the configuration is another user's, which root does not run: each user that is named is tried there."""
    path = str(home / "cms.sock")
    status = {"daemon": {"version": "0.0.1", "pid": 7, "uptime": 5, "sockets": [path]}, "accounts": []}
    there = access.SocketPath((access.Step(path, 0o140666, 7, 7, "ann", "ann"),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(probe_machine, "socket_path", lambda _path: there)
    monkeypatch.setattr(probe_machine, "try_path", lambda _path, _who: access.Tried(reached=True, answered=True))
    with daemon(home, status):
        of = examining(home, ConfigError("/c/cms.cfg", None, "it belongs to ann"), asking=("nobody", "no-such-user"))
        found = find("socket", of)

    assert [("pass", f"nobody may ask at {path}"), ("fail", "there is no user no-such-user")] == [
        (each.level, each.message) for each in found
    ]


def test_mail_tools(home: Path) -> None:
    """Those that ask cms are compared with the configuration; without any that is said; what cannot be read too."""
    of = examining(home, config(spec(home / "cms.sock")))
    assert "skip" in levels(find("mail tools", of))
    (home / ".msmtprc").write_text(f'passwordeval "cms-oauth --cms_sock={home}/cms.sock"\n')

    assert ("pass", "msmtp") == next(
        (each.level, each.message.split()[0]) for each in find("mail tools", of) if str(home) in each.message
    )


@pytest.mark.parametrize(("path", "level"), [("$HERE/cms.sock", "pass"), ("%t/cms.sock", "warn")])
def test_the_path_in_a_mail_programs_file(home: Path, monkeypatch: pytest.MonkeyPatch, path: str, level: str) -> None:
    """getmail uses no shell: the client replaces variables, and refuses what means another path."""
    monkeypatch.setenv("HERE", str(home))
    (home / ".config" / "getmail").mkdir(parents=True)
    (home / ".config" / "getmail" / "getmailrc").write_text(
        f'[retriever]\ntype = SimpleIMAPSSLRetriever\npassword_command = ("cms-oauth", "--cms_sock={path}")\n'
    )
    found = find("mail tools", examining(home, config(spec(home / "cms.sock"))))

    assert [level] == [
        each.level for each in found if "socket" in each.message or str(home / "cms.sock") in each.message
    ]


def test_a_mail_programs_file_that_cannot_be_followed(home: Path) -> None:
    """It is skipped, by name."""
    (home / ".muttrc").write_text("source ~/folder\n")
    (home / "folder").mkdir()

    assert f"mutt: {home}/.muttrc:1: {home}/folder: it is a folder, not a regular file" in [
        each.message for each in find("mail tools", examining(home))
    ]


# What `cms check` asks.


def test_what_would_keep_a_daemon_from_serving(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that others cannot enter, a group that cannot be given; a missing folder is made, and nothing is wrong."""
    home.chmod(0o700)
    barred = usable(config(spec(home / "cms.sock", users=("nobody",), mode=0o666)))
    assert ["folder-closed"] == [each.verdicts[0].name for each in barred]
    assert [] == usable(config(spec(home / "no" / "cms.sock", users=("nobody",))))
    assert [] == usable(config(spec(home / "cms.sock")))
    monkeypatch.setattr(probe_machine, "may_give_to", lambda _group: False)
    ungiven = usable(config(spec(home / "cms.sock", group="0", mode=0o660)))

    assert ["group"] == [each.verdicts[0].name for each in ungiven]


# The command.


def test_the_report_for_programs(home: Path) -> None:
    """One JSON object, and the exit code in it and out of it."""
    said = list[str]()
    code = examine_and_report(examining(home), "", said.append, as_json=True)
    (text,) = said

    assert (2, 2) == (code, json.loads(text)["exit_code"])


def test_the_bundle(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Written once, readable by its owner alone, with the domain as the only personal data; never over another file."""
    monkeypatch.setattr(socket, "gethostname", lambda: "m7x-of-q8z.example.test")
    # A login of this machine may be a word of the report.
    monkeypatch.setattr(pwd, "getpwall", list)
    path, said = home / "report.json", list[str]()
    of = examining(home, config(spec(home / "ann.lee.sock"), spec(home / "m7x-of-q8z.sock")))
    examine_and_report(of, str(path), said.append, as_json=False)
    text = path.read_text()

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert "user-1@example.test" in text
    assert "ann.lee" not in text
    assert str(home) not in text
    assert "m7x-of-q8z" not in text
    assert "Look through it before you send it" in said[-1]
    assert "ann.lee" not in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        examine_and_report(of, str(path), said.append, as_json=False)
    with pytest.raises(FileExistsError) as raised:
        write_bundle(str(path), {})
    assert str(path) == raised.value.filename
    assert text == path.read_text()


def test_a_bundle_moves_no_cursor(tmp_path: Path) -> None:
    """Whoever gets it reads it in a terminal; and a file's name may be bytes of any kind."""
    write_bundle(str(tmp_path / "report"), {"said": f"{HOSTILE}\udcff"})
    text = (tmp_path / "report").read_text()

    assert text.isascii()
    assert "\x1b" not in text
    assert {"said": f"{HOSTILE}\udcff"} == json.loads(text)


def test_a_bundle_is_a_file(home: Path) -> None:
    """The doctor names what is there and leaves it, unless it is a file: as root it could replace /dev/null."""
    os.mkfifo(home / "odd")

    for path, what in ((str(home / "odd"), "a pipe"), (os.devnull, "a device"), (str(home), "a folder")):
        with pytest.raises(FileExistsError, match=f"it is {what}: name a regular file"):
            examine_and_report(examining(home), path, print, as_json=False)


def test_a_bundle_has_a_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missed before the round, not after."""
    said = list[str]()

    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        examine_and_report(examining(home), str(home / "no" / "report.json"), said.append, as_json=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="no file can be written there"):
        examine_and_report(examining(home), str(home / "report.json"), said.append, as_json=False)
    assert [] == said


def test_the_bundle_has_facts_of_the_daemon(home: Path) -> None:
    """Only listed facts: no sign-in link, no path, no other user's sign-in or request, and no mailbox name."""
    row = {"user": "zoe@x.test", "state": "signing-in", "signing_in": "https://link", "key_from": "file /k/zoe"}
    status = {"daemon": STATUS["daemon"], "accounts": [row], "orphans": [{"login": "secret"}], "recent": ["who"]}
    account = replace(ACCOUNT, mailbox="Scheidung Müller")
    with daemon(home, status):
        of = examining(home, config(accounts=(account,)))
        report = bundle(of, [passed("mailbox Scheidung Müller", "zoe opened Scheidung Müller")])

    assert {
        "daemon": {"version": "0.0.1", "uptime": 5},
        "accounts": [{"user": "user-2@x.test", "state": "signing-in"}],
    } == report["status"]
    assert ("mailbox mailbox-1", "user-2 opened mailbox-1") == (
        report["findings"][0]["check"],
        report["findings"][0]["message"],
    )


@pytest.mark.parametrize(
    "waits",
    [
        "open https://login.example.test/device and type the code F7Q2KXW9Z",
        "https://login.example.test/common/oauth2/v2.0/authorize?client_id=c&state=F7Q2KXW9Z",
    ],
    ids=["by device", "by paste"],
)
def test_a_bundle_has_no_link_or_code_of_a_sign_in(home: Path, waits: str) -> None:
    """A live code or link would let a stranger finish the sign-in; the bundle says where the owner finds it."""
    problem = {"kind": "refused", "message": "no sign-in yet"}
    row = {"user": "ann.lee@example.test", "state": "signing-in", "signing_in": waits, "problem": problem}
    row["next_move"] = f"finish the sign-in: {waits}"
    with daemon(home, {"daemon": STATUS["daemon"], "accounts": [row]}):
        of = examining(home, config())
        report = bundle(of, find("sign-in", of))

    (finding,) = report["findings"]
    assert ["finish the sign-in that is waiting: `cms status` shows how"] == finding["verdicts"][0]["steps"]
    assert [] == [each for each in ("F7Q2KXW9Z", "login.example.test") if each in json.dumps(report)]


def test_a_bundle_waits_for_no_daemon_that_hangs(home: Path) -> None:
    """Facts that do not arrive in time are left out."""
    never = threading.Event()

    def load(_path: str) -> Config:
        never.wait(120)
        return config()

    of = replace(examining(home, config(), limits=Limits(step=0.2)), load=load)
    report = bundle(of, [passed("x", "fine")])
    never.set()

    assert ({}, ["fine"]) == (report["status"], [each["message"] for each in report["findings"]])


def test_a_quiet_bundle(home: Path) -> None:
    """With --json the report's place is not told on standard output."""
    said = list[str]()
    examine_and_report(examining(home), str(home / "report.json"), said.append, as_json=True)

    assert 1 == len(said)
    assert (home / "report.json").exists()


def test_a_tenant_is_an_organisations_name(home: Path) -> None:
    """Where it is not the address's own domain."""
    tenant = replace(ACCOUNT, grant=replace(GRANT, authority="https://login.example.test/contoso.onmicrosoft.test"))
    said = bundle(
        examining(home, config(accounts=(tenant,))), [passed("x", "contoso.onmicrosoft.test of example.test")]
    )

    assert said["findings"][0]["message"].startswith("name-")
    assert said["findings"][0]["message"].endswith(" of example.test")


def test_the_issuer_of_an_own_server_is_private(home: Path) -> None:
    """Its host and its realm are; those of a provider that everybody knows are not."""
    own = replace(GRANT, authority="https://sso.corp.invalid/realms/sales", provider="oauth2", server=Server())
    google = replace(
        GRANT, authority="https://accounts.google.com", provider="google", server=PROVIDERS["google"].server
    )
    found = config(accounts=(replace(ACCOUNT, grant=own), replace(ACCOUNT, grant=google)))
    said = bundle(examining(home, found), [passed("x", "sso.corp.invalid/realms/sales and accounts.google.com")])

    assert "corp" not in said["findings"][0]["message"]
    assert "sales" not in said["findings"][0]["message"]
    assert "accounts.google.com" in said["findings"][0]["message"]


# The fleet.

FLEET = Fleet("dbname=cms", (Source("credential", ("tokens",)),))


def fleet_found(home: Path, monkeypatch: pytest.MonkeyPatch, end: FleetReport | Failure, fleet: Fleet) -> Finding:
    """Return the finding for a database that answers like this."""

    def work(_config: Config, ask: Callable[[int], FleetWork]) -> FleetReport:
        assert FleetWork(1, "status") == ask(1)
        if isinstance(end, Failure):
            raise end
        return end

    monkeypatch.setattr(daemonless, "fleet_work", work)
    (found,) = find("fleet", examining(home, config(fleet=fleet)))
    return found


def test_a_host_without_a_fleet_asks_no_database(home: Path) -> None:
    """Nothing is said of it."""
    assert [] == find("fleet", examining(home, config()))


@pytest.mark.parametrize(
    ("end", "level", "said"),
    [
        (
            FleetReport(1, 1, sign_ins=(SharedSignIn("k", "signed-in"),)),
            "pass",
            "1 sign-in in the database; this host ",
        ),
        (FleetReport(1, 2), "warn", "the tables have version 1, and this cms makes 2"),
        (
            FleetReport(1, 1, sign_ins=(SharedSignIn("k", "signed-in", unshared=True),)),
            "warn",
            "1 renewed, and not yet shared",
        ),
        (Failure("the database does not answer", "start it"), "fail", "the database cannot be used"),
    ],
)
def test_the_fleets_database(
    home: Path, monkeypatch: pytest.MonkeyPatch, end: FleetReport | Failure, level: str, said: str
) -> None:
    """It is asked; what is wrong there comes with the next step."""
    found = fleet_found(home, monkeypatch, end, FLEET)

    assert level == found.level
    assert said in found.message
    assert all(each.cause and each.steps for each in found.verdicts)


def test_the_role_of_a_host_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it can sign in."""
    roles = [FLEET, replace(FLEET, keys=(Source("credential", ("keys",)),))]
    relay, redeemer = (fleet_found(home, monkeypatch, FleetReport(1, 1), each) for each in roles)

    assert "0 sign-ins in the database; this host serves only" == relay.message
    assert redeemer.message.endswith("this host signs in and fetches tokens")
