"""What holds for the whole daemon, as a file says it; and where secrets are."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from support.configuration import MACHINE, Loader, Refuser

from cms.config.load import load
from cms.config.model import AuditSpec, MetricsSpec
from cms.core.accounts import Proxy, Source
from cms.core.hooks import USUAL_EVENTS, Hook

SECRET = "hunter2-Zq8Q~example"
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
ACCOUNT = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a])\n"


class TestVault:
    @pytest.mark.parametrize(
        ("key", "source"),
        [
            ("File('/srv/key')", Source("file", ("/srv/key",))),
            ("Credential('cms-key')", Source("credential", ("cms-key",))),
            ("Command(['pass', 'show', 'cms'])", Source("command", ("pass", "show", "cms"))),
            ("'keyring'", Source("keyring")),
            ("'memory'", Source("memory")),
        ],
    )
    def test_key(self, load_text: Loader, key: str, source: Source) -> None:
        """The key's source is kept as it was named."""
        assert source == load_text(f"{ACCOUNT}Vault(key={key})").vault_key

    def test_none(self, load_text: Loader) -> None:
        """Without Vault, the source is for the vault to find."""
        assert load_text(ACCOUNT).vault_key is None

    def test_literal(self, refuse: Refuser) -> None:
        """A key in the file is refused and not quoted."""
        refusal = refuse(f"{ACCOUNT}Vault(key='{SECRET}')")

        assert (3, "Vault: key= takes no literal key: name the place to read it from") == (
            refusal.line,
            refusal.message,
        )
        assert SECRET not in str(refusal)

    def test_old_key(self, load_text: Loader) -> None:
        """The key that another one replaces is any source, too."""
        config = load_text(f"{ACCOUNT}Vault(key=Credential('new'), old_key='keyring')")

        assert (Source("credential", ("new",)), Source("keyring")) == (config.vault_key, config.vault_old_key)
        assert load_text(f"{ACCOUNT}Vault(key='keyring')").vault_old_key is None

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (f"'keyring', old_key='{SECRET}'", "old_key= takes no literal key: name the place to read it from"),
            ("'keyring', old_key='memory'", "old_key= is where the key of stored sign-ins is, and memory stores none"),
            ("'keyring', old_key='keyring'", "key= and old_key= are both the keyring, which needs no old_key="),
        ],
    )
    def test_no_old_key(self, refuse: Refuser, given: str, message: str) -> None:
        """What can be no old key is refused, and a secret is not quoted."""
        refusal = refuse(f"{ACCOUNT}Vault(key={given})")

        assert f"Vault: {message}" == refusal.message
        assert SECRET not in str(refusal)

    def test_twice(self, refuse: Refuser) -> None:
        """One vault has one key."""
        refusal = refuse(f"{ACCOUNT}Vault('keyring')\nVault('memory')")

        assert (4, "Vault: a second Vault; the first is in line 3") == (refusal.line, refusal.message)


class TestSources:
    def test_relative_file(self, load_text: Loader, tmp_path: Path) -> None:
        """A relative file is the configuration's neighbour."""
        assert Source("file", (str(tmp_path / "key"),)) == load_text(f"{ACCOUNT}Vault(File('key'))").vault_key

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("Credential('/etc/key')", "Credential: name= is a systemd credential's name, not a path"),
            ("Credential('..')", "Credential: name= is a systemd credential's name, not a path"),
            ("Command('pass show cms')", "Command: argv= is a list, not a value of type str"),
            ("Command([])", "Command: argv= is an empty list"),
            ("Command(['head', 1])", "Command: argv= is a string, not a value of type int"),
            ("File('')", "File: path= is empty or has control characters in it"),
        ],
    )
    def test_refused(self, refuse: Refuser, source: str, message: str) -> None:
        """A source that cannot be read is refused where it is named."""
        assert message == refuse(f"Vault({source})").message


