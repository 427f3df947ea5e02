"""docs/clients/graph.md: real mail programs send with contrib/graph-sendmail and a real cms through the sandbox's Graph."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from itertools import count

import pytest
from support.contrib import replaced
from support.daemon import ask
from support.fragments import explains, shown
from support.person import READER, USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login
from support.waiting import until

from cms.sandbox.graph import Posted

# A recipient whom no header shows.
BLIND = "blind@domain.com"

_numbers = count()


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person with the page's configuration, the script installed as the page says, and a repository with a commit."""
    for program in ("git", "mutt", "s-nail", "emacs"):
        require_program(program, program)
    with login(installation, servers, configuration=shown("graph", "configuration")) as owner:
        (data,) = installation.folder.glob("lib/python3*/site-packages/cms/data/contrib")
        prepared = run(
            owner, "sh", "-c", "mkdir -p .local/bin && " + shown("graph", "install").replace("contrib", str(data))
        )
        assert prepared.returncode == 0, prepared.stderr
        done = owner.shell(
            "git init -q work && cd work && git config user.name 'User Name' && git config user.email user@domain.com &&"
            " echo 1 >file && git add file && git commit -qm größe"
        )
        assert done.returncode == 0, done.stderr
        await_token(owner)
        yield owner


def await_token(owner: Login) -> None:
    """Wait for the token for Graph: the sign-in itself gives one for IMAP, and programs wait for seconds only."""
    until(lambda: ask(owner.socket, f"GRAPH,token {USER}\n".encode()), "a token for Graph")


