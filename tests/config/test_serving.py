"""What is served, as a file says it: sockets, tables, files and protocols."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configuration import Loader, Refuser

from cms.config.model import SocketSpec

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def socket_of(load_text: Loader, arguments: str) -> SocketSpec:
    """The socket that CredentialServer(arguments) makes for the account `a`."""
    (socket,) = load_text(f"a = Office365_Account('a@example.com')\nCredentialServer({arguments})").sockets
    return socket


class TestCredentialServer:
    def test_defaults(self, load_text: Loader, tmp_path: Path) -> None:
        """A path and accounts alone: SMTP, for the owner; a relative path is the configuration's neighbour."""
        socket = socket_of(load_text, "'cms.sock', accounts=[a]")

        assert (str(tmp_path / "cms.sock"), ("SMTP",), 0o600) == (socket.path, socket.protocols, socket.mode)
        assert (None, None, None, 2) == (socket.users, socket.groups, socket.group, socket.line)
        assert "a@example.com" == socket.accounts[0].user

    def test_positions(self, load_text: Loader) -> None:
        """Path, accounts, umask and protocols may be given by position, as in CMS."""
        socket = socket_of(load_text, "'cms.sock', [a], 0o660, ['IMAP', 'POP', 'IMAP']")

        assert (0o660, ("IMAP", "POP")) == (socket.mode, socket.protocols)

    def test_home(self, load_text: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tilde is the home folder of the user who runs cms."""
        monkeypatch.setenv("HOME", "/home/alice")

        assert "/home/alice/cms.sock" == socket_of(load_text, "'~/cms.sock', (a,)").path

    @pytest.mark.parametrize(
        ("arguments", "mode"),
        [
            ("users=['alice']", 0o666),
            ("groups=['mail']", 0o666),
            ("group='mail'", 0o660),
            ("users=['alice'], group='mail'", 0o666),
            ("users=['alice'], umask=0o660", 0o660),
            ("group='mail', mode=0o620", 0o620),
        ],
    )
    def test_mode(self, load_text: Loader, arguments: str, mode: int) -> None:
        """The mode follows from how access is decided, unless it is given under either of its names."""
        assert mode == socket_of(load_text, f"'cms.sock', [a], {arguments}").mode

    def test_names(self, load_text: Loader) -> None:
        """Users and groups are names or numbers, each once; an empty list is the owner and root alone."""
        socket = socket_of(load_text, "'cms.sock', [a], users=['alice', 1001, 'alice'], groups=[], group=8")

        assert (("alice", "1001"), (), "8") == (socket.users, socket.groups, socket.group)

    def test_openness_is_warned_about(self, load_text: Loader, tmp_path: Path) -> None:
        """cms warns of a socket to which every user may connect, unless users, groups or a folder restrict it."""
        text = "a = Office365_Account('a@example.com')\nCredentialServer('{}', [a], umask=0o666{})"
        (warning,) = load_text(text.format("/cms.sock", "")).warnings

        assert ":2: every user of this machine can get these accounts' tokens" in warning
        assert () == load_text(text.format("/cms.sock", ", users=['alice']")).warnings
        assert () == load_text(text.format("/cms.sock", ", groups=['mail']")).warnings
        (tmp_path / "closed").mkdir(mode=0o750)
        assert () == load_text(text.format(tmp_path / "closed" / "cms.sock", "")).warnings

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'cms.sock', []", "accounts= is an empty list"),
            ("'cms.sock', a", "accounts= is a list, not a value of type AccountHandle"),
            ("'cms.sock', [a, a]", "accounts= names the same account twice"),
            ("'cms.sock', ['a']", "accounts= takes what Office365_Account(...) returned, not a value of type str"),
            ("'cms.sock', [GMail_Account()]", "accounts= has only Google accounts without client="),
            ("'cms.sock'", "missing a required argument: 'accounts'"),
            ("'cms.sock', [a], protocols=['smtp']", "protocols= is one of SMTP, IMAP, POP"),
            ("'cms.sock', [a], protocols='SMTP'", "protocols= is a list, not a value of type str"),
            ("'cms.sock', [a], protocols=[]", "protocols= is an empty list"),
            ("'cms.sock', [a], 0o600, mode=0o600", "umask= and mode= are two names of one thing"),
            ("'cms.sock', [a], mode=660", "mode= is permission bits from 0o000 to 0o777"),
            ("'cms.sock', [a], users='alice'", "users= is a list, not a value of type str"),
            ("'cms.sock', [a], users=['carol']", "users= names a user that does not exist: carol"),
            ("'cms.sock', [a], users=[-1]", "users= is a string, not a value of type int"),
            ("'cms.sock', [a], users=['*@example.com']", "users= names a user that does not exist: *@example.com"),
            ("'cms.sock', [a], groups=['*']", "groups= names a group that does not exist: *"),
            ("'cms.sock', [a], groups=['wheel']", "groups= names a group that does not exist: wheel"),
            ("'cms.sock', [a], group='wheel'", "group= names a group that does not exist: wheel"),
            (f"'/{'x' * 107}', [a]", "path= is longer than the 107 bytes that a socket may have"),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """Arguments that cannot be are refused by name, with their line."""
        refusal = refuse(f"a = Office365_Account('a@example.com')\nCredentialServer({arguments})")

        assert (2, f"CredentialServer: {message}") == (refusal.line, refusal.message)

    def test_nearest_protocol(self, refuse: Refuser) -> None:
        """A misspelt protocol is answered with the nearest one."""
        text = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a], protocols=['SMPT'])"

        assert "Did you mean SMTP?" == refuse(text).hint

    def test_same_path_twice(self, refuse: Refuser, tmp_path: Path) -> None:
        """Two servers at one path are refused, however the path is written."""
        refusal = refuse(
            f"""\
            a = Office365_Account('a@example.com')
            CredentialServer('cms.sock', [a])
            CredentialServer('{tmp_path}/./cms.sock', [a])
            """
        )

        assert (3, f"CredentialServer: line 2 has something at {tmp_path}/cms.sock already") == (
            refusal.line,
            refusal.message,
        )


class TestPostfixTable:
    def test_defaults(self, load_text: Loader) -> None:
        """A table is a socket for SMTP that its owner alone may ask, and the only account is meant by a host."""
        (table,) = load_text("a = Office365_Account('a@example.com')\nPostfixTable('/run/cms/postfix', [a])").sockets

        assert ("/run/cms/postfix", "postfix", 0o600, None) == (table.path, table.speaks, table.mode, table.default)
        assert (("SMTP",), ["a@example.com"]) == (table.protocols, [each.user for each in table.accounts])

    def test_default_and_policy(self, load_text: Loader) -> None:
        """The default is one of the accounts; who may ask is said as for a CredentialServer."""
        config = load_text(
            """\
            a = Office365_Account('a@example.com')
            b = Office365_Account('b@example.com')
            PostfixTable('/run/cms/postfix', [a, b], b, users=['postfix'])
            PostfixTable('/run/cms/other', [a, b], group='mail')
            CredentialServer('/run/cms/cms.sock', [a])
            """
        )
        one, other, plain = config.sockets

        assert config.accounts[1] is one.default
        assert (0o666, ("postfix",), 0o660, "mail") == (one.mode, one.users, other.mode, other.group)
        assert ("tokens", None) == (plain.speaks, plain.default)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'x', [a], b", "default= is not one of accounts="),
            ("'x', [a], 'a'", "default= takes what Office365_Account(...) returned, not a value of type str"),
            ("'x', [a], umask=0o600", "PostfixTable has no argument umask="),
            ("'x', [a], mode=0", "mode= lets no user connect: that needs write permission"),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """Arguments that cannot be are refused by name, with their line."""
        accounts = "a = Office365_Account('a@example.com')\nb = Office365_Account('b@example.com')\n"
        refusal = refuse(f"{accounts}PostfixTable({arguments})")

        assert (3, message) == (refusal.line, refusal.message.removeprefix("PostfixTable: "))


class TestTokenFile:
    def test_defaults(self, load_text: Loader, tmp_path: Path) -> None:
        """A file of its owner's alone, without a newline; the account is for that protocol then, without a socket."""
        config = load_text("a = Office365_Account('a@example.com')\nTokenFile('/run/me/token', a, 'IMAP')")
        (file,) = config.files

        assert ("/run/me/token", "IMAP", 0o600, False, 2) == (
            file.path,
            file.protocol,
            file.mode,
            file.newline,
            file.line,
        )
        assert config.accounts[0] is file.account
        assert {"IMAP": ("https://outlook.office.com/IMAP.AccessAsUser.All",)} == file.account.scopes
        assert () == config.warnings

    def test_on_a_disk(self, load_text: Loader, tmp_path: Path) -> None:
        """A relative path starts at the configuration's folder, and a disk is warned about."""
        config = load_text("a = Office365_Account('a@example.com')\nTokenFile('token', a, 'SMTP', 0o640, True)")

        assert (f"{tmp_path}/token", 0o640, True) == (
            config.files[0].path,
            config.files[0].mode,
            config.files[0].newline,
        )
        assert ["not on a tmpfs" in each for each in config.warnings] == [True]

    def test_readable_by_all(self, load_text: Loader) -> None:
        """cms warns of a file that every user may read, unless a folder restricts it."""
        warnings = load_text("a = Office365_Account('a@a.com')\nTokenFile('/run/token', a, 'SMTP', 0o644)").warnings

        assert ["every user of this machine can read this token" in each for each in warnings] == [True]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'/run/', a, 'SMTP'", "path= ends with a slash, and that is a folder"),
            ("'x', 'a', 'SMTP'", "account= takes what Office365_Account(...) returned, not a value of type str"),
            ("'x', a, 'GRAPH'", "protocol= is one of SMTP, IMAP, POP"),
            ("'x', a, 'SMTP', 0o200", "mode= does not let the file's owner read it"),
            (
                "'x', a, 'SMTP', 0o666",
                "mode= lets others write the file, and what they write is sent as a credential",
            ),
            ("'x', a, 'SMTP', newline=1", "newline= is True or False, not a value of type int"),
            ("'/run/y', a, 'SMTP'", "line 2 has something at /run/y already"),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """Arguments that cannot be are refused by name, with their line."""
        refusal = refuse(
            f"a = Office365_Account('a@example.com')\nTokenFile('/run/y', a, 'POP')\nTokenFile({arguments})"
        )

        assert (3, f"TokenFile: {message}") == (refusal.line, refusal.message)

    @pytest.mark.parametrize(
        ("line", "directive", "what"),
        [
            ("Vault(File('key'))", "File", "File"),
            (f"Office365_Account(client_id='{MY_ID}', client_secret=File('key'))", "File", "File"),
            ("Tls('key')", "Tls", "ca="),
        ],
    )
    def test_what_cms_reads_is_never_written_to(
        self, refuse: Refuser, tmp_path: Path, line: str, directive: str, what: str
    ) -> None:
        """A key, a secret or certificates at a token file's path are refused, whichever is named first."""
        (tmp_path / "key").write_text(PEM)
        account, file = "a = Office365_Account('a@example.com')", "TokenFile('key', a, 'IMAP')"
        after, before = refuse(f"{account}\n{line}\n{file}"), refuse(f"{account}\n{file}\n{line}")

        assert (3, f"TokenFile: {tmp_path}/key is the {what} of line 2, which cms reads") == (after.line, after.message)
        assert (3, f"{directive}: line 2 writes to {tmp_path}/key") == (before.line, before.message)

    def test_the_configuration_is_never_written_to(self, refuse: Refuser, tmp_path: Path) -> None:
        """Nor is it by another name of its folder."""
        (tmp_path / "link").symlink_to(tmp_path)
        refusal = refuse("a = Office365_Account('a@example.com')\nTokenFile('link/cms.cfg', a, 'IMAP')")

        assert f"TokenFile: {tmp_path}/link/cms.cfg is the configuration itself, which cms reads" == refusal.message

    def test_one_file_by_two_names(self, refuse: Refuser, tmp_path: Path) -> None:
        """Two token files in one place are refused, also where one is named by way of a link."""
        (tmp_path / "link").symlink_to(tmp_path)
        account = "a = Office365_Account('a@example.com')"
        refusal = refuse(f"{account}\nTokenFile('x', a, 'IMAP')\nTokenFile('link/x', a, 'SMTP')")

        assert f"TokenFile: line 2 has something at {tmp_path}/link/x already" == refusal.message


class TestProtocol:
    def test_a_separate_token(self, load_text: Loader) -> None:
        """A second scope set of the same sign-in, after the mail protocols' set, which belongs to the sign-in."""
        config = load_text(
            """\
            graph = Protocol("GRAPH", ["https://graph.microsoft.com/User.Read", "https://graph.microsoft.com/Mail.Send"])
            a = Office365_Account("a@example.com")
            s = Office365_Account("s@example.com", sign_in_as="a@example.com")
            CredentialServer("graph.sock", [a], protocols=[graph])
            CredentialServer("mail.sock", [s], protocols=["SMTP", Protocol("EWS", ["https://outlook.office.com/EWS"])])
            """
        )
        a, s = config.accounts
        smtp, ews = ("https://outlook.office.com/SMTP.Send",), ("https://outlook.office.com/EWS",)
        graph = ("https://graph.microsoft.com/Mail.Send", "https://graph.microsoft.com/User.Read")

        assert ({"GRAPH": graph}, {"SMTP": smtp, "EWS": ews}) == (a.scopes, s.scopes)
        assert [(smtp, graph, ews)] == [grant.scope_sets for grant in config.grants]
        assert [("GRAPH",), ("SMTP", "EWS")] == [each.protocols for each in config.sockets]

    def test_an_accounts_own_scopes(self, load_text: Loader) -> None:
        """scopes= of an account are for its mail protocols."""
        config = load_text(
            """\
            a = Office365_Account("a@example.com", scopes=["https://outlook.office.com/.default"])
            CredentialServer("cms.sock", [a], protocols=["SMTP", Protocol("GRAPH", ["https://graph.microsoft.com/A"])])
            """
        )

        assert {
            "SMTP": ("https://outlook.office.com/.default",),
            "GRAPH": ("https://graph.microsoft.com/A",),
        } == config.accounts[0].scopes

    def test_the_same_twice(self, load_text: Loader) -> None:
        """A name may be said again as long as it says the same."""
        one = 'Protocol("GRAPH", ["https://graph.microsoft.com/A"])'
        text = f"a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a], protocols=[{one}, {one}])"

        assert ("GRAPH",) == load_text(text).sockets[0].protocols

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'SMTP', ['https://graph.microsoft.com/A']", "SMTP has its scopes already"),
            ("'graph', ['https://graph.microsoft.com/A']", "name= is capitals and digits such as GRAPH, 40 at most"),
            ("'G' * 41, ['https://graph.microsoft.com/A']", "name= is capitals and digits such as GRAPH, 40 at most"),
            ("'GRAPH', ['Mail.Send']", "scopes= takes full names"),
            ("'OLD', ['https://graph.microsoft.com/B']", "OLD has other scopes above"),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """Arguments that cannot be are refused by name, with their line."""
        refusal = refuse(f"Protocol('OLD', ['https://graph.microsoft.com/A'])\nProtocol({arguments})")

        assert (2, f"Protocol: {message}") == (refusal.line, refusal.message)


APP = f"sign_in='app', tenant='example.com', client_id='{MY_ID}', client_secret=Credential('app')"
EVERY = f"every = Office365_Account('*@Example.com', {APP})\n"


class TestEveryAddress:
    @pytest.mark.parametrize("who", ["users=['Debian-exim']", "groups=['mail']", "users=[]"])
    def test_served(self, load_text: Loader, who: str) -> None:
        """An application serves every address of a domain, beside accounts of single ones, with one sign-in."""
        config = load_text(
            f"{EVERY}a = Office365_Account('a@example.com', {APP})\nCredentialServer('cms.sock', [every, a], {who})"
        )

        assert [("*@Example.com", "example.com"), ("a@example.com", "")] == [
            (each.user, each.domain) for each in config.accounts
        ]
        assert (1, ()) == (len(config.grants), config.warnings)

    def test_googles(self, refuse: Refuser) -> None:
        """A service account opens every mailbox too: a socket of it says for whom."""
        refusal = refuse("CredentialServer('cms.sock', [GMail_Account('*@x.com', service_account=File('r.json'))])")

        assert "a socket that serves *@x.com opens every mailbox of that domain" in refusal.message

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "CredentialServer('cms.sock', [every])",
                "a socket that serves *@Example.com opens every mailbox of that domain",
            ),
            ("CredentialServer('cms.sock', [every], group='mail')", "a socket that serves *@Example.com opens every"),
            ("PostfixTable('t.sock', [every])", "a socket that serves *@Example.com opens every mailbox"),
            (
                "PostfixTable('t.sock', [every], every, users=[])",
                "default= is one address, not every address of a domain",
            ),
            ("TokenFile('/run/t', every, 'SMTP')", "account= is one address, not every address of a domain"),
            ("Office365('inbox', every)", "account= is one address, not every address of a domain"),
            (
                f"Office365_Account('*@example.COM', {APP})",
                "a second account for *@example.COM; the first is in line 1",
            ),
            (
                "Office365_Account('*@example.org')",
                "user= is every address of a domain, which only an application opens",
            ),
            (f"Office365_Account('*@*.com', {APP})", "user= is an address such as user@example.com"),
            (f"Office365_Account('a*@example.com', {APP})", "user= is an address such as user@example.com"),
        ],
    )
    def test_every_mailbox_is_for_whom_a_socket_names(self, refuse: Refuser, text: str, message: str) -> None:
        """Where every user of the machine could ask for every mailbox, where one address is meant, and with a person's sign-in."""
        refusal = refuse(EVERY + text)

        assert 2 == refusal.line
        assert message in refusal.message
