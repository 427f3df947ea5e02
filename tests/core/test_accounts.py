"""Grants and accounts, and the data they are made of."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from cms.core.accounts import (
    DEFAULT_REGISTRATION,
    REGISTRATIONS,
    Account,
    Grant,
    Registration,
    Source,
    Unclear,
    accounts_matching,
    accounts_meant,
    application,
    is_served,
    mail_scopes,
    mailboxes,
    registration_for,
    registration_of,
    sign_ins_meant,
    users_in_words,
)
from cms_oauth.addresses import is_pattern
from cms_oauth.microsoft import CLOUDS, PERMISSIONS, Cloud

GRANT = Grant("https://login.microsoftonline.com/common", "122f4826-adf9-465d-8e84-e9d00bc9f234", "a@example.test")
OFFICE = "https://outlook.office.com"


def test_a_grant_keeps_its_key_for_ever() -> None:
    """The key names the vault file: another one after an upgrade would lose every sign-in."""
    assert GRANT.key == "a6bf742d8268191ed40e09314bfc5e08"


@pytest.mark.parametrize(
    "same",
    [
        replace(GRANT, login="A@Example.TEST"),
        replace(GRANT, client_id=GRANT.client_id.upper()),
        replace(GRANT, authority="https://LOGIN.microsoftonline.com/common"),
        replace(GRANT, scope_sets=(("x",),), sign_in="device", prompt="login", refresh_before=60.0),
        replace(GRANT, client_secret=Source("file", ("/secret",)), redirect_uri="http://localhost", origin=None),
    ],
)
def test_how_a_grant_is_written_or_used_does_not_change_its_key(same: Grant) -> None:
    """Letter case, scopes and ways of signing in do not make it another sign-in."""
    assert GRANT.key == same.key


@pytest.mark.parametrize(
    "other",
    [
        replace(GRANT, login="b@example.test"),
        replace(GRANT, login=""),
        replace(GRANT, client_id="472bb794-a546-4311-96f9-76bc79989214"),
        replace(GRANT, authority="https://login.microsoftonline.com/organizations"),
        replace(GRANT, authority="https://login.microsoftonline.us/common"),
        # What moves over a field's edge is another identity too.
        Grant(GRANT.authority, "", GRANT.client_id + GRANT.login),
    ],
)
def test_another_identity_has_another_key(other: Grant) -> None:
    """Authority, client id and who signs in are the identity: a change of one means a new sign-in."""
    assert GRANT.key != other.key


def test_a_key_is_a_file_name_and_no_address() -> None:
    """A listing of the state folder shows no address."""
    assert set("0123456789abcdef").issuperset(GRANT.key)
    assert len(GRANT.key) == 32


def test_accounts_share_a_grant() -> None:
    """A shared mailbox is another account over the sign-in of its delegate, with one token for both."""
    scopes = mail_scopes(OFFICE, ["SMTP"])
    own = Account("a@example.test", replace(GRANT, scope_sets=(scopes,)), {"SMTP": scopes})
    shared = Account("sales@example.test", own.grant, {"SMTP": scopes})

    assert (own.grant.key, own.scopes["SMTP"]) == (shared.grant.key, shared.scopes["SMTP"])


@pytest.mark.parametrize(
    "protocols", [["POP", "SMTP", "IMAP"], ["IMAP", "IMAP", "POP", "SMTP"], {"SMTP", "POP", "IMAP"}]
)
def test_scopes_come_in_one_order(protocols: list[str]) -> None:
    """However the configuration orders protocols, they make one scope set, and so one token."""
    expected = (f"{OFFICE}/SMTP.Send", f"{OFFICE}/IMAP.AccessAsUser.All", f"{OFFICE}/POP.AccessAsUser.All")

    assert expected == mail_scopes(OFFICE, protocols)


@pytest.mark.parametrize("protocols", [[], ["GRAPH"]])
def test_what_is_no_mail_protocol_adds_no_scope(protocols: list[str]) -> None:
    """Other protocols get their scopes from the configuration, never from here."""
    assert mail_scopes(OFFICE, protocols) == ()


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)
def test_one_token_request_has_one_audience(cloud: Cloud) -> None:
    """Entra refuses a request that mixes resources (AADSTS28000): all scopes of a set are on one host, over https."""
    resource = cloud.resource
    audiences = {urlsplit(scope)[:2] for scope in mail_scopes(resource, PERMISSIONS)}

    assert {("https", urlsplit(resource).netloc)} == audiences


@pytest.mark.parametrize(
    ("user", "use_default", "expected"),
    [
        ("a@example.test", False, "cms"),
        ("a@nvidia.com", False, "nvidia"),
        ("a@NVIDIA.com", False, "nvidia"),
        ("a@nvidia.com", True, "cms"),
        ("a@not-nvidia.com", False, "cms"),
        ("a@nvidia.com.example.test", False, "cms"),
        ("nvidia.com", False, "nvidia"),
        ("", False, "cms"),
        (None, False, "cms"),
    ],
)
def test_a_domain_may_have_a_built_in_registration(user: str | None, expected: str, *, use_default: bool) -> None:
    """CMS's configuration files mean the registration of the user's domain, unless they ask for the default."""
    assert expected == registration_for(user, use_default=use_default).name


def test_cms_files_without_a_client_id_get_the_documented_one() -> None:
    """The default is what CMS documents, its redirect address and Origin header included."""
    assert (
        "122f4826-adf9-465d-8e84-e9d00bc9f234",
        "common",
        "http://127.0.0.1:8080/oauth2/msal",
        "http://127.0.0.1:8080/",
    ) == (
        DEFAULT_REGISTRATION.client_id,
        DEFAULT_REGISTRATION.tenant,
        DEFAULT_REGISTRATION.redirect_uri,
        DEFAULT_REGISTRATION.origin,
    )


@pytest.mark.parametrize("registration", REGISTRATIONS, ids=lambda each: each.name)
def test_a_registration_is_found_by_its_id_and_has_a_caveat(registration: Registration) -> None:
    """A person who uses another's application reads whose it is, in either letter case of the id."""
    known = registration_of(registration.client_id.upper())

    assert registration is known
    assert registration.caveat