def run(owner: Login, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with ~/.local/bin in the PATH."""
    path = f"{owner.home}/.local/bin:{owner.environment['PATH']}"
    trust = owner.servers.entra.ca_file
    return owner.run(*command, stdin=stdin, PATH=path, SSL_CERT_FILE=trust, **environment)


def graph(owner: Login) -> Mapping[str, str]:
    """Return what makes an example use the sandbox's Graph."""
    return {"--user=": f"--graph={owner.servers.entra.authority} --user="}


def posted(owner: Login, subject: str) -> Posted:
    """Return the one message with this subject."""
    messages = owner.servers.entra.graph.messages
    (found,) = (each for each in messages if subject in str(message_from_bytes(each.content)["Subject"]))
    return found


def parts(message: Posted) -> list[object]:
    """Return the decoded parts of a message."""
    return [
        each.get_payload(decode=True) for each in message_from_bytes(message.content).walk() if not each.is_multipart()
    ]


def new_subject() -> str:
    return f"by Graph {next(_numbers)}."


def test_the_pages_test_passes(signed_in: Login) -> None:
    """It prints nothing and exits with 0, and the message is sent with the token for Graph, which is not Exchange's."""
    text = replaced(
        shown("graph", "test"), **{"sendmail -t": f"sendmail --graph={signed_in.servers.entra.authority} -t"}
    )
    done = run(signed_in, "sh", "-c", text)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert (USER, (USER,)) == (posted(signed_in, "test").sender, posted(signed_in, "test").recipients)


def test_git(signed_in: Login) -> None:
    """git send-email sends a patch, with a blind copy that git names on the command line only."""
    subject = new_subject()
    signed_in.file(".gitconfig", shown("graph", "git"), **graph(signed_in))
    options = [f"--subject-prefix={subject}", f"--to={READER}", f"--bcc={BLIND}", "--confirm=never", "-1"]

    done = run(signed_in, "git", "-C", "work", "send-email", *options)

    assert 0 == done.returncode, done.stderr
    sent = posted(signed_in, subject)
    # git sends a copy to the author.
    assert (USER, {READER, BLIND, USER}) == (sent.sender, set(sent.recipients))
    assert BLIND.encode() not in sent.content


def test_mutt(signed_in: Login) -> None:
    """mutt sends with an attachment and a blind copy, which it leaves out of the header."""
    subject = new_subject()
    signed_in.file(".muttrc", shown("graph", "mutt"), **graph(signed_in))
    attached = signed_in.file("attached.bin", "größe\0")

    done = run(
        signed_in, "mutt", "-s", subject, "-b", BLIND, "-a", str(attached), "--", READER, stdin="größe\n.\nend\n"
    )

    assert 0 == done.returncode, done.stderr
    sent = posted(signed_in, subject)
    assert (USER, {READER, BLIND}) == (sent.sender, set(sent.recipients))
    text, attachment = parts(sent)
    assert ("größe\n.\nend\n".encode("latin-1"), "größe\0".encode()) == (text, attachment)
    assert BLIND.encode() not in sent.content


def test_s_nail(signed_in: Login) -> None:
    """s-nail sends with a copy and a blind one."""
    subject = new_subject()
    signed_in.file(".mailrc", shown("graph", "s-nail"), **graph(signed_in))

    done = run(signed_in, "s-nail", "-s", subject, "-c", USER, "-b", BLIND, READER, stdin="hello\n")

    assert 0 == done.returncode, done.stderr
    assert {READER, USER, BLIND} == set(posted(signed_in, subject).recipients)


def test_emacs(signed_in: Login) -> None:
    """Emacs leaves Bcc to sendmail -t."""
    subject = new_subject()
    words = {'"~/.local/bin/graph-sendmail"': '"~/sendmail"'}
    signed_in.file(".emacs.d/init.el", shown("graph", "emacs"), **words)
    wrapper(signed_in)
    lisp = (
        f'(progn (message-mail "{READER}" "{subject}" (quote (("Bcc" . "{BLIND}")))) (insert "hello") (message-send))'
    )

    done = run(signed_in, "emacs", "--batch", "--load", f"{signed_in.home}/.emacs.d/init.el", "--eval", lisp)

    assert 0 == done.returncode, done.stderr
    sent = posted(signed_in, subject)
    assert {READER, BLIND} == set(sent.recipients)
    assert BLIND.encode() not in sent.content


def wrapper(owner: Login) -> str:
    """Write the page's script in the place of /usr/sbin/sendmail; return its path."""
    words = {"/home/user": str(owner.home), "/run/user/1000/cms/cms.sock": str(owner.socket)}
    path = owner.file("sendmail", shown("graph", "wrapper"), **words, **graph(owner))
    path.chmod(0o755)
    return str(path)


def test_cron(signed_in: Login) -> None:
    """As Debian's cron calls sendmail: its output goes to the login's own name, which is the account."""
    subject = new_subject()
    text = f"From: root (Cron Daemon)\nTo: alice\nSubject: {subject}\n\nhello\n"
    program = wrapper(signed_in)

    done = run(signed_in, program, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "alice", stdin=text, LOGNAME="alice")

    assert (0, "") == (done.returncode, done.stderr)
    sent = posted(signed_in, subject)
    assert (USER, (USER,)) == (sent.sender, sent.recipients)


def test_without_a_token(signed_in: Login) -> None:
    """git ends at this patch with cms-oauth's line and the script's, which the page explains; nothing is sent."""
    signed_in.file(".gitconfig", shown("graph", "git"), **graph(signed_in))
    before = len(signed_in.servers.entra.graph.messages)
    signed_in.logout()
    done = run(signed_in, "git", "-C", "work", "send-email", f"--to={READER}", "--confirm=never", "-1")
    signed_in.login()
    await_token(signed_in)

    assert 0 != done.returncode
    assert "(sign-in-required)" in done.stderr
    assert "graph-sendmail: there is no token: the message was not sent" in done.stderr
    assert explains("graph", done.stderr)
    assert before == len(signed_in.servers.entra.graph.messages)


def test_a_refused_token_is_replaced(signed_in: Login) -> None:
    """Entra revokes what was issued: Graph says 401, cms gets another token, and the message goes with that."""
    subject = new_subject()
    signed_in.outlive_pause("GRAPH")
    signed_in.servers.entra.directory.revoke_access(USER)
    text = f"To: {READER}\nSubject: {subject}\n\nhello\n"

    done = run(signed_in, "graph-sendmail", f"--graph={signed_in.servers.entra.authority}", "-t", stdin=text)

    assert (0, "") == (done.returncode, done.stderr)
    assert (READER,) == posted(signed_in, subject).recipients
