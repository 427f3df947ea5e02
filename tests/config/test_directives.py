"""The directives, as a file says them: what each means, its defaults, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.configuration import Loader, Refuser, loader, refuser

from cms.config.model import SocketSpec
from cms.core.accounts import CMS_ORIGIN, CMS_REDIRECT, Account, Proxy, Source
from cms.core.notices import USUAL_EVENTS, Hook

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
SECRET = "hunter2-Zq8Q~example"
APP = "'a@example.com', sign_in='app', tenant='example.com'"

PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


@pytest.fixture
def load_text(tmp_path: Path) -> Loader:
    return loader(tmp_path)


@pytest.fixture
def refuse(tmp_path: Path) -> Refuser:
    return refuser(tmp_path)


def account_of(load_text: Loader, arguments: str) -> Account:
    """The account that Office365_Account(arguments) makes, served over SMTP."""
    config = load_text(f"a = Office365_Account({arguments})\nCredentialServer('cms.sock', [a])")
    (account,) = config.accounts
    return account


def socket_of(load_text: Loader, arguments: str) -> SocketSpec:
    """The socket that CredentialServer(arguments) makes for the account `a`."""
    (socket,) = load_text(f"a = Office365_Account('a@example.com')\nCredentialServer({arguments})").sockets
    return socket


class TestOffice365Account:
    def test_defaults(self, load_text: Loader) -> None:
        """A user alone gets CMS's registration, its redirect and Origin, at any tenant, with a browser."""
        account = account_of(load_text, "user='User@Example.com'")
        grant = account.grant

        assert "User@Example.com" == account.user
        assert ("https://login.microsoftonline.com/common", "user@example.com") == (grant.authority, grant.login)
        assert ("cms", "122f4826-adf9-465d-8e84-e9d00bc9f234") == (grant.registration, grant.client_id)
        assert ("browser", CMS_REDIRECT, CMS_ORIGIN) == (grant.sign_in, grant.redirect_uri, grant.origin)
        assert (None, None, True) == (grant.prompt, grant.refresh_before, account.preflight)
        assert ("outlook.office365.com", "smtp.office365.com") == (account.imap_host, account.smtp_host)

    def test_positions(self, load_text: Loader) -> None:
        """User, tenant, client id and use_default_registration may be given by position, as in CMS."""
        by_position = account_of(load_text, f"'a@example.com', 'example.com', '{MY_ID}', False")
        by_name = account_of(
            load_text,
            f"use_default_registration=False, client_id='{MY_ID}', tenant='example.com', user='a@example.com'",
        )

        assert by_position == by_name

    def test_rest_by_name_only(self, refuse: Refuser) -> None:
        """Every other argument has to be named."""
        assert (
            "Office365_Account: too many positional arguments"
            == refuse("Office365_Account(None, None, None, True, 1)").message
        )

    def test_domain_registration(self, load_text: Loader) -> None:
        """A domain with a registration of its own gets it, and its tenant."""
        grant = account_of(load_text, "'a@NVIDIA.com'").grant

        assert ("nvidia", True) == (
            grant.registration,
            grant.authority.endswith("/43083d15-7273-40c1-b7db-39efd9ccc17a"),
        )

    def test_use_default_registration(self, load_text: Loader) -> None:
        """use_default_registration takes the default registration in such a domain, too."""
        grant = account_of(load_text, "'a@nvidia.com', use_default_registration=True").grant

        assert ("cms", True) == (grant.registration, grant.authority.endswith("/common"))

    def test_own_registration(self, load_text: Loader) -> None:
        """An application of one's own gets the redirect of a native application, and no Origin header."""
        grant = account_of(load_text, f"'a@example.com', client_id='{MY_ID}'").grant

        assert ("", MY_ID, "http://localhost:8080", None) == (
            grant.registration,
            grant.client_id,
            grant.redirect_uri,
            grant.origin,
        )

    @pytest.mark.parametrize("client_id", ["thunderbird", "9E5F94BC-E8A4-4E73-B8BE-63364C29D753"])
    def test_known_registration(self, load_text: Loader, client_id: str) -> None:
        """A registration that cms knows comes with its redirect, whether by name or by its GUID."""
        grant = account_of(load_text, f"'a@example.com', client_id='{client_id}'").grant

        assert ("thunderbird", "https://localhost", None) == (grant.registration, grant.redirect_uri, grant.origin)

    def test_everything(self, load_text: Loader) -> None:
        """Each argument arrives where it is used."""
        account = account_of(
            load_text,
            f"""'shared@example.com', 'Example.com', '{MY_ID}', sign_in='paste', sign_in_as='Me@example.com',
                client_secret=Credential('app'), authority='https://login.example.com:8443', prompt='login',
                redirect_uri='https://mail.example.com/back', origin='https://mail.example.com', refresh_before=1200,
                scopes=['https://mail.example.com/.default'], preflight=False, cloud='china'""",
        )
        grant = account.grant

        assert ("shared@example.com", "me@example.com") == (account.user, grant.login)
        assert "https://login.example.com:8443/example.com" == grant.authority
        assert ("paste", "login", 1200.0) == (grant.sign_in, grant.prompt, grant.refresh_before)
        assert ("https://mail.example.com/back", "https://mail.example.com") == (grant.redirect_uri, grant.origin)
        assert Source("credential", ("app",)) == grant.client_secret
        assert (("https://mail.example.com/.default",),) == grant.scope_sets
        assert {"SMTP": ("https://mail.example.com/.default",)} == account.scopes
        assert (False, "partner.outlook.cn") == (account.preflight, account.imap_host)

    def test_no_origin(self, load_text: Loader) -> None:
        """origin="" sends no Origin where the registration has one."""
        assert account_of(load_text, "'a@example.com', origin=''").grant.origin is None

    def test_personal(self, load_text: Loader) -> None:
        """Personal accounts sign in at the consumers' tenant unless another is named."""
        personal = account_of(load_text, "'a@outlook.com', cloud='personal'")
        named = account_of(load_text, "'a@outlook.com', cloud='personal', tenant='common'")

        assert "https://login.microsoftonline.com/consumers" == personal.grant.authority
        assert "https://login.microsoftonline.com/common" == named.grant.authority
        assert "smtp-mail.outlook.com" == personal.smtp_host

    def test_national_cloud(self, load_text: Loader) -> None:
        """A national cloud has its own login host and scopes."""
        grant = account_of(load_text, f"'a@example.com', client_id='{MY_ID}', cloud='gcc-high'").grant

        assert "https://login.microsoftonline.us/common" == grant.authority
        assert (("https://outlook.office365.us/SMTP.Send",),) == grant.scope_sets

    def test_one_application_many_mailboxes(self, load_text: Loader) -> None:
        """Mailboxes of one tenant and application are one grant with one token, whatever protocols each is for."""
        lines = [
            f"a{number} = Office365_Account('{user}', tenant='example.com', client_id='{MY_ID}', sign_in='app',"
            " client_secret=File('/s'))\n"
            for number, user in enumerate(("a@example.com", "b@example.com"))
        ]
        served = "CredentialServer('/s1', [a0])\nCredentialServer('/s2', [a1], protocols=['IMAP', 'POP'])"
        config = load_text("".join(lines) + served)
        (grant,) = config.grants

        assert ["a@example.com", "b@example.com"] == [account.user for account in config.accounts]
        assert ("", (("https://outlook.office365.com/.default",),)) == (grant.login, grant.scope_sets)

    @pytest.mark.parametrize(
        ("cloud", "scope"),
        [
            ("global", "https://outlook.office365.com/.default"),
            ("gcc-high", "https://outlook.office365.us/.default"),
            ("dod", "https://outlook-dod.office365.us/.default"),
            ("china", "https://partner.outlook.cn/.default"),
        ],
    )
    def test_application_scope(self, load_text: Loader, cloud: str, scope: str) -> None:
        """An application asks for everything that it may have of its cloud's Exchange: that takes no other form."""
        said = f"cloud='{cloud}', client_id='{MY_ID}', client_secret=File('/s')"

        assert ((scope,),) == account_of(load_text, f"{APP}, {said}").grant.scope_sets

    def test_managed_identity(self, load_text: Loader) -> None:
        """The machine's own identity needs no application; one of several is named by its client id."""
        own = account_of(load_text, "'a@example.com', sign_in='managed-identity'").grant
        named = account_of(load_text, f"'a@example.com', sign_in='managed-identity', client_id='{MY_ID}'").grant

        assert (("", MY_ID), False) == ((own.client_id, named.client_id), own.key == named.key)

    def test_a_person_and_an_application(self, load_text: Loader) -> None:
        """Somebody may sign in to the very application that has mailboxes of its own: two grants, nothing shared."""
        said = f"'a@example.com', tenant='example.com', client_id='{MY_ID}', client_secret=File('/s')"
        person, app = account_of(load_text, said).grant, account_of(load_text, f"{said}, sign_in='app'").grant

        assert (False, True) == (person.unattended, app.unattended)
        assert replace(person, login="").key != app.key

    def test_application_scopes(self, refuse: Refuser) -> None:
        """An application that names single permissions is refused with the form that Entra takes."""
        said = f"{APP}, client_id='{MY_ID}', client_secret=File('/s'), scopes=['https://outlook.office.com/SMTP.Send']"
        refusal = refuse(f"a = Office365_Account({said})\nCredentialServer('/x', [a])")

        assert (1, 'with sign_in="app" the scopes of SMTP are one resource\'s .default') == (
            refusal.line,
            refusal.message,
        )
        assert 'Such as "https://outlook.office.com/.default"' == refusal.hint

    def test_whoever_signs_in(self, load_text: Loader) -> None:
        """Without a user, the account is whoever signs in."""
        account = account_of(load_text, "")

        assert ("", "") == (account.user, account.grant.login)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("user='nobody'", "user= is an address such as user@example.com"),
            ("sign_in_as='me@example.com'", "sign_in_as= says who signs in for user=, and there is no user="),
            ("'a@example.com', sign_in_as='me'", "sign_in_as= is an address such as user@example.com"),
            ("'a@example.com', cloud='mars'", "cloud= is one of global, gcc-high, dod, china, personal"),
            ("'a@example.com', prompt='maybe'", "prompt= is one of login, select_account, consent, none"),
            (
                "'a@example.com', cloud='china'",
                'cloud="china" needs client_id=: each national cloud has applications of its own',
            ),
            (
                f"'a@example.com', client_id='{MY_ID}', use_default_registration=True",
                "client_id= and use_default_registration=True exclude each other",
            ),
            (
                "'a@example.com', use_default_registration='yes'",
                "use_default_registration= is True or False, not a value of type str",
            ),
            ("'a@example.com', client_secret=File('/c')", "client_secret= belongs to an application of your own"),
            (
                f"'a@example.com', client_id='{MY_ID}', client_secret=File('/s'), client_assertion=Command(['c'])",
                "client_secret= and client_assertion= exclude each other",
            ),
            (
                f"'a@example.com', client_id='{MY_ID}', client_secret=File('/s'), certificate_password=File('/p')",
                "certificate_password= opens certificate=, and there is none",
            ),
            (
                f"{APP}, client_id='{MY_ID}'",
                'sign_in="app" needs one of client_secret=, certificate=, client_assertion=',
            ),
            (
                f"{APP}, certificate=File('/c'), client_id='thunderbird'",
                "certificate= belongs to an application of your own",
            ),
            (
                f"sign_in='app', tenant='example.com', client_id='{MY_ID}', client_secret=File('/s')",
                'sign_in="app" needs user=, the mailbox',
            ),
            (
                f"{APP}, client_id='{MY_ID}', client_secret=File('/s'), sign_in_as='b@example.com'",
                'sign_in_as= says who signs in, and with sign_in="app" nobody does',
            ),
            *(
                (
                    f"'a@example.com', sign_in='app', {tenant} client_id='{MY_ID}', client_secret=File('/s')",
                    'sign_in="app" needs tenant=, the one that the application works in',
                )
                for tenant in ("", "tenant='common',", "tenant='organizations',", "cloud='personal',")
            ),
            (
                f"'a@example.com', sign_in='managed-identity', client_id='{MY_ID}', client_secret=File('/s')",
                'client_secret= is not for sign_in="managed-identity"',
            ),
            (
                "'a@example.com', sign_in='managed-identity', tenant='example.com'",
                'tenant= is not for sign_in="managed-identity"',
            ),
            (
                "'a@example.com', sign_in='managed-identity', client_id='thunderbird'",
                'sign_in="managed-identity" needs a client_id= of your own, or none',
            ),
            (
                "'a@example.com', sign_in='managed-identity', cloud='personal'",
                'sign_in="managed-identity" is not for cloud="personal"',
            ),
            (
                f"'a@example.com', client_id='{MY_ID}', client_secret=File('/s'), sign_in='device'",
                'sign_in="device" is for applications without client_secret=',
            ),
            (
                f"'a@example.com', client_id='{MY_ID}', certificate=File('/s'), sign_in='broker'",
                'sign_in="broker" is for applications without certificate=',
            ),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """Arguments that cannot be, alone or together, are refused by name."""
        refusal = refuse(f"\nOffice365_Account({arguments})")

        assert (2, f"Office365_Account: {message}") == (refusal.line, refusal.message)

    @pytest.mark.parametrize("name", ["client_secret", "certificate", "certificate_password", "client_assertion"])
    def test_literal_secret(self, refuse: Refuser, name: str) -> None:
        """A secret in the file is refused with its line and the remedy, and appears in no part of the refusal."""
        refusal = refuse(f"a = Office365_Account('a@example.com',\n    client_id='{MY_ID}',\n    {name}='{SECRET}')")

        assert f"Office365_Account: {name}= takes no literal: say where it is, not what it is" == refusal.message
        assert (1, True) == (refusal.line, refusal.hint.startswith(f'{name}=File("PATH")'))
        assert SECRET not in f"{refusal} {refusal!r} {refusal.__cause__} {refusal.__context__}"

    @pytest.mark.parametrize(
        "name", ["user", "tenant", "client_id", "use_default_registration", "sign_in", "scopes", "origin"]
    )
    def test_secret_in_the_wrong_place(self, refuse: Refuser, name: str) -> None:
        """A secret that was put into another argument is not quoted either."""
        assert SECRET not in str(refuse(f"Office365_Account({name}='{SECRET}')"))

    @pytest.mark.parametrize("second", ["'A@example.com'", "'a@example.com', 'example.com'"])
    def test_same_user_twice(self, refuse: Refuser, second: str) -> None:
        """A second account for one user is refused: which of them a mail tool meant would be a guess."""
        refusal = refuse(f"Office365_Account('a@example.com')\nOffice365_Account({second})")

        assert (2, True) == (refusal.line, "the first is in line 1" in refusal.message)

    def test_whoever_twice(self, load_text: Loader, refuse: Refuser) -> None:
        """Two accounts for whoever signs in must be at least at two tenants or applications."""
        text = "a = Office365_Account()\nb = Office365_Account({})\nCredentialServer('cms.sock', [a, b])"

        assert 2 == len(load_text(text.format("tenant='example.com'")).accounts)
        assert (
            "Office365_Account: a second account for whoever signs in; the first is in line 1"
            == refuse(text.format("")).message
        )