def test_an_application_of_ones_own_is_unknown() -> None:
    """Nothing is claimed of an id that is in no table."""
    assert registration_of("00000000-0000-0000-0000-000000000000") is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source("file", ("/run/key",)), "file /run/key"),
        (Source("command", ("pass", "show", "key")), "command pass show key"),
        (Source("memory"), "memory"),
    ],
)
def test_a_source_says_where_it_reads(source: Source, expected: str) -> None:
    """Status and logs name the place of a secret, which is no secret."""
    assert expected == str(source)


@pytest.mark.parametrize(
    ("registration", "platform"), [(each, "spa" if each.name != "thunderbird" else "native") for each in REGISTRATIONS]
)
def test_the_platform_of_a_registration(registration: Registration, platform: str) -> None:
    """A single-page application's redirect demands an Origin; all others refuse one."""
    assert platform == registration.platform


def test_whose_application_it_is() -> None:
    """People are told whose application signs them in, and that a single-page application's sign-ins end soon."""
    own = replace(GRANT, client_id="0a1b2c3d-1111-2222-3333-444455556666")

    assert application(replace(GRANT, origin="http://127.0.0.1:8080/")) == (
        f"cms ({DEFAULT_REGISTRATION.caveat}); its redirect is a single-page application's, so each sign-in with it may"
        " end after 24 hours"
    )
    assert "0a1b2c3d-1111-2222-3333-444455556666, from the configuration" == application(own)
    assert "the machine's own identity" == application(replace(own, client_id=""))


ALICE = Account("alice@example.test", replace(GRANT, login="alice@example.test"), {})
SHARED = Account("shared@example.test", ALICE.grant, {})
APP = Account("app@example.test", replace(GRANT, login="", sign_in="app"), {})
NOT_YET = Account("", replace(GRANT, login=""), {})
ALL = (ALICE, SHARED, APP, NOT_YET)
CAROL = {NOT_YET.grant.key: "Carol@example.test"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("", ALL),
        ("Shared@Example.test", (SHARED,)),
        # Who signs in for a mailbox stands for it too.
        ("alice@example.test", (ALICE, SHARED)),
        ("carol@example.test", (NOT_YET,)),
        ("dave@example.test", ()),
        ("@example.test", ()),
        (" <Shared@example.test> ", (SHARED,)),
        ("'carol@example.test'", (NOT_YET,)),
        ("<>", ()),
        (" ", ()),
    ],
)
def test_a_name_means_accounts(name: str, meant: tuple[Account, ...]) -> None:
    """By user, by who is to sign in, by who has signed in; a part of a name means nothing."""
    assert meant == accounts_meant(ALL, name, CAROL)


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("*", ALL),
        ("*@Example.test", ALL),
        ("SHARED@*", (SHARED,)),
        ("a??@example.test", (APP,)),
        ("alice*", (ALICE, SHARED)),
        ("carol@*", (NOT_YET,)),
        ("[a]*", ()),
        ("*@other.test", ()),
    ],
)
def test_a_pattern_means_accounts(pattern: str, meant: tuple[Account, ...]) -> None:
    """By the same names; brackets are no part of it."""
    assert is_pattern(pattern)
    assert meant == accounts_matching(ALL, pattern, CAROL)


def test_an_address_is_no_pattern() -> None:
    """Whatever characters Entra takes."""
    assert not is_pattern("o'connor+x!#$%&/=^_`{|}~@example.test")


