"""The desktop's notification, on a real session bus with a notification service of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from jeepney import HeaderFields, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.blocking import open_dbus_connection
from support.desktop import Desktop
from support.trio_run import FakeClock, in_trio, until
from support.waiting import PATIENCE

from cms.core.lifecycle import Life, NeedsSignIn, Token, Trouble
from cms.core.notices import Facts, HowToSignIn
from cms.core.policy import Unmapped
from cms.daemon import desktop as notify
from cms.daemon.hooks import DESKTOP, FACTS, MAX_BUTTONS, REPLACES, Hooks
from cms.system import users
from cms.system.tcp_owner import is_held_by

ANN = "ann@example.test"
TOLD = {
    "CMS_EVENT": "sign-in-required",
    "CMS_ACCOUNT": ANN,
    "CMS_MESSAGE": "the password of <ann> & co was changed",
    "CMS_HINT": f"sign in again: `cms login {ANN}`",
    "CMS_PAGE": "http://127.0.0.1:8080/",
}
TEXT = f"the password of <ann> & co was changed\nsign in again: `cms login {ANN}`\nSign-in page: http://127.0.0.1:8080/"
MARKED_UP = TEXT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Service:
    """What shows notifications on a desktop: the session's environment has to name its bus. `shown` is what it was asked.

    `then` are the signals that follow each notification, as pairs of name and body with the notification's number as
    "NUMBER". `opened` is what the portal was asked to open.
    """

    def __init__(self, capabilities: list[str]) -> None:
        self.shown: list[tuple[Any, ...]] = []
        self.opened: list[str] = []
        self.then: list[tuple[str, str, tuple[Any, ...]]] = []
        self._capabilities = capabilities
        self._bus = open_dbus_connection("SESSION")
        self._bus.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"), timeout=PATIENCE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        self._bus.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                asked = self._bus.receive(timeout=0.05)
            except TimeoutError:
                continue
            if asked.header.message_type is MessageType.method_call:
                self._bus.send(self._answer(asked))
                if asked.header.fields[HeaderFields.member] == "Notify":
                    self._go_on()

    def add_portal(self) -> None:
        """Open links too."""
        self._bus.send(message_bus.RequestName(notify.PORTAL.bus_name))

    def _go_on(self) -> None:
        for name, signature, body in self.then:
            number = 40 + len(self.shown)
            words = tuple(number if each == "NUMBER" else each for each in body)
            self._bus.send(new_signal(notify.SERVICE, name, signature, words))

    def _answer(self, asked: Any) -> Any:
        match asked.header.fields[HeaderFields.member]:
            case "GetCapabilities":
                return new_method_return(asked, "as", (self._capabilities,))
            case "Notify":
                self.shown.append(asked.body)
                return new_method_return(asked, "u", (asked.body[1] or 40 + len(self.shown),))
            case "OpenURI":
                self.opened.append(asked.body[1])
                return new_method_return(asked, "o", ("/request",))
        return new_error(asked, "org.freedesktop.DBus.Error.UnknownMethod")


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A session with a bus, on which no program shows notices."""
    session = Desktop(tmp_path)
    for name in (*FACTS, REPLACES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", session.environment["DBUS_SESSION_BUS_ADDRESS"])
    yield session
    session.stop()


@pytest.fixture
def capabilities() -> list[str]:
    return ["body", "body-markup"]


@pytest.fixture
def service(desktop: Desktop, capabilities: list[str]) -> Iterator[Service]:
    """A notification service in that session."""
    running = Service(capabilities)
    yield running
    running.stop()


def tell(monkeypatch: pytest.MonkeyPatch, **facts: str) -> int:
    """Run the program in this process with these facts beside those of a sign-in; return its exit status."""
    for name, value in {**TOLD, **facts}.items():
        monkeypatch.setenv(name, value)
    return notify.main()


@pytest.mark.parametrize(
    ("capabilities", "text"), [(["body", "body-markup"], MARKED_UP), (["body"], TEXT)], ids=["markup", "plain"]
)
def test_a_notice_is_shown(
    service: Service, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Title, text, urgency; markup is escaped; the printed number serves the next notice."""
    assert 0 == tell(monkeypatch)
    assert [
        ("cms", 0, "mail-unread", f"Sign in to send mail: {ANN}", text, [], {"urgency": ("y", notify.CRITICAL)}, -1)
    ] == service.shown
    assert "41\n" == capsys.readouterr().out


def test_one_takes_the_place_of_another(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notice replaces the one whose number it gets; a word that is no number replaces none."""
    tell(monkeypatch, CMS_REPLACES="41", CMS_EVENT="signed-in")
    tell(monkeypatch, CMS_REPLACES="the first")

    assert [(41, {"urgency": ("y", notify.LOW)}), (0, {"urgency": ("y", notify.CRITICAL)})] == [
        (each[1], each[6]) for each in service.shown
    ]


PRESSED = ("ActionInvoked", "us", ("NUMBER", "sign-in"))
CLOSED = ("NotificationClosed", "uu", ("NUMBER", 2))
OTHERS = [
    ("ActionInvoked", "us", (7, "sign-in")),
    ("NotificationClosed", "uu", (7, 2)),
    ("ActivationToken", "us", (7, "")),
]


@pytest.fixture
def page() -> Iterator[str]:
    """A sign-in page of the daemon's user."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.mark.parametrize("capabilities", [["body", "actions"]])
@pytest.mark.parametrize(("then", "opens"), [(PRESSED, True), (CLOSED, False)], ids=["pressed", "closed"])
def test_a_button_opens_the_sign_in(
    service: Service, monkeypatch: pytest.MonkeyPatch, page: str, then: tuple[str, str, tuple[Any, ...]], *, opens: bool
) -> None:
    """By the desktop, so that the browser is no part of cms's service; what happens to other notifications is not meant."""
    service.add_portal()
    service.then = [*OTHERS, then]

    assert 0 == tell(monkeypatch, CMS_BUTTON="yes", CMS_PAGE=page)
    assert (notify.ACTIONS, [page] if opens else []) == (service.shown[0][5], service.opened)


@pytest.mark.parametrize("capabilities", [["body", "actions"]])
@pytest.mark.parametrize("theirs", [False, True], ids=["nobody is there", "another user is there"])
def test_a_button_opens_no_page_that_cms_has_left(
    service: Service, monkeypatch: pytest.MonkeyPatch, page: str, *, theirs: bool
) -> None:
    """A notification lasts longer than the page: at its port may be another user's, made to look the same."""
    service.add_portal()
    service.then = [PRESSED]
    if theirs:
        monkeypatch.setattr(notify, "is_held_by", lambda _uid, port: is_held_by(64001, port))
    else:
        page = "http://127.0.0.1:1/"

    assert 0 == tell(monkeypatch, CMS_BUTTON="yes", CMS_PAGE=page)
    assert [] == service.opened


@pytest.mark.parametrize("capabilities", [["body", "actions"]])
def test_a_button_opens_no_page_where_the_users_number_stands_for_many(
    service: Service, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    """In a user namespace the program at that port may be any user's who is not in it."""
    service.add_portal()
    service.then = [PRESSED]
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(os.geteuid(), None))

    assert 0 == tell(monkeypatch, CMS_BUTTON="yes", CMS_PAGE=page)
    assert [] == service.opened


@pytest.mark.parametrize("capabilities", [["body", "actions"]])
def test_a_button_opens_the_providers_page(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cms has none: it is not on this machine, and whose it is TLS tells."""
    service.add_portal()
    service.then = [PRESSED]

    assert 0 == tell(monkeypatch, CMS_BUTTON="yes", CMS_PAGE="", CMS_URL="https://login.example/device")
    assert ["https://login.example/device"] == service.opened


@pytest.mark.parametrize(
    ("capabilities", "facts"),
    [
        (["body"], {"CMS_BUTTON": "yes"}),
        (["body", "actions"], {"CMS_BUTTON": ""}),
        (["body", "actions"], {"CMS_BUTTON": "yes", "CMS_PAGE": ""}),
    ],
    ids=["a desktop without buttons", "not wanted", "nothing to open"],
)
def test_a_notification_without_a_button(
    service: Service, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str]
) -> None:
    """Then the program ends at once."""
    assert 0 == tell(monkeypatch, **facts)
    assert [] == service.shown[0][5]


@pytest.mark.parametrize("capabilities", [["actions"]])
def test_a_desktop_that_opens_no_links(desktop: Desktop, service: Service, page: str, tmp_path: Path) -> None:
    """Without a portal it is the person's browser, which writes nothing to the daemon."""
    service.then = [PRESSED]
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho noise; echo "$1" > {opened}.new; mv {opened}.new {opened}\n')
    browser.chmod(0o700)
    environment = {
        **desktop.environment,
        **TOLD,
        "CMS_PAGE": page,
        "CMS_BUTTON": "yes",
        "BROWSER": f"{browser} %s",
    }
    done = subprocess.run(DESKTOP.argv, env=environment, capture_output=True, text=True, check=True)

    assert "41\n" == done.stdout
    assert f"{page}\n" == opened.read_text()


def test_a_button_does_not_work_for_ever(desktop: Desktop) -> None:
    """The process that waits for it ends."""
    with open_dbus_connection("SESSION") as connection:
        assert not notify.pressed(connection, deque(), 41, seconds=0.0)


@pytest.mark.parametrize("capabilities", [["actions"]])
def test_few_notifications_have_a_button_at_a_time(desktop: Desktop, service: Service) -> None:
    """Each waits in a process, and the page is for all; one whose notification is replaced ends, and all with the daemon."""
    environ = {"PATH": os.environ["PATH"], "DISPLAY": ":0", **desktop.environment}
    link = HowToSignIn(page="http://127.0.0.1:8080/")

    @in_trio
    async def run() -> None:
        clock = FakeClock()
        required = Life(None, NeedsSignIn(1.0, Trouble("refused", "the password was changed", "sign in again")))
        facts = {str(number): Facts(ANN, [required], how=link) for number in range(MAX_BUTTONS + 1)}
        hooks = Hooks(facts.get, clock, environ)
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            hooks.apply((), facts, desktop=True)
            await until(lambda: len(service.shown) > MAX_BUTTONS)
            now = clock.boot()
            # The first to be told of is any of them.
            one = next(iter(hooks._buttons))
            facts[one] = Facts(ANN, [Life(Token("secret", now, now + 3600, now + 1800))])
            hooks.changed(one)
            await until(lambda: len(service.shown) > MAX_BUTTONS + 1)
            await until(lambda: len(hooks._buttons) == MAX_BUTTONS - 1)
            nursery.cancel_scope.cancel()
        assert {} == hooks._buttons

    run()

    assert [True] * MAX_BUTTONS + [False, False] == [bool(each[5]) for each in service.shown]


def test_every_event_that_a_desktop_hears_of_has_a_title() -> None:
    """And nothing that waits for a person is shown as if it could wait."""
    assert set(DESKTOP.events) == set(notify.TITLES)
    assert ("cms: ", notify.NORMAL) == notify.title_of({})


def test_a_title_says_whose_account_it_is() -> None:
    """A person with accounts at several providers sees whose page comes next; Microsoft's is not named."""
    facts = {"CMS_EVENT": "sign-in-required", "CMS_ACCOUNT": "ann@gmail.com", "CMS_PROVIDER": "google"}

    assert "Sign in to send mail: ann@gmail.com (Google)" == notify.title_of(facts)[0]
    assert "Sign in to send mail: ann@gmail.com" == notify.title_of(facts | {"CMS_PROVIDER": "microsoft"})[0]


def test_a_desktop_that_shows_nothing_is_no_fault(
    desktop: Desktop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a notification service a sentence for the log, and no failure."""
    assert 0 == tell(monkeypatch)
    assert "the desktop shows no notifications: org.freedesktop.DBus.Error.ServiceUnknown\n" == capsys.readouterr().out


@pytest.mark.parametrize("address", ["unix:path=/nowhere/at/all", "tcp:host=localhost,port=1"])
def test_a_bus_that_is_not_there(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails with a sentence, and without a traceback."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)

    assert 1 == tell(monkeypatch)
    assert capsys.readouterr().out.startswith("the desktop's bus cannot be reached: ")


def test_the_daemon_shows_what_is_to_be_done_and_that_it_is_done(desktop: Desktop, service: Service) -> None:
    """From a trouble to its notification, by the real program; its end takes the notification's place."""
    environ = {
        "PATH": os.environ["PATH"],
        "DISPLAY": ":0",
        "DBUS_SESSION_BUS_ADDRESS": desktop.environment["DBUS_SESSION_BUS_ADDRESS"],
    }

    @in_trio
    async def run() -> None:
        clock = FakeClock()
        required = Life(None, NeedsSignIn(1.0, Trouble("refused", "the password was changed", "sign in again")))
        facts = {"a": Facts(ANN, [required])}
        hooks = Hooks(facts.get, clock, environ)
        async with trio.open_nursery() as nursery:
            await nursery.start(hooks.run)
            hooks.apply((), facts, desktop=True)
            await until(lambda: service.shown)
            now = clock.boot()
            facts["a"] = Facts(ANN, [Life(Token("secret", now, now + 3600, now + 1800))])
            hooks.changed("a")
            await until(lambda: len(service.shown) > 1)
            nursery.cancel_scope.cancel()

    run()

    assert [(0, f"Sign in to send mail: {ANN}"), (41, f"Signed in: {ANN}")] == [
        (each[1], each[3]) for each in service.shown
    ]
    assert "the password was changed\nsign in again" == service.shown[0][4]


def test_nothing_of_the_bus_is_in_the_daemon() -> None:
    """A child process pays for the desktop's library."""
    program = "import sys, cms.daemon.app; print('jeepney' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "False\n" == printed
