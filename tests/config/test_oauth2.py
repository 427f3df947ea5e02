"""OAuth2_Account, GMail_Account and GMail: what they make of their arguments, and every mistake in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.configuration import Loader, Refuser

from cms.config import child
from cms.core.accounts import Account, Source
from cms.core.preflight import permission_of
from cms_oauth.providers import DYNAMIC, PROVIDERS, Server

DESKTOP = {"installed": {"client_id": "123-x.apps.googleusercontent.com", "client_secret": "GOCSPX-x"}}
ISSUER = "https://sso.corp.example/realms/corp"
KNOWN = f"issuer='{ISSUER}', client_id='x'"
ENDPOINTS = "authorization_endpoint='https://odd.example/a', token_endpoint='https://odd.example/t', client_id='x'"
SERVED = "a = {}\nCredentialServer('cms.sock', [a], protocols=['SMTP', 'IMAP'])\n"


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A file as Google's console downloads it."""
    path = tmp_path / "google-client.json"
    path.write_text(json.dumps(DESKTOP))
    return path


def account(load_text: Loader, directive: str) -> Account:
    """Return the account of a file without warnings."""
    config = load_text(SERVED.format(directive))

    assert () == config.warnings
    return config.accounts[0]


def server_of(found: Account) -> Server:
    assert found.grant.server
    return found.grant.server


