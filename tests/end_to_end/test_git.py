"""docs/clients/git.md: series of patches by msmtp, by exim and by git itself, and git's credential helper protocol."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.contrib import ROOT, exim_conf, replaced
from support.fragments import contrib, explains, page, shown
from support.machine import EXIM_USER, Machine
from support.person import READER, USER, Person, person
from support.programs import give_up, require_program
from support.reachable import ALICE, Installation, open_folder
from support.servers import MailServers

# Debian's folder for git's own commands; send-email comes in a separate package.
SEND_EMAIL = Path("/usr/lib/git-core/git-send-email")

# A SASL plug-in for XOAUTH2, where Debian's Perl has none.
PLUGIN = ROOT / "tests" / "sasl" / "perl"

# seeds of the original CMS: its document, "Outbound mail through SMTP", has this for `.git_config`.
CMS_DOCUMENT = """
[sendemail]
        smtpserver = /usr/bin/msmtp
        from = User Name <user@domain.com>
        envelopeSender = User Name <user@domain.com>
        assume8bitEncoding = UTF-8
        transferEncoding = auto
"""

_numbers = count()


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Person]:
    """A person with a repository of three commits, msmtp set up, and a socket for exim."""
    require_program("git", "git")
    if not SEND_EMAIL.exists():
        give_up("git send-email is missing: apt-get install git-email")
    exim = f'CredentialServer("{{sockets}}/exim.sock", accounts=[account], users=["{EXIM_USER}"])\n'
    with person(installation, servers, exim) as owner:
        words = {
            "port 587": f"port {servers.submission}",
            "host smtp.office365.com": "host localhost",
            "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
        }
        owner.file(".msmtprc", contrib("msmtp.conf"), **words)
        done = owner.shell(
            "git init -q work && cd work && git config user.name 'User Name' && git config user.email user@domain.com &&"
            " for each in 1 2 3 4; do echo $each >file; git add file; git commit -q -m $each; done"
        )
        assert done.returncode == 0, done.stderr
        yield owner


def series(owner: Person, *options: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Send the last three commits; return how that ended, and what their subjects have in common."""
    prefix = f"series {next(_numbers)}"
    done = owner.run("git", "-C", "work", *send_email(prefix), *options, "-3", **environment)
    return done, f"[{prefix} "


def send_email(prefix: str) -> list[str]:
    return ["send-email", f"--subject-prefix={prefix}", f"--to={READER}", "--confirm=never"]


def assert_arrives(owner: Person, prefix: str) -> None:
    """All three arrive, once each, from the account."""
    for number, subject in enumerate("234", 1):
        message = owner.servers.wait_for_mail(READER, f"{prefix}{number}/3] {subject}")
        assert f"Return-path: <{USER}>" in message
        assert f"From: User Name <{USER}>" in message


def use_helper(owner: Person, **words: str) -> None:
    """Put contrib/gitconfig-credential into ~/.gitconfig for the test's server, after a helper that stores."""
    port = owner.servers.submission
    adjusted = {
        "smtpServer = smtp.office365.com": "smtpServer = localhost",
        "smtpServerPort = 587": f"smtpServerPort = {port}",
        "smtp://smtp.office365.com:587": f"smtp://localhost:{port}",
    }
    text = replaced(contrib("gitconfig-credential"), **(adjusted | words))
    trust = f"[sendemail]\n\tsmtpSSLCertPath = {owner.servers.ca_file}\n"
    owner.file(".gitconfig", f"[credential]\n\thelper = store\n{trust}{text}")


def credential(owner: Person, action: str, **description: str) -> subprocess.CompletedProcess[str]:
    """Run `git credential ACTION` for the test's server."""
    usual = {"protocol": "smtp", "host": f"localhost:{owner.servers.submission}"}
    lines = "".join(f"{name}={value}\n" for name, value in (usual | description).items())
    return owner.run("git", "credential", action, stdin=f"{lines}\n", GIT_TERMINAL_PROMPT="0")


def password(owner: Person) -> str:
    """Return the password that git gets from the helper."""
    filled = credential(owner, "fill")
    assert filled.returncode == 0, filled.stderr
    return dict(line.split("=", 1) for line in filled.stdout.splitlines())["password"]


def attempts(owner: Person) -> int:
    """Return how many login attempts the submission server has seen."""
    log = owner.servers.log()
    return log.count("A=xoauth2:") + log.count("authenticator failed")


def test_a_series_arrives_by_msmtp(signed_in: Person) -> None:
    """With contrib/gitconfig-msmtp as it is."""
    signed_in.file(".gitconfig", contrib("gitconfig-msmtp"))

    done, prefix = series(signed_in)

    assert 0 == done.returncode, done.stderr
    assert_arrives(signed_in, prefix)