class TestMailHosts:
    def test_own(self, load_text: Loader) -> None:
        """A mail server of one's own takes the place of the cloud's, each by itself."""
        account = account_of(load_text, "'a@example.com', imap_host='IMAP.example.com', cloud='personal'")
        other = account_of(load_text, "'a@example.com', smtp_host='s.example.com', pop_host='p.example.com'")

        assert ("imap.example.com", "smtp-mail.outlook.com", "outlook.office365.com") == (
            account.imap_host,
            account.smtp_host,
            account.pop_host,
        )
        assert ("outlook.office365.com", "s.example.com", "p.example.com") == (
            other.imap_host,
            other.smtp_host,
            other.pop_host,
        )

    @pytest.mark.parametrize("host", ["imap.example.com:993", "imaps://imap.example.com", ".example.com", "*"])
    def test_no_host(self, refuse: Refuser, host: str) -> None:
        """A port, a scheme and a domain are no host's name."""
        said = refuse(f"Office365_Account('a@example.com', imap_host='{host}')").message

        assert "imap_host= is a host's name" in said


class TestCombinations:
    def test_warning(self, load_text: Loader) -> None:
        """What cannot work together is a warning with its line, and loads."""
        config = load_text(f"{ACCOUNT}b = Office365_Account('b@outlook.com', 'organizations')")

        assert any(":3: b@outlook.com is a personal account" in each for each in config.warnings)

    def test_protocols(self, load_text: Loader) -> None:
        """A Protocol for another cloud's resource is told at the accounts that it is served for."""
        config = load_text(
            f"""\
            a = Office365_Account('a@example.com')
            b = Office365_Account('b@example.us', cloud='gcc-high', client_id='{MY_ID}')
            graph = Protocol('GRAPH', ['https://graph.microsoft.com/Mail.Send'])
            CredentialServer('cms.sock', [a, b], protocols=['SMTP', graph])
            """
        )

        assert 1 == len(config.warnings)
        assert 'cms.cfg:2: GRAPH for b@example.us: graph.microsoft.com is not in cloud="gcc-high"' in config.warnings[0]
        assert "https://graph.microsoft.us" in config.warnings[0]