class TestTls:
    def test_ca(self, load_text: Loader, tmp_path: Path) -> None:
        """The authorities' certificates are named by an absolute path."""
        (tmp_path / "ca.pem").write_text(PEM)

        assert str(tmp_path / "ca.pem") == load_text(f"{ACCOUNT}Tls(ca='ca.pem')").ca

    def test_missing(self, refuse: Refuser, tmp_path: Path) -> None:
        """A missing file is found at load, not at the first sign-in."""
        assert (
            f"Tls: ca= cannot be read: {tmp_path}/ca.pem: No such file or directory" == refuse("Tls('ca.pem')").message
        )

    def test_pipe(self, refuse: Refuser, tmp_path: Path) -> None:
        """A pipe is an error too: nothing waits for its writer."""
        os.mkfifo(tmp_path / "ca.pem")
        message = refuse("Tls('ca.pem')").message

        assert f"Tls: ca= cannot be read: {tmp_path}/ca.pem: it is a pipe, not a regular file" == message

    def test_no_certificate(self, refuse: Refuser, tmp_path: Path) -> None:
        """So is a file that is no certificate."""
        (tmp_path / "ca.pem").write_text("no certificate")

        assert f"Tls: ca= contains no certificate in PEM form: {tmp_path}/ca.pem" == refuse("Tls('ca.pem')").message

    def test_twice(self, refuse: Refuser, tmp_path: Path) -> None:
        """One daemon has one list of authorities."""
        (tmp_path / "ca.pem").write_text(PEM)

        assert "Tls: a second Tls; the first is in line 1" == refuse("Tls('ca.pem')\nTls('ca.pem')").message


class TestSignInPage:
    @pytest.mark.parametrize(
        ("directive", "page"),
        [
            ("", ""),
            ("SignInPage()", "http://127.0.0.1:8080/"),
            ("SignInPage(url='http://localhost:9000')", "http://localhost:9000"),
            ("SignInPage('http://127.0.0.1:80/')", "http://127.0.0.1:80/"),
        ],
    )
    def test_address(self, load_text: Loader, directive: str, page: str) -> None:
        """The page has the address in the file, CMS's address by default, and no fixed address without the line."""
        assert page == load_text(ACCOUNT + directive).page

    @pytest.mark.parametrize(
        "url",
        [
            "https://127.0.0.1:8080/",
            "http://example.com:8080/",
            "http://0.0.0.0:8080/",
            "http://localhost/",
            "http://localhost:8080/sign-in",
            "http://localhost:8080/?a=b",
            "http://localhost:8080/#a",
        ],
    )
    def test_elsewhere(self, refuse: Refuser, url: str) -> None:
        """Another machine, another path, or no port."""
        refusal = refuse(f"{ACCOUNT}SignInPage('{url}')")

        assert (3, "SignInPage: url= is http://127.0.0.1:PORT/ or http://localhost:PORT/") == (
            refusal.line,
            refusal.message,
        )

    def test_twice(self, refuse: Refuser) -> None:
        """There is one page."""
        assert "SignInPage: a second SignInPage" in str(refuse("SignInPage()\nSignInPage()"))


class TestProxy:
    def test_none(self, load_text: Loader) -> None:
        """Without the directive the environment says what is the way."""
        assert load_text(ACCOUNT).proxy is None

    @pytest.mark.parametrize(
        ("arguments", "proxy"),
        [
            ("'http://Proxy.Example.com:3128'", Proxy("http://proxy.example.com:3128")),
            ("'http://proxy:3128/', ['.Example.com', '*']", Proxy("http://proxy:3128", (".example.com", "*"))),
            ("url='http://corp%5Cann@proxy:80'", Proxy("http://proxy:80", (), "corp\\ann")),
            (
                "'http://ann@proxy:80', no_proxy=['a.b'], password=Credential('proxy')",
                Proxy("http://proxy:80", ("a.b",), "ann", Source("credential", ("proxy",))),
            ),
        ],
    )
    def test_what_it_says(self, load_text: Loader, arguments: str, proxy: Proxy) -> None:
        """Where it is, who asks, where the password is, and what is reached without it."""
        assert proxy == load_text(f"{ACCOUNT}Proxy({arguments})").proxy

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (f"'http://ann:{SECRET}@proxy:80'", "url= has a password in it"),
            ("'https://proxy:80'", "url= is http://HOST:PORT"),
            ("'socks5://proxy:80'", "url= is http://HOST:PORT"),
            ("'http://proxy'", "url= is http://HOST:PORT"),
            ("'http://proxy:80/path'", "url= is http://HOST:PORT"),
            ("'http://proxy:80?a'", "url= is http://HOST:PORT"),
            ("'proxy:80'", "url= is not a valid address"),
            ("'http://proxy:port'", "url= is not a valid address"),
            ("'http://proxy:80', 'localhost'", "no_proxy= is a list"),
            ("'http://proxy:80', ['localhost:80']", "no_proxy= is names of hosts"),
            ("'http://proxy:80', password=File('p')", "password= belongs to a user"),
            (f"'http://ann@proxy:80', password='{SECRET}'", "password= takes no literal"),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, why: str) -> None:
        """What is no proxy, or would have its password in the file, is refused and never quoted."""
        refusal = str(refuse(f"Proxy({arguments})"))

        assert f"Proxy: {why}" in refusal
        assert SECRET not in refusal

    def test_once(self, refuse: Refuser) -> None:
        """There is one way."""
        said = refuse("Proxy('http://proxy:80')\nProxy('http://proxy:80')").message

        assert "Proxy: a second Proxy; the first is in line 1" == said