def test_another_provider_is_an_identity(signed_in: Person) -> None:
    """With `--identity=gmail` the other account sends: here msmtp has none for it, and by git itself there is a token."""
    signed_in.file(".gitconfig", contrib("gitconfig-msmtp"))
    by_msmtp = signed_in.run("git", "-C", "work", "send-email", "--identity=gmail", "--dry-run", f"--to={READER}", "-1")
    use_helper(signed_in)
    server = signed_in.run("git", "config", "sendemail.gmail.smtpServer").stdout.strip()

    assert "From: User Name <user@gmail.com>" in by_msmtp.stdout, by_msmtp.stderr
    assert "user@gmail.com" in by_msmtp.stdout.partition("Sendmail: ")[2].partition("\n")[0]
    assert "password=" in credential(signed_in, "fill", host=f"{server}:587").stdout


def test_a_series_arrives_with_the_configuration_of_the_cms_document(signed_in: Person) -> None:
    """Literally as it is there."""
    signed_in.file(".gitconfig", CMS_DOCUMENT)

    done, prefix = series(signed_in)

    assert 0 == done.returncode, done.stderr
    assert_arrives(signed_in, prefix)


def test_a_series_arrives_by_exim(signed_in: Person) -> None:
    """The same file with exim's sendmail in place of msmtp."""
    signed_in.file(".gitconfig", contrib("gitconfig-msmtp"), **{"/usr/bin/msmtp": "/usr/sbin/sendmail"})
    with open_folder("exim") as folder:
        machine = Machine(folder, {"alice": ALICE})
        macros = {
            "SENDERS": f"alice = {USER}",
            "SOCKET": str(signed_in.broker.sockets / "exim.sock"),
            "SMARTHOST": "localhost",
            "PORT": str(signed_in.servers.submission),
            "AUTHORITIES": signed_in.servers.ca_file,
        }
        machine.configure(exim_conf(**macros))
        home = [f"HOME={signed_in.home}", "git", "-C", str(signed_in.home / "work")]

        done = machine.run("env", *home, *send_email("by exim"), "-3", login="alice")

        assert 0 == done.returncode, done.stderr
        assert_arrives(signed_in, "[by exim ")


def test_the_pages_test_passes(signed_in: Person) -> None:
    """The page's command sends the last commit."""
    signed_in.file(".gitconfig", contrib("gitconfig-msmtp"))

    done = signed_in.shell(f"cd work && {shown('git', 'send')}")

    assert 0 == done.returncode, done.stderr
    assert signed_in.servers.wait_for_mail(USER, "[PATCH] 4")


def test_without_a_token_nothing_is_sent(signed_in: Person) -> None:
    """msmtp's failure ends the series at its first patch; no login is tried, and the page explains what is said."""
    signed_in.file(".gitconfig", contrib("gitconfig-msmtp"))
    before = attempts(signed_in)
    signed_in.logout()
    done, _ = series(signed_in)
    signed_in.login()

    assert 0 != done.returncode
    assert "(sign-in-required)" in done.stderr
    assert explains("git", done.stderr)
    assert before == attempts(signed_in)


def test_the_helper_gives_user_and_token(signed_in: Person) -> None:
    """git's own `credential fill` gets both for this server, and a moment at which the token ends."""
    use_helper(signed_in)

    filled = credential(signed_in, "fill")

    answer = dict(line.split("=", 1) for line in filled.stdout.splitlines())
    assert (0, "") == (filled.returncode, filled.stderr)
    assert USER == answer["username"]
    assert signed_in.servers.entra.introspect(answer["password"])["active"]