class TestOffice365:
    def test_mailbox(self, load_text: Loader) -> None:
        """It names the mailbox and turns IMAP on, beside the socket's protocols."""
        config = load_text(
            "a = Office365_Account('a@example.com')\nOffice365('inbox', account=a)\nCredentialServer('cms.sock', [a])"
        )

        assert ("inbox", ["SMTP", "IMAP"]) == (config.accounts[0].mailbox, list(config.accounts[0].scopes))
        assert () == config.warnings

    def test_second_mailbox(self, load_text: Loader) -> None:
        """A second mailbox of one account is warned about, and the first stays."""
        config = load_text(
            """\
            a = Office365_Account('a@example.com')
            Office365('inbox', a)
            Office365('archive', a)
            CredentialServer('cms.sock', [a])
            """
        )

        assert ("inbox", True) == (config.accounts[0].mailbox, ":3: cms opens one mailbox" in config.warnings[0])

    @pytest.mark.parametrize(
        ("given", "what"),
        [("'a@example.com'", "a value of type str"), ("GMail_Account('a@gmail.com')", "what GMail_Account returned")],
    )
    def test_no_account(self, refuse: Refuser, given: str, what: str) -> None:
        """What is no account is refused."""
        refusal = refuse(f"Office365('inbox', {given})")

        assert f"Office365: account= takes what Office365_Account(...) returned, not {what}" == refusal.message


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
        """A tilde is the home folder of whoever runs cms."""
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
        """A socket that everybody may connect to is warned about unless users, groups or a folder keep others out."""
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
            ("'cms.sock', [GMail_Account()]", "accounts= has Google accounts only"),
            ("'cms.sock'", "missing a required argument: 'accounts'"),
            ("'cms.sock', [a], protocols=['smtp']", "protocols= is one of SMTP, IMAP, POP"),
            ("'cms.sock', [a], protocols='SMTP'", "protocols= is a list, not a value of type str"),
            ("'cms.sock', [a], protocols=[]", "protocols= is an empty list"),
            ("'cms.sock', [a], 0o600, mode=0o600", "umask= and mode= are two names of one thing"),
            ("'cms.sock', [a], mode=660", "mode= is permission bits from 0o000 to 0o777"),
            ("'cms.sock', [a], users='alice'", "users= is a list, not a value of type str"),
            ("'cms.sock', [a], users=['carol']", "users= names a user that does not exist: carol"),
            ("'cms.sock', [a], users=[-1]", "users= is a string, not a value of type int"),
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
            ("'x', [a], mode=0", "mode= lets nobody connect: that takes the right to write"),
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
        assert ["on no tmpfs" in each for each in config.warnings] == [True]

    def test_readable_by_all(self, load_text: Loader) -> None:
        """A file that everybody may read is warned about, unless a folder keeps them out."""
        warnings = load_text("a = Office365_Account('a@a.com')\nTokenFile('/run/token', a, 'SMTP', 0o644)").warnings

        assert ["every user of this machine can read this token" in each for each in warnings] == [True]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'/run/', a, 'SMTP'", "path= ends with a slash, and that is a folder"),
            ("'x', 'a', 'SMTP'", "account= takes what Office365_Account(...) returned, not a value of type str"),
            ("'x', a, 'GRAPH'", "protocol= is one of SMTP, IMAP, POP"),
            ("'x', a, 'SMTP', 0o200", "mode= keeps the file from its own owner"),
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
    def test_a_token_of_its_own(self, load_text: Loader) -> None:
        """Another scope set of the same sign-in, after that of the mail protocols, which is the sign-in's own."""
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

        assert (3, "Vault: key= says where the vault's key comes from, never what it is") == (
            refusal.line,
            refusal.message,
        )
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

    def test_no_certificate(self, refuse: Refuser, tmp_path: Path) -> None:
        """So is a file that is no certificate."""
        (tmp_path / "ca.pem").write_text("no certificate")

        assert f"Tls: ca= holds no certificate in PEM form: {tmp_path}/ca.pem" == refuse("Tls('ca.pem')").message

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
        """The page is where the file says, by default where CMS had it, and nowhere of its own without the line."""
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
            ("'proxy:80'", "url= is no address"),
            ("'http://proxy:port'", "url= is no address"),
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