class TestAudit:
    @pytest.mark.parametrize(
        ("arguments", "file", "journal"),
        [
            ("'audit.log'", "audit.log", False),
            ("file='logs/audit.log', journal=True", "logs/audit.log", True),
            ("journal=True", "", True),
        ],
    )
    def test_where_to(self, load_text: Loader, tmp_path: Path, arguments: str, file: str, journal: bool) -> None:
        """A file, found from the configuration's folder, the journal, or both."""
        path = str(tmp_path / file) if file else ""

        assert AuditSpec(path, journal) == load_text(f"{ACCOUNT}Audit({arguments})").audit

    def test_none(self, load_text: Loader) -> None:
        """Without the directive nothing is written."""
        assert AuditSpec() == load_text(ACCOUNT).audit

    @pytest.mark.parametrize(
        ("directives", "message"),
        [
            ("Audit()", "Audit: there is nothing to write to"),
            ("Audit(journal='yes')", "Audit: journal= is True or False, not a value of type str"),
            ("Audit('logs/')", "Audit: file= ends with a slash, and that is a folder"),
            ("Audit('a')\nAudit('b')", "Audit: a second Audit; the first is in line 3"),
            ("TokenFile('x', a, 'SMTP')\nAudit('x')", "Audit: line 3 has something at {folder}/x already"),
            ("Audit('x')\nTokenFile('x', a, 'SMTP')", "TokenFile: line 3 has something at {folder}/x already"),
            ("Audit('x')\nVault(File('x'))", "File: line 3 writes to {folder}/x"),
        ],
    )
    def test_refused(self, refuse: Refuser, tmp_path: Path, directives: str, message: str) -> None:
        """What cannot be meant, and a path that cms uses for something else."""
        assert message.format(folder=tmp_path) == refuse(f"{ACCOUNT}{directives}").message

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_a_folder_that_others_can_write(self, load_text: Loader, tmp_path: Path, mode: int) -> None:
        """Nothing is written there, the journal has its record, and the warning says what to do; mail goes on.

        A sticky folder is one of these, as for sockets: others may be the first to make the file.
        """
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(mode)
        found = load_text(f"{ACCOUNT}Audit('open/audit.log', journal=True)")

        assert AuditSpec("", journal=True) == found.audit
        (warning,) = found.warnings
        assert "no record is written to" in warning
        assert "Name a file in a folder that only you and root can write to" in warning

    @pytest.mark.parametrize("service", [1001, None])
    def test_root_looks_at_a_services_configuration(self, tmp_path: Path, service: int | None) -> None:
        """The folder may be that of the service's user, who writes there; in a configuration of root's it may not."""

        def lstat(path: Path) -> os.stat_result:
            facts = list(path.lstat())
            facts[stat.ST_UID] = 1001 if path.name == "logs" else 0
            return os.stat_result(facts)

        (tmp_path / "logs").mkdir()
        (tmp_path / "cms.cfg").write_text(f"{ACCOUNT}Audit('logs/audit.log')")
        found = load(str(tmp_path / "cms.cfg"), system=replace(MACHINE, lstat=lstat, service_of=lambda _file: service))

        assert bool(service) == bool(found.audit.file)
        assert bool(service) != any("no record is written" in each for each in found.warnings)