class TestGmail:
    def test_a_desktop_client(self, load_text: Loader, client: Path, tmp_path: Path) -> None:
        """Its id is read from the file that Google's console downloads, and its secret is the grant worker's to read."""
        found = account(load_text, "GMail_Account('Ann@gmail.com', client=File('google-client.json'))")
        grant = found.grant

        assert ("Ann@gmail.com", "ann@gmail.com", "google") == (found.user, grant.login, grant.provider)
        assert (DESKTOP["installed"]["client_id"], "browser") == (grant.client_id, grant.sign_in)
        assert Source("file", (str(tmp_path / "google-client.json"),)) == grant.client_secret
        assert ("https://accounts.google.com", PROVIDERS["google"].server) == (grant.authority, grant.server)
        assert (("https://mail.google.com/",),) == grant.scope_sets
        assert ("imap.gmail.com", "smtp.gmail.com", "pop.gmail.com") == (
            found.imap_host,
            found.smtp_host,
            found.pop_host,
        )

    def test_a_mailbox(self, load_text: Loader, client: Path) -> None:
        """GMail names what tests open, as Office365 does; a socket is not needed for IMAP then."""
        config = load_text("GMail('INBOX', GMail_Account('ann@gmail.com', client=File('google-client.json')))")

        assert ("INBOX", ["IMAP"]) == (config.accounts[0].mailbox, [*config.accounts[0].scopes])

    def test_a_service_account(self, load_text: Loader) -> None:
        """No person signs in. Each mailbox has a grant of its own, because a token is for one; the file is not read."""
        robots = [
            account(load_text, f"GMail_Account('{name}@corp.example', service_account=Credential('robot'))")
            for name in ("desk", "sales")
        ]

        assert 2 == len({each.grant.key for each in robots})
        assert ("app", True, "desk@corp.example", Source("credential", ("robot",))) == (
            robots[0].grant.sign_in,
            robots[0].grant.unattended,
            robots[0].grant.login,
            robots[0].grant.client_secret,
        )

    def test_every_mailbox_of_a_domain(self, load_text: Loader) -> None:
        """Each address has a grant of its own, and none is asked for before a program does; so many at a time."""
        every = "GMail_Account('*@Corp.example', service_account=Credential('robot'){})"
        config = load_text(
            f"CredentialServer('cms.sock', [{every.format('')}], protocols=['SMTP', 'IMAP'], users=[])\n"
        )
        less = load_text(f"CredentialServer('cms.sock', [{every.format(', max_mailboxes=5')}], users=[])\n")
        (found,) = config.accounts
        desk = found.of("desk@corp.example")

        assert ("*@Corp.example", "corp.example", 1000, ()) == (
            found.user,
            found.domain,
            found.max_mailboxes,
            found.grant.scope_sets,
        )
        assert (("https://mail.google.com/",),) == desk.grant.scope_sets
        assert ("desk@corp.example", Source("credential", ("robot",))) == (desk.grant.login, desk.grant.client_secret)
        assert 5 == less.accounts[0].max_mailboxes

    def test_a_bare_one_is_ignored(self, load_text: Loader) -> None:
        """cloud_mdir_sync's files load; a warning says what is missing, and where it is explained."""
        (warning, _) = load_text(
            "GMail_Account(user='a@gmail.com')\nOffice365('inbox', Office365_Account('a@example.com'))\n"
        ).warnings

        assert 'GMail_Account(USER, client=File("google-client.json"))' in warning
        assert "docs/providers.md" in warning

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("'a@gmail.com', client='google-client.json'", "client= takes no literal secret"),
            ("'a@gmail.com', client=Credential('x')", "client= is a File"),
            ("'a@gmail.com', client=File('none.json')", "client= cannot be read"),
            ("'a@gmail.com', client=File('text.json')", "and this is not JSON"),
            ("'a@gmail.com', client=File('web.json')", "client= is a client of type Web application"),
            ("'a@gmail.com', client=File('robot.json')", "client= is the file of a service account"),
            ("'a@gmail.com', client=File('empty.json')", "client= has no client of type Desktop app in it"),
            ("'a@gmail.com', client=File('odd.json')", "client= has no client of type Desktop app in it"),
            ("'a@gmail.com', client=File('bare.json')", "client= has no client_secret in it, which Google wants"),
            ("'a@gmail.com', client=File('long.json')", "and this is not JSON"),
            ("'a@gmail.com', client=File('surrogate.json')", "client= has no client of type Desktop app in it"),
            ("'a@gmail.com', client=File('google-client.json'), sign_in='device'", "does not work with Google"),
            ("'a@gmail.com', client=File('google-client.json'), sign_in='app'", "sign_in= is one of browser, device"),
            ("'*@corp.example', client=File('google-client.json')", "user= is every address of a domain"),
            ("'*@gmail.com', service_account=File('robot.json')", "service_account= is for mailboxes of a Google"),
            ("'*@x.com', service_account=File('robot.json'), max_mailboxes=0", "max_mailboxes= is a number, 1 or more"),
            ("'*@x.com', service_account=File('robot.json'), max_mailboxes='9'", "max_mailboxes= is a number"),
            ("'a@x.com', service_account=File('robot.json'), max_mailboxes=9", "max_mailboxes= is for every address"),
            ("client=File('google-client.json')", "user= is a string"),
            ("'a@gmail.com', service_account=File('robot.json')", "service_account= is for mailboxes of a Google"),
            ("'a@x.com', service_account=File('robot.json'), sign_in='paste'", "sign_in= and sign_in_as= are not for"),
            ("'a@x.com', service_account=File('robot.json'), client=File('x')", "exclude each other"),
            ("'a@gmail.com', tenant='common'", "GMail_Account has no argument tenant="),
        ],
    )
    def test_refused(self, refuse: Refuser, client: Path, arguments: str, message: str) -> None:
        """What cannot work is said at load, with its line; no content of a file is quoted."""
        for name, content in {
            "text.json": "hunter2",
            "web.json": '{"web": {"client_secret": "hunter2"}}',
            "robot.json": '{"type": "service_account", "private_key": "hunter2"}',
            "empty.json": "{}",
            "bare.json": '{"installed": {"client_id": "hunter2"}}',
            "odd.json": '{"installed": {"client_id": 5}}',
            "long.json": json.dumps({"installed": {"client_id": "x" * 4096}}),
            "surrogate.json": r'{"installed": {"client_id": "\ud800"}}',
        }.items():
            (client.parent / name).write_text(content)
        refusal = refuse(f"\nGMail_Account({arguments})")

        assert message in refusal.message
        assert 2 == refusal.line
        assert "hunter2" not in str(refusal)


class TestProviders:
    def test_one_that_registers_clients(self, load_text: Loader) -> None:
        """Fastmail needs no client id: cms registers itself at the first sign-in."""
        found = account(load_text, "OAuth2_Account('ann@fastmail.com', provider='fastmail')")

        assert (DYNAMIC, "fastmail", "browser") == (found.grant.client_id, found.grant.provider, found.grant.sign_in)
        assert PROVIDERS["fastmail"].server == found.grant.server

    def test_a_scope_for_each_protocol(self, load_text: Loader) -> None:
        """One token is for all of an account's protocols, and each protocol knows which of its scopes it needs."""
        found = account(load_text, "OAuth2_Account('ann@yandex.com', provider='yandex', client_id='x')")
        both = ("mail:smtp", "mail:imap_full")

        assert ({"SMTP": both, "IMAP": both}, (both,)) == (found.scopes, found.grant.scope_sets)
        assert ["mail:smtp", "mail:imap_full"] == [permission_of(found, each) for each in ("SMTP", "IMAP")]
        assert "https://oauth.yandex.com/token" == found.grant.authority

    def test_a_client_id_is_needed(self, refuse: Refuser) -> None:
        """Where nobody can get one easily, the hint says what to do instead."""
        refusal = refuse("OAuth2_Account('ann@yahoo.com', provider='yahoo')")

        assert 'provider="yahoo" needs client_id=' in refusal.message
        assert "app password" in refusal.hint