def test_the_pages_test_of_the_helper_passes(signed_in: Person) -> None:
    """And shows no token."""
    use_helper(signed_in)
    port = signed_in.servers.submission

    done = signed_in.shell(replaced(shown("git", "fill"), **{"smtp.office365.com:587": f"localhost:{port}"}))

    assert (0, "there is a token\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("where", [{"host": "smtp.example.com:587"}, {"host": "localhost"}, {"protocol": "https"}])
def test_no_other_server_gets_the_token(signed_in: Person, where: dict[str, str]) -> None:
    """Another host, another port, another protocol: git finds no credential, and would ask a person."""
    use_helper(signed_in)

    filled = credential(signed_in, "fill", **where)

    assert 0 != filled.returncode
    assert "password" not in filled.stdout
    assert "terminal prompts disabled" in filled.stderr


def test_the_port_is_a_part_of_the_name(signed_in: Person) -> None:
    """As the page says: without it git does not take the section for this server's."""
    signed_in.file(".gitconfig", '[credential "smtp://localhost"]\n\thelper = cms\n')

    filled = credential(signed_in, "fill")

    assert 0 != filled.returncode
    assert "terminal prompts disabled" in filled.stderr


def test_a_user_whom_cms_does_not_serve_may_have_a_password(signed_in: Person) -> None:
    """git goes on to ask a person; the helper is told too when that password is refused, and leaves it alone."""
    use_helper(signed_in)
    other = {"username": "other@domain.com"}

    # It stands for a person, and answers each question with the question.
    signed_in.run("git", "config", "--global", "core.askPass", "/bin/echo")
    filled = credential(signed_in, "fill", **other)
    rejected = credential(signed_in, "reject", **other, password="pässword")

    assert 0 == filled.returncode, filled.stderr
    assert "password=Password for" in filled.stdout
    assert "(unknown-account)" in filled.stderr
    assert (0, "") == (rejected.returncode, rejected.stderr)


def test_the_helper_itself_knows_mail_only(signed_in: Person) -> None:
    """Even where it is configured for all there is, a web server gets nothing."""
    signed_in.file(".gitconfig", "[credential]\n\thelper = cms\n")

    filled = credential(signed_in, "fill", protocol="https", host="github.com")

    assert 0 != filled.returncode
    assert "password" not in filled.stdout


def test_no_credential_helper_stores_the_token(signed_in: Person) -> None:
    """The example removes the helper that would write a file, so that git's `credential approve` stores no token."""
    use_helper(signed_in)
    stored = signed_in.home / ".git-credentials"
    token = password(signed_in)

    approved = credential(signed_in, "approve", username=USER, password=token)
    alone = stored.exists()
    use_helper(signed_in, **{"\thelper =\n": ""})
    credential(signed_in, "approve", username=USER, password="not-a-token")

    assert (0, False) == (approved.returncode, alone)
    assert "not-a-token" in stored.read_text(), "the other helper does store, where it is not dropped"


def test_curl_sends_with_what_the_helper_gives(signed_in: Person) -> None:
    """A credential from git logs another program in."""
    use_helper(signed_in)
    text, subject = signed_in.message()
    url = f"smtp://localhost:{signed_in.servers.submission}"
    options = f'url = "{url}"\nssl-reqd\nmail-from = "{USER}"\nmail-rcpt = "{READER}"\nuser = "{USER}"\n'
    message = signed_in.file("message", text.replace("\n", "\r\n"))

    done = signed_in.run(
        require_program("curl", "curl"),
        *("-sS", "-K", "-", "--cacert", signed_in.servers.ca_file, "-T", str(message)),
        stdin=f'{options}oauth2-bearer = "{password(signed_in)}"\n',
    )

    assert 0 == done.returncode, done.stderr
    assert signed_in.servers.wait_for_mail(READER, subject)


def test_git_itself_sends_where_its_perl_can(signed_in: Person) -> None:
    """Where it cannot, as in Debian 12, git says so as the page does and tries no login; the summary names the version."""
    use_helper(signed_in)
    before = attempts(signed_in)

    done, prefix = series(signed_in)

    if done.returncode:
        assert "No SASL mechanism found" in done.stderr
        assert "`No SASL mechanism found`" in page("git")
        assert before == attempts(signed_in)
        pytest.skip(f"{perl_sasl(signed_in)} has no XOAUTH2: git said so, and tried no login")
    assert_arrives(signed_in, prefix)


def perl_sasl(owner: Person) -> str:
    """Return which Authen::SASL the installed Perl has."""
    return "Authen::SASL " + owner.run("perl", "-MAuthen::SASL", "-e", "print Authen::SASL->VERSION").stdout


def test_git_itself_sends_with_the_plug_in(signed_in: Person) -> None:
    """With XOAUTH2 in its Perl, as in newer releases, git gets the token from the helper and asks no question."""
    use_helper(signed_in)

    done, prefix = series(signed_in, PERL5LIB=plug_in(signed_in))

    assert 0 == done.returncode, done.stderr
    assert_arrives(signed_in, prefix)


def plug_in(owner: Person) -> str:
    """Copy the plug-in to where the person can read it; return the folder."""
    name = "Authen/SASL/Perl/XOAUTH2.pm"
    path = owner.file(f"perl/{name}", (PLUGIN / name).read_text())
    return str(path.parents[3])


def test_without_a_daemon_git_asks_no_question(signed_in: Person) -> None:
    """The helper makes git quit instead of asking for a password at a terminal; the page explains the message."""
    use_helper(signed_in)
    signed_in.broker.stop()
    before = attempts(signed_in)
    filled = credential(signed_in, "fill", username=USER)
    # Its exit status is 0 all the same (git 2.39): the page says so.
    done, _ = series(signed_in, PERL5LIB=plug_in(signed_in))
    signed_in.start_broker()

    assert 0 != filled.returncode
    assert "told us to quit" in filled.stderr
    assert explains("git", filled.stderr)
    assert "git-credential-cms: there is no socket" in done.stderr
    assert "OK. Log says" not in done.stdout
    assert before == attempts(signed_in)


def test_a_refused_token_is_replaced(signed_in: Person) -> None:
    """A server refuses the token: git tells the helper to erase it, and the next login has another one.

    A second refusal within five minutes brings no third token: it is said why, and the page explains it.
    """
    use_helper(signed_in)
    signed_in.outlive_pause()
    refused = password(signed_in)
    signed_in.servers.entra.directory.revoke_access(USER)
    failed, _ = series(signed_in, PERL5LIB=plug_in(signed_in))
    fresh = password(signed_in)
    replaced_by_another = fresh != refused
    done, prefix = series(signed_in, PERL5LIB=plug_in(signed_in))
    again = credential(signed_in, "reject", username=USER, password=fresh)

    assert 0 != failed.returncode, failed.stderr + failed.stdout
    assert replaced_by_another, failed.stderr
    assert 0 == done.returncode, done.stderr
    assert_arrives(signed_in, prefix)
    assert "may not ask for more so soon" in again.stderr
    assert explains("git", again.stderr)
