"""docs/tutorial.md, from a signed-in account to a message that mutt shows: each block as it stands there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.contrib import ROOT
from support.fragments import Block, blocks, marked
from support.person import USER
from support.programs import listed_packages, require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login, terminal

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = blocks(PAGE)


def block(name: str) -> str:
    """Return the block that the page marks with `test: NAME`."""
    return marked(PAGE, name)


@pytest.fixture
def reader(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who has done the first two steps: `cms init` has written the configuration where cms looks for it."""
    for program, package in (("mbsync", "isync"), ("msmtp", "msmtp"), ("mutt", "mutt"), ("tmux", "tmux")):
        require_program(program, package)
    with login(installation, servers) as owner:
        usual = owner.home / "config" / "cms" / "cms.cfg"
        usual.parent.mkdir(parents=True, exist_ok=True)
        usual.symlink_to(owner.broker.config)
        yield owner


def typed(owner: Login, name: str) -> str:
    """Run a block as the person types it, with the test's servers in the place of Microsoft's; return what it prints."""
    for line in block(name).replace("|\n", "| ").splitlines():
        done = owner.shell(line)
        assert 0 == done.returncode, (line, done.stderr)
        _use_the_tests_servers(owner)
    return done.stdout


def _use_the_tests_servers(owner: Login) -> None:
    servers = owner.servers
    here = {
        "outlook.office365.com\nPort 993": f"localhost\nPort {servers.imap}",
        "smtp.office365.com": "localhost",
        "port 587": f"port {servers.submission}",
        "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
    }
    for path in (owner.home / ".mbsyncrc", owner.home / ".msmtprc"):
        text = path.read_text() if path.exists() else ""
        found = {theirs: ours for theirs, ours in here.items() if theirs in text}
        if found:
            owner.file(path.name, text, **found)


def test_the_tutorial(reader: Login) -> None:
    """The steps work in their order, with nothing between them: mail comes, goes, and is read."""
    came = reader.receive()

    assert typed(reader, "version").startswith("cms")
    assert USER in typed(reader, "status")
    typed(reader, "mbsync")
    typed(reader, "msmtp")
    typed(reader, "send")
    sent = reader.servers.wait_for_mail(USER, "hello from cms")
    assert "INBOX" in typed(reader, "arrived")
    reader.file(".muttrc", block("muttrc"))
    with terminal(reader, *block("mutt").split()) as window:
        window.wait_for(came, "hello from cms")

    assert "It works." in sent


def test_every_block_is_run_or_says_why_not() -> None:
    """Each has a mark: of the test above, of packages that the tests have, or a reason."""

    def is_fine(each: Block) -> bool:
        kind, _, rest = each.mark.partition(": ")
        if kind == "packages":
            return set(each.text.split()[3:]) <= set(listed_packages())
        return kind in ("test", "not-run") and bool(rest)

    assert BLOCKS
    assert [] == [each.text for each in BLOCKS if not is_fine(each)]
