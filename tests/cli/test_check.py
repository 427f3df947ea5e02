"""`cms check`: what a configuration means, and what it is warned about."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import daemon, done, empty_folders, good_configuration
from support.proofs import DAY, AppCertificate, write_private
from support.waiting import PATIENCE

from cms import main
from cms.config.load import load
from cms.system import logs

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture
def configured(home: Path) -> Path:
    return good_configuration(home)


def test_check_says_what_a_configuration_means(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts with whose application they use, sockets with who may ask, the key, and warnings."""
    path = home / "my.cfg"
    path.write_text(
        f"""
own = Office365_Account(user="b@example.test", client_id="11111111-2222-3333-4444-555555555555", tenant="t.test")
account = Office365_Account(user="a@example.test")
fast = OAuth2_Account("c@fastmail.com", provider="fastmail")
CredentialServer("{home}/open.sock", accounts=[account, own, fast], protocols=["SMTP", "IMAP"], mode=0o666)
CredentialServer("{home}/users.sock", accounts=[account], users=["root"], groups=["root"], group="root")
PostfixTable("{home}/postfix.sock", accounts=[account], default=account)
TokenFile("{home}/token", account, "IMAP", mode=0o640, newline=True)
MailDir("x")
Vault(key=File("{home}/key"))
Proxy("http://ann@proxy.test:3128", no_proxy=["localhost"])
"""
    )

    assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()
    assert f"{path}: good" in out
    assert "proxy http://proxy.test:3128, as ann: used to reach the identity provider; not for: localhost" in out
    assert "account a@example.test: SMTP, IMAP; signs in by browser; application: cms (" in out
    assert (
        "account c@fastmail.com (Fastmail): SMTP, IMAP; signs in by browser, and the provider does not say who" in out
    )
    assert "cms cannot check that; application: registered by cms" in out
    assert "application: 11111111-" in out
    assert (
        "mode 0666; for all users that its mode allows; serves a@example.test, b@example.test, c@fastmail.com with SMTP, IMAP"
        in out
    )
    assert "group root; for its owner, root, user root, group root" in out
    assert f"vault key: file {home}/key" in out
    table = f"Postfix table {home}/postfix.sock: mode 0600; for all users that its mode allows; serves a@example.test"
    assert f"{table} with SMTP, by host a@example.test" in out
    assert f"token file {home}/token: mode 0640; the IMAP token of a@example.test and a newline" in out
    assert "warning:" in err


@pytest.mark.parametrize(
    ("place", "noted"),
    [("{home}/elsewhere.sock", True), ("{home}/run/cms/cms.sock", False), ("{home}/system/cms.sock", False)],
)
def test_check_says_when_clients_do_not_look_there(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, noted: bool
) -> None:
    """The session's folder and the service's are looked at; any other has to be named, and that is no fault."""
    monkeypatch.delenv("CMS_SOCK", raising=False)
    path, sock = home / "my.cfg", place.format(home=home)
    path.write_text(f'CredentialServer("{sock}", accounts=[Office365_Account(user="a@example.test")])')

    assert 0 == main.main(["check", "-c", str(path)])
    out = capsys.readouterr().out
    assert noted == (f"programs need --cms_sock={sock} or CMS_SOCK={sock}\n" in out)
    assert noted == ("note:" in out)


@pytest.mark.parametrize(("config", "told"), [("cms.cfg", True), ("other.cfg", False)])
def test_check_says_what_the_running_daemon_warns_of(
    home: Path, configured: Path, capsys: pytest.CaptureFixture[str], config: str, told: bool
) -> None:
    """Of the tokens that it holds now, if it runs with the very file that is checked."""
    rows = [{"user": "a@example.test", "warning": "the token is long"}, {"user": "", "warning": ""}]
    status = done(json={"daemon": {"config": str(configured.parent / config)}, "accounts": rows})
    with daemon(home, status) as asked:
        code = main.main(["check"])

    assert (0, [{"command": "status"}]) == (code, asked)
    assert told == ("warning: a@example.test: the token is long" in capsys.readouterr().err)