class TestMailSynchronising:
    @pytest.mark.parametrize(
        ("directive", "tool"),
        [
            ("MailDir('~/mail/INBOX')", "mbsync"),
            ("GMail('INBOX', GMail_Account(user='a@gmail.com'))", "mbsync"),
            ("GMail_Account('a@gmail.com')", "pizauth"),
            ("cfg.direct_message = lambda message: None", "mbsync"),
        ],
    )
    def test_loads_with_a_warning(self, load_text: Loader, directive: str, tool: str) -> None:
        """What CMS did with mail loads, whatever its arguments, with a warning that names the tool to use instead."""
        warnings = load_text(f"{ACCOUNT}x = {directive}" if "=" not in directive[:25] else ACCOUNT + directive).warnings

        assert (True, True) == (":3: " in warnings[-1], tool in warnings[-1])

    def test_google_accounts_are_left_out(self, load_text: Loader) -> None:
        """A socket for Microsoft and Google accounts serves the Microsoft ones, and a warning says so."""
        config = load_text(
            """\
            a = Office365_Account('a@example.com')
            g = GMail_Account('a@gmail.com')
            CredentialServer('cms.sock', [a, g])
            """
        )

        assert ["a@example.com"] == [each.user for each in config.sockets[0].accounts]
        assert ":3: the Google accounts are left out: cms serves Microsoft accounts only" in config.warnings[1]

    def test_cfg_has_one_attribute(self, refuse: Refuser) -> None:
        """Any other attribute of cfg is refused, and the nearest is named."""
        refusal = refuse("cfg.direct_mesage = None")

        assert (1, "Did you mean direct_message?") == (refusal.line, refusal.hint)


