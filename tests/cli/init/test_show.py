"""`cms show`: the settings of one mail program, printed or written."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from support.command_line import empty_folders, good_configuration

from cms import main
from cms.cli.commands.show import _programs
from cms.cli.init import mail_programs
from cms.cli.init.show import socket_of
from cms.config.load import load

TWO = """
mine = Office365_Account(user="a@example.test")
team = Office365_Account(user="team@example.test", sign_in_as="a@example.test")
CredentialServer("{folder}/cms.sock", accounts=[mine, team], protocols=["SMTP"])
"""

APPLICATION = (
    'sign_in="app", tenant="example.test", client_id="11111111-2222-3333-4444-555555555555", '
    'client_secret=File("SECRET")'
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one account, on a machine with msmtp."""
    empty_folders(tmp_path, monkeypatch)
    good_configuration(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in ("msmtp", "cms-oauth") else None)
    here = [each for each in mail_programs.TOOLS if each.programs == ("msmtp",)]
    monkeypatch.setattr("cms.cli.init.mail_programs.found", lambda: here)
    return tmp_path


def test_one_program(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output is what belongs into the file, and nothing else; where that is stands beside it."""
    assert 0 == main.main(["show", "msmtp"])
    shown = capsys.readouterr()

    assert "--user=a@example.test --proto=SMTP" in shown.out
    assert shown.out.endswith("account default : work\n")
    assert "# msmtp for a@example.test: ~/.msmtprc (chmod 600); " in shown.err


@pytest.mark.parametrize("name", ["git-send-email", "Git Send-Email"])
def test_a_program_with_two_ways(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The one that fits this machine; if none does, the usual one."""
    assert 0 == main.main(["show", name])

    assert "msmtp" in capsys.readouterr().out


def test_another_account(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its address; without one the first, and the others are named."""
    (home / "config" / "cms" / "cms.cfg").write_text(TWO.format(folder=home))
    assert 0 == main.main(["show", "mutt"])
    first = capsys.readouterr()
    assert 0 == main.main(["show", "mutt", "--user=team@example.test"])
    second = capsys.readouterr()

    assert 'set from = "a@example.test"' in first.out
    assert "The accounts are a@example.test, team@example.test" in first.err
    assert 'set from = "team@example.test"' in second.out
    assert "The accounts are" not in second.err


@pytest.mark.parametrize("name", ["msmtp", "mbsync"])
def test_an_account_of_another_provider(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The settings name its hosts, and its provider where the example names Microsoft's."""
    (home / "config" / "cms" / "cms.cfg").write_text(
        'mine = OAuth2_Account("a@example.test", provider="fastmail")\n'
        f'CredentialServer("{home}/cms.sock", accounts=[mine], protocols=["SMTP", "IMAP"])\n'
    )
    assert 0 == main.main(["show", name])
    shown = capsys.readouterr().out

    assert re.search("(?i)host (smtp|imap).fastmail.com\n", shown)
    assert "Fastmail" in shown
    assert "Microsoft" not in shown


def test_a_mail_server_with_a_port(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each program's settings have the host and the port where it puts them."""
    own = 'smtp_host="mail.example.test:2525", imap_host="box.example.test:9993"'
    (home / "config" / "cms" / "cms.cfg").write_text(
        TWO.format(folder=home).replace("sign_in_as=", f"{own}, sign_in_as=")
    )
    assert 0 == main.main(["show", "msmtp", "mutt", "--user=team@example.test"])
    shown = capsys.readouterr().out

    assert "host mail.example.test" in shown
    assert "port 2525\n" in shown
    assert "imaps://box.example.test:9993/" in shown
    assert "team%40example.test@mail.example.test:2525/" in shown


def test_certificate_authorities(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The programs trust whom the tests of cms trust; a file that is not there, or hard to write, stays the person's."""
    (home / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (home / "my ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    shown = []
    for name in ("ca.pem", "my ca.pem", "absent.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(home / name))
        assert 0 == main.main(["show", "msmtp", "mutt", "mbsync"])
        shown.append(capsys.readouterr().out)

    assert f"tls_trust_file {home}/ca.pem\n" in shown[0]
    assert f'set ssl_ca_certificates_file = "{home}/ca.pem"\n' in shown[0]
    assert f"CertificateFile {home}/ca.pem\n" in shown[0]
    assert [3, 3] == [each.count(mail_programs.DEBIANS_AUTHORITIES) for each in shown[1:]]


def test_a_mail_server_that_is_not_known(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server of one's own has to be named before a mail program can be set up for it."""
    configuration = (
        "a = OAuth2_Account('a@example.test', issuer='https://sso.example.test', imap_host='mail.example.test')\n"
        f"CredentialServer('{home}/cms.sock', accounts=[a])\n"
    )
    (home / "config" / "cms" / "cms.cfg").write_text(configuration)

    assert 1 == main.main(["show", "mutt"])
    assert "the mail servers of a@example.test are not known" in capsys.readouterr().err


def test_an_address_of_a_domain(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An account for every address has the settings of the one that is named; none is named by the domain alone."""
    every = TWO.replace('user="a@example.test"', f'user="*@example.test", {APPLICATION}')
    (home / "secret").write_text("s")
    (home / "secret").chmod(0o600)
    text = every.replace("team = ", "#").replace("[mine, team]", "[mine], users=[0]").format(folder=home)
    (home / "config" / "cms" / "cms.cfg").write_text(text.replace("SECRET", str(home / "secret")))

    assert 0 == main.main(["show", "mutt", "--user=desk@example.test"])
    shown = capsys.readouterr()
    assert 'set from = "desk@example.test"' in shown.out
    assert f"set CMS_SOCK={home}/cms.sock\n" in shown.err
    for user in ("", "*@example.test"):
        assert 1 == main.main(["show", "mutt", f"--user={user}"])
        assert "name one: --user=ADDRESS@example.test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pine"], "cms has no settings for pine\nit has them for msmtp, git-send-email, mutt,"),
        (["mutt", "--user=x@example.test"], "there is no account x@example.test\nname one of these: a@example.test"),
    ],
)
def test_what_there_is_not(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """A program or account that cms does not know: the ones that it knows are named."""
    assert 1 == main.main(["show", *words])

    assert f"cms: {said}" in capsys.readouterr().err


def test_a_configuration_without_accounts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Has nothing to show."""
    (home / "config" / "cms" / "cms.cfg").write_text("")
    main.main(["show", "mutt"])

    assert "account" in capsys.readouterr().err


def test_the_list(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The programs of this machine, the others, and an example."""
    assert 0 == main.main(["show"])
    out = capsys.readouterr().out.split("\n")
    monkeypatch.setattr("cms.cli.init.mail_programs.found", list)
    assert 0 == main.main(["show"])

    assert "Mail programs here: msmtp" == out[0]
    assert out[1].startswith("Others: git-send-email, mutt, neomutt,")
    assert "Next: `cms show msmtp`" == out[2]
    assert "Mail programs here: none that cms knows" in capsys.readouterr().out


def test_files(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For the programs of this machine or the named ones, private, in a new folder; a file that is there stays."""
    folder = home / "new" / "settings"
    assert 0 == main.main(["show", f"--write={folder}"])
    assert ["msmtp.conf"] == [each.name for each in folder.iterdir()]
    assert 0o600 == stat.S_IMODE((folder / "msmtp.conf").stat().st_mode)

    (folder / "msmtp.conf").write_text("mine")
    assert 1 == main.main(["show", "msmtp", "emacs", f"--write={folder}"])
    shown = capsys.readouterr()
    assert "mine" == (folder / "msmtp.conf").read_text()
    assert "msmtp.conf already exists and was not changed\nremove it, or name another folder" in shown.err
    assert f"Wrote {folder}/emacs.txt: Emacs, for ~/.emacs.d/init.el" in shown.out

    monkeypatch.setattr("cms.cli.init.mail_programs.found", list)
    assert 1 == main.main(["show", f"--write={folder}"])
    assert "no mail program that cms knows is installed here" in capsys.readouterr().err


def test_each_file_has_its_own_name() -> None:
    """So that one program's settings are not in the way of another's; mutt and neomutt read the same file."""
    names = [each.file_name for each in mail_programs.TOOLS if each.name != "neomutt"]

    assert sorted(set(names)) == sorted(names)


def test_the_socket_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the configuration, if programs look for it elsewhere; a server of the machine's asks at another."""
    main.main(["show", "exim"])
    assert "CMS_SOCK" not in capsys.readouterr().err
    main.main(["show", "mutt"])
    assert f"set CMS_SOCK={home}/cms.sock\n" in capsys.readouterr().err
    monkeypatch.setenv("CMS_SOCK", f"{home}/cms.sock")
    main.main(["show", "mutt"])
    assert "CMS_SOCK" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sockets", "expected"),
    [
        ({"other.sock": "team", "one.sock": "mine"}, "one.sock"),
        ({"one.sock": "mine", "run/cms/cms.sock": "team, mine"}, "run/cms/cms.sock"),
        ({}, "run/cms/cms.sock"),
    ],
    ids=["the one that serves it", "the one that is found", "none"],
)
def test_the_socket_of_an_account(home: Path, sockets: dict[str, str], expected: str) -> None:
    """Of several, the one that needs no setting; without one, where it would be."""
    lines = [f'CredentialServer("{home}/{path}", accounts=[{served}])' for path, served in sockets.items()]
    path = home / "config" / "cms" / "cms.cfg"
    path.write_text("\n".join([*TWO.split("\n")[:3], *lines, f'TokenFile("{home}/token", mine, "SMTP")']))
    config = load(str(path))
    mine = next(each for each in config.accounts if each.user == "a@example.test")

    assert str(home / expected) == socket_of(config, mine)


def test_completion() -> None:
    """Names of programs, as far as they were typed."""
    assert ["mutt"] == _programs(None, None, "mu")  # type: ignore[arg-type]
    assert ["msmtp", "mutt", "mbsync", "mpop"] == _programs(None, None, "M")  # type: ignore[arg-type]