def test_check_says_once_what_the_daemon_warns_of_many(
    home: Path, configured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 200 mailboxes of one application the token's warning is one line, with the first of them."""
    rows = [{"user": f"box{number:03}@example.test", "warning": "the token is long"} for number in range(200)]
    with daemon(home, done(json={"daemon": {"config": str(configured)}, "accounts": rows})):
        assert 0 == main.main(["check"])

    (warned,) = [line for line in capsys.readouterr().err.splitlines() if "the token is long" in line]
    assert warned.startswith("cms: warning: box000@example.test, box001@example.test, ")
    assert warned.endswith("box007@example.test, 192 more: the token is long")


@pytest.mark.parametrize(("key", "warned"), [("old", True), ("new", False)])
def test_check_points_to_rekey(home: Path, capsys: pytest.CaptureFixture[str], key: str, *, warned: bool) -> None:
    """If the daemon's sign-ins have another key than the file names; it says which key is the old one."""
    path = home / "my.cfg"
    path.write_text(
        f"""
CredentialServer("{home}/my.sock", accounts=[Office365_Account(user="a@example.test")])
Vault(key=File("{home}/new"), old_key=File("{home}/old"))
"""
    )
    rows = [{"user": "a@example.test", "persisted": True, "key_from": f"key file {home}/{key}"}]
    with daemon(home, done(json={"daemon": {"config": str(path)}, "accounts": rows})):
        assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()

    assert f"old vault key: file {home}/old, needed until `cms vault rekey` has moved every sign-in" in out
    assert warned == (f"the key of stored sign-ins is from key file {home}/old" in err)
    assert warned == ("`cms vault rekey` moves the sign-ins" in err)


@pytest.mark.parametrize(("days", "warned"), [(10.5, True), (100.0, False)])
def test_check_reads_an_applications_certificate(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, days: float, warned: bool
) -> None:
    """Its end is told a month ahead, with its place; nothing is asked of Entra."""
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    certificate = write_private(home / "app.pem", AppCertificate(time.time() + days * DAY).pem())
    path = home / "my.cfg"
    path.write_text(
        f"""
app = Office365_Account("a@example.test", tenant="t.test", sign_in="app",
    client_id="11111111-2222-3333-4444-555555555555", certificate=File("{certificate}"))
CredentialServer("{home}/my.sock", accounts=[app])
"""
    )

    assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()
    assert warned == (f"warning: file {certificate}: the application's certificate ends in 10 d" in err)
    assert "signs in by app" in out


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (None, "{path} cannot be read: No such file or directory"),
        (0o644, "{path} can be read by every user of this machine: `chmod o-rwx {path}`"),
        (0o640, ""),
    ],
)
def test_check_looks_at_the_files_of_secrets(
    home: Path, capsys: pytest.CaptureFixture[str], mode: int | None, why: str
) -> None:
    """`cms check` finds a missing file, or one that everyone can read, before it is needed. It shows no contents."""
    secret, config = home / "secret", home / "my.cfg"
    config.write_text(
        f"""
account = Office365_Account(
    user="a@example.test", tenant="t.test", client_id="11111111-2222-3333-4444-555555555555", sign_in="app",
    client_secret=File("{secret}"),
)
Vault(key=File("{home}/key"))
CredentialServer("{home}/cms.sock", accounts=[account])
Proxy("http://ann@proxy.test:3128", password=File("{home}/none"))
"""
    )
    if mode is not None:
        secret.write_text("s3cret")
        secret.chmod(mode)

    assert 0 == main.main(["check", "-c", str(config)])
    out, err = capsys.readouterr()
    assert bool(why) == ("warning: client_secret: " in err)
    assert why.format(path=secret) in err
    assert f"warning: the proxy's password: {home}/none cannot be read" in err
    assert "s3cret" not in out + err


def test_two_hundred_mailboxes_are_a_few_lines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accounts that are set up alike are told once, with their number; another has a line of its own."""
    path = home / "my.cfg"
    path.write_text(
        f"""