class TestArgumentLists:
    def test_unknown_argument(self, refuse: Refuser) -> None:
        """An unknown argument is answered with the nearest one that the directive has."""
        refusal = refuse("\n\nOffice365_Account(usr='a@example.com')")

        assert (3, "Office365_Account has no argument usr=", "Did you mean user?") == (
            refusal.line,
            refusal.message,
            refusal.hint,
        )

    def test_argument_of_a_later_version(self, refuse: Refuser) -> None:
        """An argument that is like none is answered with all of them."""
        assert "Known: key" == refuse("Vault(rotation=30)").hint

    def test_twice_given(self, refuse: Refuser) -> None:
        """An argument that is given twice is told as Python tells it, with the directive's name."""
        refusal = refuse("Office365_Account('a@example.com', user='a@example.com')")

        assert "Office365_Account: multiple values for argument 'user'" == refusal.message


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
        """It may be installed later; until then nobody is notified."""
        config = load_text(self.BASE + "Notify('no-such-program')")

        assert (
            f"{tmp_path}/cms.cfg:3: there is no program no-such-program: nobody is notified before there is one",
        ) == config.warnings

    def test_a_program_that_others_could_change_is_warned_about(self, load_text: Loader, tmp_path: Path) -> None:
        """It runs as whoever runs cms, with all that they may read."""
        program = tmp_path / "hook"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o777)
        config = load_text(self.BASE + f"Notify('{program}')")

        (warning,) = config.warnings
        assert warning.startswith(
            f"{tmp_path}/cms.cfg:3: others could change {program}, which runs as whoever runs cms"
        )
        assert warning.endswith(f". `chmod go-w {program}` mends that")

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
