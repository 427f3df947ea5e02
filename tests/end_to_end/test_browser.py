"""The sign-in page in a real browser: one walk through all accounts that wait, over real TLS, as the user who runs cms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.browser import ENTER, TAB, Browser, browser
from support.daemon import Daemon, account_line, settings_lines
from support.ports import free_port
from support.programs import require_root
from support.reachable import ALICE, open_folder
from support.waiting import until

from cms.daemon.signin import pages
from cms.daemon.signin.cards import Card, Offer
from cms.daemon.signin.page_files import MARK, SCRIPT
from cms.sandbox.entra import Entra

ANN, BOB = "ann@example.test", "bob@example.test"


@dataclass
class Walk:
    """A daemon with two accounts that wait, a browser of its user's, and where the page and the redirects are."""

    daemon: Daemon
    person: Browser
    page: str
    ports: tuple[int, int]


@pytest.fixture
def walk(make_daemon: Callable[..., Daemon], entra: Entra) -> Iterator[Walk]:
    """ANN's application returns to its registered port, BOB's to any port."""
    require_root()
    daemon = make_daemon(ALICE)
    page, back = free_port(), free_port()
    for user in (ANN, BOB):
        entra.add_user(user)
    there = f'redirect_uri="http://127.0.0.1:{back}/some/path"'
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("ann", ANN, entra).replace('redirect_uri="http://localhost/"', there)
        + account_line("bob", BOB, entra)
        + f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[ann, bob])\n'
        + f'SignInPage(url="http://127.0.0.1:{page}/")\n'
    )
    daemon.start_unknown()
    with browser(daemon.folder, ALICE, Path(entra.cert_file)) as person:
        yield Walk(daemon, person, f"http://127.0.0.1:{page}/", (page, back))


def sign_in(person: Browser, user: str) -> None:
    """Be the person at the provider's own page."""
    person.await_title("Sign in")
    person.choose(user)
    person.press("Accept")


def test_a_browser_walks_through_every_account_that_waits(walk: Walk, entra: Entra) -> None:
    """One address, as the status names it; after each account the page leads to the next, and goes with the last."""
    person, daemon = walk.person, walk.daemon
    assert walk.page in until(lambda: named(daemon, walk.page), "the page's address in the status")

    person.open(walk.page)
    shown = person.await_title("cms: sign in")
    assert "2 accounts need you." in shown
    assert 2 == shown.count("Needs you")

    person.press(f"Sign in {ANN}")
    sign_in(person, ANN)
    shown = person.await_title("Signed in")
    person.keep("signed-in")
    assert f"{ANN} is signed in" in shown
    assert ["One account needs you.", f"Sign in {BOB}"] == [person.summary, *person.buttons]
    assert person.address.startswith(f"http://127.0.0.1:{walk.ports[1]}/some/path?")

    # The same page once more: it is no second sign-in, and no error.
    again = person.reload()
    assert f"{ANN} is signed in" in again
    assert 1 == entra.count("token", grant_type="authorization_code")

    person.press(f"Sign in {BOB}")
    person.await_title("Sign in")
    # On request Entra answers with a page that posts a form to the application.
    person.open(f"{person.address}&response_mode=form_post")
    sign_in(person, BOB)
    shown = person.await_title("Signed in")
    assert f"{BOB} is signed in" in shown
    assert [] == person.buttons

    for user in (ANN, BOB):
        assert 0 == daemon.token(daemon.sockets / "cms.sock", user).returncode


def test_the_page_survives_a_reload_of_the_configuration(walk: Walk, entra: Entra) -> None:
    """A sign-in that is under way in the browser ends well although the daemon reads its configuration meanwhile."""
    person, daemon = walk.person, walk.daemon
    until(lambda: named(daemon, walk.page), "the page's address in the status")
    person.open(walk.page)
    person.press(f"Sign in {ANN}")
    person.await_title("Sign in")

    assert 0 == daemon.cms("reload").returncode
    sign_in(person, ANN)
    assert f"{ANN} is signed in" in person.await_title("Signed in")
    person.open(walk.page)
    assert [f"Sign in {BOB}"] == person.buttons