class TestNotify:
    BASE = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a])\n"

    def hooks_of(self, load_text: Loader, text: str) -> tuple[Hook, ...]:
        config = load_text(self.BASE + text)
        assert () == config.warnings
        return config.hooks

    def test_defaults(self, load_text: Loader) -> None:
        """A program alone is told of all that is for people; reminders and grace are a quarter of an hour and ten minutes."""
        expected = Hook(("sh", "-c", "true"), USUAL_EVENTS, 900.0, 600.0, prompts=True)

        assert (expected,) == self.hooks_of(load_text, "Notify(['sh', '-c', 'true'])")
        assert load_text(self.BASE).desktop

    def test_everything(self, load_text: Loader, tmp_path: Path) -> None:
        """Several, by position and by name; a path starts at the configuration's folder."""
        program = tmp_path / "tell me"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        found = self.hooks_of(
            load_text, "Notify('./tell me', ['refreshed', 'failing'], 0, 5)\nNotify(['sh'], remind=60.0, desktop=False)"
        )

        assert (
            Hook((str(program),), ("failing", "refreshed"), 0.0, 5.0),
            Hook(("sh",), USUAL_EVENTS, 60.0, 600.0),
        ) == found

    def test_the_desktop_can_be_turned_off(self, load_text: Loader) -> None:
        """By itself, without a program."""
        config = load_text(self.BASE + "Notify(desktop=False)")

        assert ((), False) == (config.hooks, config.desktop)

    def test_a_program_that_is_not_there_is_warned_about(self, load_text: Loader, tmp_path: Path) -> None:
        """The program may be installed later; until then no notices are shown."""
        config = load_text(self.BASE + "Notify('no-such-program')")

        assert (
            f"{tmp_path}/cms.cfg:3: there is no program no-such-program: no notifications are sent until it exists",
        ) == config.warnings

    def test_a_program_that_others_could_change_is_warned_about(self, load_text: Loader, tmp_path: Path) -> None:
        """It runs as the user who runs cms, with all that they may read."""
        program = tmp_path / "hook"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o777)
        config = load_text(self.BASE + f"Notify('{program}')")

        (warning,) = config.warnings
        assert warning.startswith(
            f"{tmp_path}/cms.cfg:3: other users could change {program}, which runs as the user who runs cms"
        )
        assert warning.endswith(f". To prevent that: `chmod go-w {program}`")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Notify()", "Notify: there is nothing to notify with"),
            ("Notify([])", "Notify: command= is an empty list"),
            ("Notify('notify-send hello')", "Notify: command= is one program's name, and no shell reads it"),
            ("Notify(7)", "Notify: command= is a string, not a value of type int"),
            ("Notify(['sh', 7])", "Notify: command= is a string, not a value of type int"),
            ("Notify('sh', events='failing')", "Notify: events= is a list, not a value of type str"),
            ("Notify('sh', events=[])", "Notify: events= is an empty list"),
            ("Notify('sh', remind=59)", "Notify: remind= is a number of seconds: 0 for never, or from 60 to 86400"),
            ("Notify('sh', remind=False)", "Notify: remind= is a number of seconds: 0 for never, or from 60 to 86400"),
            ("Notify('sh', grace=-1)", "Notify: grace= is a number of seconds: from 0 to 86400"),
            ("Notify('sh', grace='1')", "Notify: grace= is a number of seconds: from 0 to 86400"),
            ("Notify('sh', grace=float('nan'))", "Notify: grace= is a number of seconds: from 0 to 86400"),
            ("Notify(desktop='no')", "Notify: desktop= is True or False, not a value of type str"),
        ],
    )
    def test_refused(self, refuse: Refuser, text: str, message: str) -> None:
        """What cannot be is refused with its argument."""
        assert (3, message) == ((refusal := refuse(self.BASE + text)).line, refusal.message)

    def test_an_event_that_there_is_not(self, refuse: Refuser) -> None:
        """The nearest one is named."""
        refusal = refuse(self.BASE + "Notify('sh', events=['sign-in-require'])")

        assert "Did you mean sign-in-required?" == refusal.hint

    def test_the_desktop_is_named_once(self, refuse: Refuser) -> None:
        """Two lines could disagree."""
        refusal = refuse(self.BASE + "Notify(desktop=False)\nNotify(desktop=True)")

        assert "Notify: a second Notify(desktop=...); the first is in line 3" == refusal.message


@pytest.mark.parametrize(
    ("address", "expected", "warned"),
    [
        ("127.0.0.1:9464", MetricsSpec(host="127.0.0.1", port=9464), False),
        (":9464", MetricsSpec(host="127.0.0.1", port=9464), False),
        ("[::1]:9464", MetricsSpec(host="::1", port=9464), False),
        ("0.0.0.0:9464", MetricsSpec(host="0.0.0.0", port=9464), True),
        ("/run/cms/metrics.sock", MetricsSpec("/run/cms/metrics.sock"), False),
    ],
)
def test_metrics_are_at_one_address(load_text: Loader, address: str, expected: MetricsSpec, *, warned: bool) -> None:
    """On this machine unless another address is named, which is warned about."""
    config = load_text(f"{ACCOUNT}Metrics({address!r})")

    assert (expected, warned) == (config.metrics, any("everybody who reaches" in each for each in config.warnings))


@pytest.mark.parametrize("address", ["9464", "localhost:9464", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"])
def test_metrics_need_an_address_and_a_port(refuse: Refuser, address: str) -> None:
    """A name may mean several addresses."""
    message = refuse(f"{ACCOUNT}Metrics({address!r})").message
    assert "Metrics: address= is an IP address and a port, or a path" == message