class TestOwnServer:
    def test_an_issuer(self, load_text: Loader) -> None:
        """The rest is in its discovery document; the person's name is where the file says."""
        found = account(
            load_text,
            f"OAuth2_Account('ann@corp.example', issuer='{ISSUER}', client_id='cms', username_claim='upn',"
            " imap_host='mail.corp.example', smtp_host='mail.corp.example:587')",
        )

        assert (ISSUER, "oauth2", "cms") == (found.grant.authority, found.grant.provider, found.grant.client_id)
        assert Server(ISSUER, who=("upn",)) == found.grant.server
        assert (("openid", "email", "offline_access"),) == found.grant.scope_sets
        assert "" == permission_of(found, "IMAP"), "no scope of it opens a mailbox by its name"
        assert ("mail.corp.example", "mail.corp.example:587", "") == (
            found.imap_host,
            found.smtp_host,
            found.pop_host,
        )

    def test_endpoints(self, load_text: Loader) -> None:
        """Without discovery everything is named."""
        found = account(
            load_text,
            f"OAuth2_Account('ann@odd.example', {ENDPOINTS}, client_secret=Credential('s'), client_auth='basic',"
            " scopes={'IMAP': ['mail:imap'], 'SMTP': ['mail:smtp']}, lifetime=600, sign_in='device',"
            " device_authorization_endpoint='https://odd.example/d', revocation_endpoint='https://odd.example/r',"
            " userinfo_endpoint='https://odd.example/u', resource='https://mail.odd.example',"
            " prompt='login', parameters={'hd': 'odd.example'}, redirect_uri='https://localhost/x')",
        )
        expected = Server(
            authorization_endpoint="https://odd.example/a",
            token_endpoint="https://odd.example/t",
            device_endpoint="https://odd.example/d",
            userinfo_endpoint="https://odd.example/u",
            revocation_endpoint="https://odd.example/r",
            client_auth="basic",
            resource="https://mail.odd.example",
            parameters=(("prompt", "login"), ("hd", "odd.example")),
            lifetime=600.0,
        )

        assert expected == found.grant.server
        assert ("https://odd.example/t", "device") == (found.grant.authority, found.grant.sign_in)
        assert {"mail:imap", "mail:smtp"} == {*found.scopes["IMAP"]}

    def test_a_certificate(self, load_text: Loader) -> None:
        """It is used in the one way that there is."""
        found = account(
            load_text,
            f"OAuth2_Account('a@corp.example', issuer='{ISSUER}', client_id='cms', certificate=Credential('c'),"
            " certificate_password=Credential('p'))",
        )

        assert "private_key_jwt" == server_of(found).client_auth
        assert (Source("credential", ("c",)), Source("credential", ("p",))) == (
            found.grant.certificate,
            found.grant.certificate_password,
        )

    @pytest.mark.parametrize(
        "address", ["http://[::1]", "http://[::1]:8080/back", "http://localhost", "https://x.example/"]
    )
    def test_where_the_browser_returns_to(self, load_text: Loader, address: str) -> None:
        """As registered: 127.0.0.1, localhost and [::1] are three hosts to a server."""
        found = account(load_text, f"OAuth2_Account('a@corp.example', issuer='{ISSUER}', redirect_uri='{address}')")

        assert address == found.grant.redirect_uri

    def test_a_shared_mailbox(self, load_text: Loader) -> None:
        """Two mailboxes of one person are one sign-in, which asks for what both need."""
        config = load_text(
            f"""\
            a = OAuth2_Account('ann@odd.example', {ENDPOINTS}, scopes={{'IMAP': ['i'], 'SMTP': ['s']}}, protocols=['IMAP'])
            b = OAuth2_Account('desk@odd.example', {ENDPOINTS}, scopes={{'IMAP': ['i'], 'SMTP': ['s']}},
                               sign_in_as='ann@odd.example', protocols=['SMTP'])
            CredentialServer('cms.sock', [a, b], protocols=['SMTP', 'IMAP'])
            """
        )
        (grant,) = config.grants

        assert (("i", "s"),) == grant.scope_sets
        assert [("i",), ("s",)] == [tuple(each.needs.values()) for each in config.accounts if each.needs]

    def test_it_crosses_to_the_daemon(self, load_text: Loader, tmp_path: Path) -> None:
        """The process that reads the configuration hands over all of it."""
        text = SERVED.format(f"OAuth2_Account('ann@odd.example', {ENDPOINTS}, parameters={{'hd': 'x'}})")
        here = load_text(text)

        assert here.accounts == child.load(str(tmp_path / "cms.cfg")).accounts

    def test_two_lines_at_odds(self, refuse: Refuser) -> None:
        """The argument that differs is named, also where it is one of the server's."""
        refusal = refuse(
            f"""\
            a = OAuth2_Account('ann@odd.example', {ENDPOINTS})
            b = OAuth2_Account('b@odd.example', {ENDPOINTS}, sign_in_as='ann@odd.example', resource='x')
            """
        )

        assert refusal.message.startswith("resource= is not what it is in line 1")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("", "the server is missing"),
            ("provider='microsoft'", "provider= is not for Microsoft's accounts"),
            ("provider='oauth2'", "provider= is one of google"),
            ("provider='fastmial'", "provider= is one of google"),
            (f"provider='fastmail', issuer='{ISSUER}'", "provider= and issuer= exclude each other"),
            (f"issuer='{ISSUER}', token_endpoint='https://x.example'", "issuer= and token_endpoint= exclude"),
            (f"issuer='{ISSUER}', userinfo_endpoint='https://x.example'", "issuer= and userinfo_endpoint= exclude"),
            ("provider='yahoo', revocation_endpoint='https://x.example'", "provider= and revocation_endpoint= exclude"),
            ("authorization_endpoint='https://x.example'", "the server is missing"),
            (ENDPOINTS.replace(", client_id='x'", ""), "a server without issuer= needs client_id="),
            ("issuer='http://sso.corp.example'", "issuer= is https://"),
            (f"issuer='{ISSUER}?x=1'", "issuer= is https://"),
            (f"issuer='{ISSUER}', client_id=''", "client_id= is empty"),
            (f"{ENDPOINTS}, sign_in='device'", "needs device_authorization_endpoint="),
            ("provider='yahoo', client_id='x', sign_in='browser'", "does not work with Yahoo"),
            (f"issuer='{ISSUER}', sign_in='broker'", "sign_in= is one of browser, device, paste"),
            (f"issuer='{ISSUER}', scopes=['a b']", "none of which has a space"),
            (f"issuer='{ISSUER}', scopes={{'SMPT': ['a']}}", "scopes= is one of SMTP, IMAP, POP"),
            (f"issuer='{ISSUER}', parameters=['a']", "parameters= is a dict"),
            (f"issuer='{ISSUER}', client_secret='x'", "client_secret= takes no literal secret"),
            (f"issuer='{ISSUER}', client_auth='post'", 'client_auth="post" needs client_secret='),
            (f"issuer='{ISSUER}', client_auth='private_key_jwt'", "needs certificate="),
            (f"{KNOWN}, client_auth='none', client_secret=File('s')", "uses no client_secret="),
            (f"{KNOWN}, client_auth='basic', certificate=File('c')", "uses no certificate="),
            (f"{KNOWN}, client_secret=File('s'), certificate=File('c')", "exclude each other"),
            (f"issuer='{ISSUER}', client_secret=File('s')", "is given without client_id="),
            ("provider='fastmail', certificate=File('c')", "is given without client_id="),
            (f"issuer='{ISSUER}', redirect_uri='http://[::2]/'", "localhost, 127.0.0.1 or [::1] only"),
            (f"issuer='{ISSUER}', certificate_password=File('c')", "certificate_password= opens certificate="),
            (f"issuer='{ISSUER}', lifetime=5", "lifetime= is a number of seconds"),
            (f"issuer='{ISSUER}', tenant='common'", "OAuth2_Account has no argument tenant="),
        ],
    )
    def test_refused(self, refuse: Refuser, arguments: str, message: str) -> None:
        """A mistake is named at load, with its line."""
        refusal = refuse(f"\nOAuth2_Account('a@corp.example'{arguments and f', {arguments}'})")

        assert message in refusal.message
        assert 2 == refusal.line

    @pytest.mark.parametrize(
        ("protocol", "message"),
        [
            ("'POP'", "there is no token of Yandex for POP"),
            ("Protocol('GRAPH', ['https://g.example/Mail.Read'])", "GRAPH"),
        ],
    )
    def test_a_protocol_that_it_has_not(self, refuse: Refuser, protocol: str, message: str) -> None:
        """Which ones it has is in the hint."""
        refusal = refuse(
            "a = OAuth2_Account('a@yandex.com', provider='yandex', client_id='x')\n"
            f"CredentialServer('cms.sock', [a], protocols=['IMAP', {protocol}])"
        )

        assert message in refusal.message
        assert "protocols=['IMAP', 'SMTP']" in refusal.hint