def test_who_declines_is_told_whose_move_it_is(walk: Walk) -> None:
    """The provider's refusal is on the page, with the next command, and the account still waits."""
    person = walk.person
    until(lambda: named(walk.daemon, walk.page), "the page's address in the status")
    person.open(walk.page)
    person.press(f"Sign in {ANN}")
    person.await_title("Sign in")
    person.press("Cancel")

    shown = person.await_title("Not signed in")
    assert "cms login" in shown
    assert f"Sign in {ANN}" in person.buttons


def test_the_page_is_live_and_for_everybody(walk: Walk, entra: Entra) -> None:
    """It follows what happens elsewhere without a reload, works by keyboard alone, passes axe, and says when it closed."""
    person, daemon = walk.person, walk.daemon
    until(lambda: named(daemon, walk.page), "the page's address in the status")
    person.open(walk.page)
    assert [] == person.faults()

    # Without a mouse: the first button has the focus, shows that, and keeps it while the page renews itself.
    person.type(TAB)
    assert (f"Sign in {ANN}", True) == (person.focused, person.shows_focus)
    daemon.sign_in(BOB, entra)
    until(lambda: person.buttons == [f"Sign in {ANN}"], "one button less, without a reload")
    assert ("One account needs you.", f"Sign in {ANN}") == (person.summary, person.focused)
    for look in ("dark", "narrow", "light"):
        person.look(look)
        person.keep(f"sign-in-page-{look}")
        assert [] == person.faults()
    person.type(ENTER)
    sign_in(person, ANN)
    person.await_title("Signed in")
    assert [] == person.faults()

    daemon.stop()
    until(lambda: person.summary == "This page has closed.", "the word that the page has closed")
    assert "cms status" in person.text
    assert [] == person.buttons


def test_the_page_works_without_its_script(walk: Walk, entra: Entra) -> None:
    """Where scripts are off, the page shows the same after a reload."""
    person, daemon = walk.person, walk.daemon
    until(lambda: named(daemon, walk.page), "the page's address in the status")
    person.without_scripts()
    person.open(walk.page)
    daemon.sign_in(BOB, entra)

    assert f"Sign in {BOB}" in person.buttons
    person.reload()
    assert [f"Sign in {ANN}"] == person.buttons
    person.press(f"Sign in {ANN}")
    sign_in(person, ANN)
    assert f"{ANN} is signed in" in person.await_title("Signed in")


@dataclass
class Port:
    """A port where cms's page is, and later what `page` is set to. `asked` counts the page's own requests since then."""

    number: int = 0
    page: str = pages.front([Card(ANN, "bad", "Needs you", (), Offer("key", ANN))])
    asked: list[str] = field(default_factory=list)

    def put(self, page: str) -> None:
        self.asked.clear()
        self.page = page


@contextmanager
def port() -> Iterator[Port]:
    at = Port()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            at.asked.append(self.path)
            page, kind = (SCRIPT, "text/javascript") if self.path == pages.SCRIPT_PATH else (at.page, "text/html")
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", pages.POLICY)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_said: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        at.number = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield at
        finally:
            server.shutdown()
            thread.join()


def test_the_page_shows_nothing_of_another_program_at_its_port(entra: Entra) -> None:
    """Whoever listens there after cms cannot put a link or a button into a page that is open in a person's browser.

    The twin is cms itself, whose page has changed.
    """
    require_root()
    changed = pages.front([Card(BOB, "bad", "Needs you", (), Offer("key", BOB))])
    with port() as at, open_folder("page") as folder, browser(folder, ALICE, Path(entra.cert_file)) as person:
        person.open(f"http://127.0.0.1:{at.number}/")
        assert [f"Sign in {ANN}"] == person.buttons
        at.put(changed)
        until(lambda: person.buttons == [f"Sign in {BOB}"], "what cms says now")
        at.put(changed.replace(MARK, "0" * len(MARK)).replace(BOB, "mallory@example.test"))
        until(lambda: person.summary == "This page has closed.", "the word that the page has closed")

        assert at.asked
        assert [] == person.buttons
        assert "mallory" not in person.source


def named(daemon: Daemon, address: str) -> str:
    """Return what `cms status` prints once it names an address for every account."""
    said = " ".join(daemon.cms("status").stdout.split())
    return said if 2 == said.count(f"open {address} in a browser on this machine") else ""
