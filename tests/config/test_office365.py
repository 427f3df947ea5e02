"""Office365_Account: what each argument means, its defaults, and what does not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.configuration import Loader, Refuser

from cms.core.accounts import CMS_ORIGIN, CMS_REDIRECT, Account, Source

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
SECRET = "hunter2-Zq8Q~example"
APP = "'a@example.com', sign_in='app', tenant='example.com'"
ACCOUNT = "a = Office365_Account('a@example.com')\nCredentialServer('cms.sock', [a])\n"


def account_of(load_text: Loader, arguments: str) -> Account:
    """The account that Office365_Account(arguments) makes, served over SMTP."""
    config = load_text(f"a = Office365_Account({arguments})\nCredentialServer('cms.sock', [a])")
    (account,) = config.accounts
    return account


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
        """An account of a domain with a built-in registration gets that registration and its tenant."""
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
        """A person may sign in to an application that also has mailboxes: the two grants share nothing."""
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

    def test_without_a_user(self, load_text: Loader) -> None:
        """Without a user, the account belongs to the person who signs in."""
        account = account_of(load_text, "")

        assert ("", "") == (account.user, account.grant.login)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("user='*@*.example.com'", "user= is an address such as user@example.com"),
            ("'a@example.com', sign_in_as='*@example.com'", "sign_in_as= is an address such as user@example.com"),
            ("user='nobody'", "user= is an address such as user@example.com"),
            ("sign_in_as='me@example.com'", "sign_in_as= says who signs in for user=, and there is no user="),
            ("'a@example.com', sign_in_as='me'", "sign_in_as= is an address such as user@example.com"),
            ("'a@example.com', cloud='mars'", "cloud= is one of global, gcc-high, dod, china, personal"),
            ("'a@example.com', prompt='maybe'", "prompt= is one of login, select_account, consent, none"),
            (
                "'a@example.com', cloud='china'",
                'cloud="china" needs client_id=: each national cloud has its own applications',
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
                'sign_in_as= says who signs in, and with sign_in="app" no person does',
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

        assert f"Office365_Account: {name}= takes no literal secret: name the place to read it from" == refusal.message
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

    def test_two_without_a_user(self, load_text: Loader, refuse: Refuser) -> None:
        """Two accounts without a user must be at different tenants or applications."""
        text = "a = Office365_Account()\nb = Office365_Account({})\nCredentialServer('cms.sock', [a, b])"

        assert 2 == len(load_text(text.format("tenant='example.com'")).accounts)
        assert (
            "Office365_Account: a second account without user=; the first is in line 1"
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

    def test_own_port(self, load_text: Loader) -> None:
        """A mail server that listens elsewhere is named with its port."""
        account = account_of(
            load_text, "'a@example.com', smtp_host='Mail.example.com:2525', imap_host='localhost:65535'"
        )

        assert ("mail.example.com:2525", "localhost:65535") == (account.smtp_host, account.imap_host)

    @pytest.mark.parametrize(
        "host",
        [
            *("imaps://imap.example.com", ".example.com", "*", ":25", ".example.com:25"),
            *("mail.example.com:", "mail.example.com:0", "mail.example.com:65536", "mail.example.com:smtp", "a.b:1:2"),
        ],
    )
    def test_no_host(self, refuse: Refuser, host: str) -> None:
        """A scheme, a domain and what is no port are no host's name."""
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

        assert ("inbox", True) == (
            config.accounts[0].mailbox,
            ":3: cms tests only the first mailbox" in config.warnings[0],
        )

    @pytest.mark.parametrize(
        ("given", "what"),
        [("'a@example.com'", "a value of type str"), ("GMail_Account('a@gmail.com')", "what GMail_Account returned")],
    )
    def test_no_account(self, refuse: Refuser, given: str, what: str) -> None:
        """What is no account is refused."""
        refusal = refuse(f"Office365('inbox', {given})")

        assert f"Office365: account= takes what Office365_Account(...) returned, not {what}" == refusal.message