boxes = [Office365_Account(user=f"box{{number:03}}@example.test", sign_in="device") for number in range(200)]
other = Office365_Account(user="other@example.test")
PostfixTable("{home}/postfix.sock", accounts=[*boxes, other], default=other)
"""
    )

    assert 0 == main.main(["check", "-c", str(path)])
    out = capsys.readouterr().out
    some = ", ".join(f"box{number:03}@example.test" for number in range(8))
    assert f"200 accounts, {some}, 192 more: SMTP; signs in by device; application: cms (" in out
    assert "account other@example.test: SMTP; signs in by browser" in out
    assert f"; serves {some}, 193 more with SMTP, by host other@example.test" in out
    assert "box008" not in out.partition("can ask there")[0]


@pytest.mark.parametrize("uid", [0, 65534])
def test_root_is_told_that_the_service_sees_other_things(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    """A folder of the service's user is right for the service, though it would not be for root: it is not root's fault."""
    state, served = home / "var-lib-cms", home / "run-cms"
    for folder in (home / "etc", state, served):
        folder.mkdir()
    os.chown(state, uid, uid)
    os.chown(served, 65534, 65534)
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_STATE", str(state))
    config = home / "etc" / "cms.cfg"
    config.write_text(
        f'CredentialServer("{served}/cms.sock", accounts=[Office365_Account(user="a@example.test")], users=["daemon"], mode=0o600)\n'
        'MailDir("x")\n'
    )

    assert 0 == main.main(["check", "-c", str(config)])
    err = capsys.readouterr().err
    assert bool(uid) == ("and the service runs as nobody: `sudo -u nobody cms check` looks at" in err)
    assert bool(uid) != ("cms does not start" in err)
    assert "daemon cannot reach" in err
    assert "MailDir" in err


def test_check_finds_the_configuration_before_the_command_too(configured: Path, tmp_path: Path) -> None:
    """`cms -c FILE check` is `cms check -c FILE`, whose own option wins."""
    other = tmp_path / "bad.cfg"
    other.write_text("nonsense(")

    assert 0 == main.main(["check"])
    assert os.EX_CONFIG == main.main(["-c", str(other), "check"])
    assert 0 == main.main(["-c", str(other), "check", "-c", str(configured)])


_OPENED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from cms import main
status = main.main(["check", "-c", sys.argv[1]])
print([path for path in sys.argv[2:] if path in opened])
print([name for name in sys.modules if name in ("cryptography", "cms.grants.entra")])
sys.exit(status)
"""


def test_check_opens_no_secret(home: Path) -> None:
    """A certificate has its key beside it, and a password opens that: only the worker process reads them."""
    made = AppCertificate(time.time() + 5.5 * DAY)
    certificate = write_private(home / "app.p12", made.pfx("hunter2"))
    password = write_private(home / "password", "hunter2\n")
    path = home / "my.cfg"
    path.write_text(
        f"""
app = Office365_Account("a@example.test", tenant="t.test", sign_in="app",
    client_id="11111111-2222-3333-4444-555555555555", certificate=File("{certificate}"),
    certificate_password=File("{password}"))
CredentialServer("{home}/my.sock", accounts=[app])
"""
    )
    command = [sys.executable, "-c", _OPENED, str(path), str(certificate), str(password)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE)

    assert (0, ["[]", "[]"]) == (ran.returncode, ran.stdout.splitlines()[-2:])
    assert "the application's certificate ends in 5 d" in ran.stderr


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "fleet: this host serves only: it has no key= of sign-ins, so others sign in and fetch the tokens\n"),
        (', key=File("{home}/key")', "fleet: this host shares its sign-ins; their key: file {home}/key\n"),
    ],
)
def test_check_says_what_a_host_does_in_its_fleet(
    home: Path, capsys: pytest.CaptureFixture[str], key: str, said: str
) -> None:
    """Whether it serves only, and which secrets it cannot read. What it keeps from before is to be moved."""
    path = home / "my.cfg"
    more = key.format(home=home)
    path.write_text(
        f"""
account = Office365_Account(user="a@example.test")
CredentialServer("{home}/my.sock", accounts=[account])
Fleet("dbname=cms", token_key=File("{home}/tokens"), password=File("{home}/password"){more})
"""
    )
    state = home / "state" / "cms"
    state.mkdir(parents=True, mode=0o700)
    (state / f"{load(str(path)).grants[0].key}.vault").touch()

    assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()
    assert said.format(home=home) in out
    assert f"the database's password: {home}/password cannot be read" in err
    assert f"the fleet's key: {home}/tokens does not exist: `cms fleet init` makes it on one host" in err
    assert bool(key) == (f"the fleet's key: {home}/key does not exist" in err)
    assert bool(key) == ("1 sign-in of this host from before Fleet(...): `cms fleet adopt` moves" in err)