def test_a_name_means_sign_ins_each_once() -> None:
    """Two accounts over one sign-in are one answer, and the only sign-in needs no name."""
    assert (ALICE.grant,) == sign_ins_meant(ALL, "alice@example.test", "login")
    assert (ALICE.grant,) == sign_ins_meant((ALICE, SHARED), "", "login")


def test_one_name_may_stand_for_several_sign_ins() -> None:
    """Such as one mailbox with two applications."""
    other = replace(ALICE, grant=replace(ALICE.grant, client_id="another"))

    assert (ALICE.grant, other.grant) == sign_ins_meant((ALICE, other), "alice@example.test", "logout")


@pytest.mark.parametrize(
    ("name", "command", "message", "usage"),
    [
        (
            "",
            "login",
            "there are several accounts",
            "`cms login USER`, or sign in each that needs it, `cms login --all`",
        ),
        ("dave", "login", "there is no account 'dave'", "`cms login USER`"),
        ("", "import", "there are several accounts", "`cms import FILE --account USER`"),
        ("dave", "logout", "there is no account 'dave'", "`cms logout USER`"),
    ],
)
def test_a_name_that_means_no_sign_in_is_told_the_names(name: str, command: str, message: str, usage: str) -> None:
    """And how the command takes one of them, or all."""
    known = "alice@example.test, shared@example.test, app@example.test, Carol@example.test"

    assert Unclear(message, f"name one of these, {usage}: {known}") == sign_ins_meant(ALL, name, command, CAROL)


def test_names_are_listed_as_a_shell_takes_them() -> None:
    """A person types one of them behind the command."""
    odd = [replace(ALICE, user=each) for each in ("o'connor@x", "r&d@x", "$a@x", "-x@x")]
    unclear = sign_ins_meant([*odd, NOT_YET], "dave", "login")

    assert isinstance(unclear, Unclear)
    named = unclear.hint.partition("`: ")[2].removesuffix(", (not signed in yet)")
    assert ["o'connor@x", "r&d@x", "$a@x", "--", "-x@x"] == shlex.split(named.replace(",", ""))


@pytest.mark.parametrize("name", ["", "dave"])
def test_where_no_account_is_configured_the_hint_names_real_directives(name: str) -> None:
    """There is no name to give: the configuration lacks the account."""
    unclear = sign_ins_meant((), name, "login")

    assert isinstance(unclear, Unclear)
    assert "there is no account" == unclear.message
    assert ["Office365_Account", "CredentialServer"] == re.findall(r"(\w+)\(\.\.\.\)", unclear.hint)


def test_a_list_of_users_names_each_once() -> None:
    """Before the first sign-in, the list says so."""
    assert "alice@example.test, (not signed in yet)" == users_in_words((ALICE, ALICE, NOT_YET))


def test_a_choice_of_two_hundred_names_is_no_choice() -> None:
    """The first are an example of what a name looks like, and the error stays on the screen."""
    boxes = [replace(ALICE, user=f"box{number:03}@example.test") for number in range(200)]
    found = sign_ins_meant(boxes, "bax@example.test", "login")

    assert isinstance(found, Unclear)
    assert found.hint.endswith("box006@example.test, box007@example.test, 192 more")


EVERY = Account("*@Example.test", replace(GRANT, login="", sign_in="app"), {})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("desk@example.test", (EVERY,)),
        (" <Desk@Example.TEST> ", (EVERY,)),
        ("*@example.test", (EVERY,)),
        ("alice@example.test", (ALICE,)),
        ("desk@other.test", ()),
        ("example.test", ()),
        ("", (ALICE, EVERY)),
    ],
)
def test_an_address_means_the_account_of_its_domain(name: str, meant: tuple[Account, ...]) -> None:
    """In commands, if no account has the name itself."""
    assert meant == accounts_meant((ALICE, EVERY), name)
    assert bool(meant) is is_served((ALICE, EVERY), name) or not name


def test_what_an_account_is_for() -> None:
    """In words."""
    assert ["every mailbox of Example.test", "a@example.test"] == [mailboxes(EVERY.user), mailboxes("a@example.test")]


def test_one_address_of_a_domain() -> None:
    """It has the account's grant; where a token opens one mailbox only, one of its own, as if it were named alone."""
    scopes = ("https://mail.google.com/",)
    google = Account(
        EVERY.user, replace(GRANT, login="*@example.test"), {"SMTP": scopes, "IMAP": scopes}, max_mailboxes=5
    )
    alone = replace(GRANT, login="desk@example.test", scope_sets=(scopes,))

    assert ("Desk@example.test", EVERY.grant) == (
        EVERY.of("Desk@example.test").user,
        EVERY.of("Desk@example.test").grant,
    )
    assert (alone, alone.key, 0) == (
        (found := google.of("Desk@Example.test")).grant,
        found.grant.key,
        found.max_mailboxes,
    )
