"""The layouts of other programs' sign-ins, and which of several is meant."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import peers as made
from support.peers import SAMPLE_TOKEN

from cms.core.accounts import Grant
from cms.grants.transfer import decrypt, formats
from cms.grants.transfer.formats import FORMATS, Found, Unfit
from cms.sandbox.directory import CLIENT_ID
from cms_oauth.microsoft import NATIVE_CLIENT
from cms_oauth.providers import DYNAMIC, OWN, PROVIDERS, Server

ANN, BEN = "ann@example.test", "ben@example.test"
GRANT = Grant("https://localhost:1/common", CLIENT_ID, ANN)
MICROSOFT = Grant("https://login.microsoftonline.com/common", CLIENT_ID, ANN)

MSAL = json.dumps(
    {
        "AccessToken": {},
        "Account": {"a": {"home_account_id": "u.t", "username": ANN, "environment": "localhost"}},
        "RefreshToken": {
            "r": {"home_account_id": "u.t", "secret": SAMPLE_TOKEN, "client_id": CLIENT_ID, "environment": "localhost"}
        },
    }
).encode()
DUMP = decrypt.open_pizauth(made.PIZAUTH_SAMPLE)
assert DUMP is not None
SAMPLES = {
    "mutt_oauth2": made.MUTT_SAMPLE,
    "msal": MSAL,
    "sasl-xoauth2": made.SASL_SAMPLE,
    "email-oauth2-proxy": made.PROXY_SAMPLE,
    "oama": made.OAMA_SAMPLE,
    "pizauth": DUMP,
}


def only(found: list[Found]) -> Found:
    (one,) = [each for each in found if each.refresh_token]
    return one


def changed(raw: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(raw), **changes}).encode()


# --- layouts ---


@pytest.mark.parametrize("source", SAMPLES)
def test_a_format_is_known_by_its_contents(source: str) -> None:
    """The source need not be named; a name is understood."""
    assert formats.read(SAMPLES[source], "", "x") == formats.read(SAMPLES[source], source, "x")
    assert source == "email-oauth2-proxy" or SAMPLE_TOKEN == only(formats.read(SAMPLES[source], "", "x")).refresh_token


@pytest.mark.parametrize("source", SAMPLES)
def test_a_token_does_not_print(source: str) -> None:
    """Neither the token nor what it is encrypted in."""
    found = only(formats.read(SAMPLES[source], source, "x"))

    assert found.refresh_token not in repr(found)


def test_every_format_has_a_sample() -> None:
    """A new format comes with one."""
    assert set(FORMATS) == set(SAMPLES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mutt_oauth2", (ANN, "", CLIENT_ID, "")),
        ("msal", (ANN, "", CLIENT_ID, "localhost")),
        ("sasl-xoauth2", ("", "", "", "")),
        ("email-oauth2-proxy", (ANN, "", CLIENT_ID, "127.0.0.1")),
        ("oama", (ANN, "", "", "")),
        ("pizauth", (ANN, "work", CLIENT_ID, "127.0.0.1")),
    ],
)
def test_what_is_said_beside_the_token_is_read(source: str, expected: tuple[str, ...]) -> None:
    """Who signed in, with which application, and where; "" for what the program does not write."""
    found = only(formats.read(SAMPLES[source], source, "x"))

    assert expected == (found.user, found.name, found.client_id, found.host)


def test_an_oauth2ms_file_is_a_cache_in_an_envelope() -> None:
    """oauth2ms keeps MSAL's cache as text inside its configuration."""
    found = only(formats.read(made.OAUTH2MS_SAMPLE, "", "x"))

    assert ("oauth2ms", SAMPLE_TOKEN, ANN, "localhost") == (found.program, found.refresh_token, found.user, found.host)


def test_overrides_of_sasl_xoauth2_are_read() -> None:
    """Its token file may name the application that its configuration has else."""
    raw = changed(made.SASL_SAMPLE, client_id="c", user=BEN, token_endpoint="https://login.example.test/t/token")
    found = only(formats.read(raw, "", "x"))

    assert (BEN, "c", "login.example.test") == (found.user, found.client_id, found.host)


@pytest.mark.parametrize(
    ("source", "raw", "expected"),
    [
        ("mutt_oauth2", made.MUTT_SAMPLE, NATIVE_CLIENT),
        ("mutt_oauth2", changed(made.MUTT_SAMPLE, authflow="localhostauthcode"), ""),
        ("mutt_oauth2", changed(made.MUTT_SAMPLE, registration="google"), ""),
        ("msal", made.OAUTH2MS_SAMPLE, "http://localhost:56103/getToken"),
        ("msal", MSAL, ""),
        ("email-oauth2-proxy", made.PROXY_SAMPLE, "http://localhost"),
        ("email-oauth2-proxy", made.PROXY_SAMPLE.replace(b"http://localhost", NATIVE_CLIENT.encode()), NATIVE_CLIENT),
        ("pizauth", DUMP, "http://localhost/"),
    ],
)
def test_where_the_browser_ended_is_read(source: str, raw: bytes, expected: str) -> None:
    """What the file says or, of mutt_oauth2.py, what its flow implies."""
    assert expected == only(formats.read(raw, source, "x")).redirect


@pytest.mark.parametrize("word", ["google", "microsoft", "yahoo"])
def test_a_provider_is_known_by_a_word(word: str) -> None:
    """Programs that name no address."""
    mutt = only(formats.read(changed(made.MUTT_SAMPLE, registration=word), "", "x"))
    oama = only(formats.read(changed(made.OAMA_SAMPLE, service=word, email=BEN), "", "x"))

    assert (word, word, BEN) == (mutt.at, oama.at, oama.user)


@pytest.mark.parametrize("word", ["work", "oauth2"])
def test_a_word_of_the_users_names_no_provider(word: str) -> None:
    """Whoever adds a service of their own to oama may call it anything."""
    assert "" == only(formats.read(changed(made.OAMA_SAMPLE, service=word), "", "x")).at


def test_a_proxy_account_inherits_where_it_may() -> None:
    """`allow_catch_all_accounts`: a domain's section, then the section for all."""
    text = (
        "[emailproxy]\nallow_catch_all_accounts = {}\n"
        "[@]\ntoken_url = https://login.example.test/token\nclient_id = all\n"
        "[@example.test]\nclient_id = domain\ntoken_salt = c2FsdA==\n"
        f"[{ANN}]\nrefresh_token = sealed\n"
    )
    inherits = only(formats.read(text.format("True").encode(), "", "x"))
    stands_alone = only(formats.read(text.format("False").encode(), "", "x"))

    assert ("domain", "login.example.test", "c2FsdA==") == (
        inherits.client_id,
        inherits.host,
        inherits.encryption and inherits.encryption.salt,
    )
    assert ("", "") == (stands_alone.client_id, stands_alone.host)
    assert 1 == len(formats.read(text.format("True").encode(), "", "x"))


def test_a_proxy_that_noted_no_rounds_had_the_old_ones() -> None:
    """Versions before 2023-10-17."""
    (found,) = formats.read(f"[{ANN}]\nrefresh_token = sealed\n".encode(), "", "x")

    assert formats.Encryption("", 100_000) == found.encryption


def dump_at(auth_uri: str) -> bytes:
    """Return a dump, decrypted, of one account that signs in at this address and has no fields."""
    raw = made.pizauth_account("a", "t").replace(made._text("https://localhost/authorize"), made._text(auth_uri))
    clear = decrypt.open_pizauth(made.pizauth_dump([raw]))
    assert clear is not None
    return clear


def test_a_dump_tells_the_hint_in_an_address() -> None:
    """login_hint may stand in auth_uri as well."""
    assert BEN == only(formats.read(dump_at(f"https://localhost/authorize?login_hint={BEN}"), "pizauth", "x")).user


BROKEN = {
    "nothing": b"",
    "a list": b"[]",
    "a word": b"hello\n",
    "numbers": b"\x00\xff\x01" * 9,
    "an object of nobody's": b'{"refresh_token": "x"}',
    "an invalid token": changed(made.MUTT_SAMPLE, refresh_token=1),
    "a cache of lists": b'{"RefreshToken": {"a": []}}',
    "a cache that is a list": b'{"RefreshToken": []}',
    "accounts that are a list": b'{"RefreshToken": {}, "Account": []}',
    "an envelope around nothing": b'{"token_cache": "{}"}',
    "sections without addresses": b"[a]\nb = c\n",
    "a section in no order": f"[{ANN}]\nb = c\n[{ANN}]\n".encode(),
    "rounds that are none": f"[{ANN}]\ntoken_iterations = many\n".encode(),
    "rounds without end": f"[{ANN}]\ntoken_iterations = {'9' * 5000}\n".encode(),
    "a cave": b"[" * 100_000,
    "an invalid switch": f"[{ANN}]\n[emailproxy]\nallow_catch_all_accounts = perhaps\n".encode(),
    "an invalid address": f"[{ANN}]\ntoken_url = https://[x\n".encode(),
    "a dump of another version": (2).to_bytes(8, "little") + bytes(8),
    "a dump of too many": (1).to_bytes(8, "little") + (10**9).to_bytes(8, "little"),
    "a dump cut short": DUMP[:-1],
    "a dump with more": DUMP + b"x",
    "a dump with an invalid address": dump_at("https://[x"),
    "a dump that is not text": DUMP.replace(b"spare", b"sp\xffre"),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_an_unknown_format_is_refused(raw: bytes) -> None:
    """The refusal lists the known formats and quotes nothing from the file."""
    with pytest.raises(Unfit, match=r"^/f is of no format that cms knows$") as refused:
        formats.read(raw, "", "/f")

    assert all(name in refused.value.hint for name in FORMATS)


def test_another_format_than_said_is_refused() -> None:
    """`--from` is believed."""
    with pytest.raises(Unfit, match="nothing that pizauth writes"):
        formats.read(made.MUTT_SAMPLE, "pizauth", "/f")


@given(st.binary(max_size=300))
def test_no_bytes_are_an_accident(raw: bytes) -> None:
    """Whatever is in a file, it is read or refused."""
    with suppress(Unfit):
        formats.read(raw, "", "/f")


@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 2000), st.binary(max_size=3))
def test_no_spoilt_file_is_an_accident(source: str, place: int, spoilt: bytes) -> None:
    """Nor is a file of a known format with some bytes changed."""
    raw = SAMPLES[source]
    with suppress(Unfit):
        formats.read(raw[:place] + spoilt + raw[place + 1 :], source, "/f")


# --- which of several ---


def found(user: str = "", name: str = "", client_id: str = CLIENT_ID, **more: str) -> Found:
    return Found("pizauth", more.pop("token", SAMPLE_TOKEN), user, name, client_id, more.pop("host", ""))


def test_a_lone_sign_in_is_meant_whatever_it_is_called() -> None:
    """Aliases and account names are no lie: the redemption tells who it is."""
    lone = found(BEN)

    assert lone is formats.choose([lone, found(ANN, token="")], GRANT, "", "/f")


@pytest.mark.parametrize("entry", ["", "WORK", BEN])
def test_of_several_the_accounts_or_the_named_one_is_meant(entry: str) -> None:
    """By the account's user, or by what --entry says: a name of the program's or an address."""
    ann, ben = found("ANN@example.test", "play"), found(BEN, "work")

    assert (ben if entry else ann) is formats.choose([ben, ann], GRANT, entry, "/f")


def test_of_one_persons_several_that_of_the_same_application_is_meant() -> None:
    """An MSAL cache may hold one for each."""
    other, same = found(ANN, client_id="other"), found(ANN, client_id=CLIENT_ID.upper())

    assert same is formats.choose([other, same], GRANT, "", "/f")


@pytest.mark.parametrize(
    ("login", "entry", "expected"),
    [
        ("eve@example.test", "", "none of them is eve@example.test: ben@example.test, work, (no name)"),
        ("", "", "which of them is not said: ben@example.test, work, (no name)"),
        (ANN, "play", "none of them is play: ben@example.test, work, (no name)"),
    ],
)
def test_several_of_which_none_is_meant_are_named(login: str, entry: str, expected: str) -> None:
    """And the way to say which."""
    grant = Grant(GRANT.authority, CLIENT_ID, login)
    with pytest.raises(Unfit) as refused:
        formats.choose([found(BEN), found(name="work"), found()], grant, entry, "/f")

    assert f"/f holds several sign-ins, and {expected}" == refused.value.message
    assert "--entry=NAME" in refused.value.hint


@pytest.mark.parametrize(("holds", "who"), [([found(ANN, token="")], "pizauth"), ([], "the program")])
def test_a_file_without_a_refresh_token_is_refused(holds: list[Found], who: str) -> None:
    """The program has not signed in, or not so that it would last."""
    with pytest.raises(Unfit, match=f"^/f holds no refresh token: {who} has not signed in there$") as refused:
        formats.choose(holds, GRANT, "", "/f")

    assert f"`cms login {ANN}`" in refused.value.hint


def test_another_application_is_refused_by_both_names() -> None:
    """With the two ways out."""
    thunderbird = "9e5f94bc-e8a4-4e73-b8be-63364c29d753"
    with pytest.raises(Unfit) as refused:
        formats.choose([found(client_id=thunderbird)], GRANT, "", "/f")

    assert f"the application {thunderbird} (thunderbird)" in refused.value.message
    assert f"the account uses {CLIENT_ID}" in refused.value.message
    assert "client_id=" in refused.value.hint
    assert thunderbird not in refused.value.hint
    assert f"`cms login {ANN}`" in refused.value.hint


GOOGLES = Grant("https://accounts.google.com", "c", ANN, provider="google", server=PROVIDERS["google"].server)
FASTMAIL = Grant("https://api.fastmail.com", DYNAMIC, ANN, provider="fastmail", server=PROVIDERS["fastmail"].server)


def described(issuer: str) -> Grant:
    """Return a grant of an account that the configuration itself describes."""
    return Grant(issuer, "c", ANN, provider=OWN, server=Server(issuer))


@pytest.mark.parametrize(
    ("grant", "found_at", "said", "directive"),
    [
        (MICROSOFT, {"provider": "google"}, "Google", 'GMail_Account("ann@example.test", client=File('),
        (MICROSOFT, {"host": "oauth2.googleapis.com"}, "Google", 'GMail_Account("ann@example.test", client=File('),
        (MICROSOFT, {"host": "api.login.yahoo.com"}, "Yahoo", 'provider="yahoo", client_id=...)'),
        (GOOGLES, {"provider": "microsoft"}, "Microsoft", 'Office365_Account("ann@example.test", client_id=...)'),
        (GOOGLES, {"host": "login.live.com"}, "login.live.com", 'Office365_Account("ann@example.test", client_id=...)'),
        (GOOGLES, {"host": "sso.corp.example"}, "sso.corp.example", "issuer=..."),
        (described("https://sso.corp.example"), {"host": "evil.example"}, "evil.example", "issuer=..."),
        (described("https://sso.corp.example"), {"provider": "google"}, "Google", "GMail_Account("),
    ],
)
def test_an_account_elsewhere_is_refused_with_the_directive_to_write(
    grant: Grant, found_at: dict[str, Any], said: str, directive: str
) -> None:
    """A refresh token goes to no other provider than its own; the directive has what the file tells."""
    with pytest.raises(Unfit) as refused:
        formats.choose([replace(found(ANN, client_id="c"), **found_at)], grant, "", "/f")

    assert refused.value.message.startswith(f"/f holds a sign-in at {said}, and the account signs in at ")
    assert directive in refused.value.hint


def test_a_directive_has_nothing_in_it_that_a_file_could_smuggle_in() -> None:
    """Who pastes a line does not look at it: only an address comes from the file."""
    smuggled = '"); import os; ("'
    with pytest.raises(Unfit) as refused:
        formats.choose([replace(found(smuggled, client_id=smuggled), provider="yahoo")], MICROSOFT, "", "/f")

    assert 'OAuth2_Account(USER, provider="yahoo", client_id=...)' in refused.value.hint


@pytest.mark.parametrize(
    ("grant", "host"),
    [
        (GOOGLES, "accounts.google.com"),
        (GOOGLES, "oauth2.googleapis.com"),
        (GOOGLES, "WWW.googleapis.com"),
        (described("https://accounts.google.com"), "oauth2.googleapis.com"),
        (described("https://sso.corp.example/realms/corp"), "sso.corp.example"),
    ],
)
def test_an_authorization_server_has_several_hosts(grant: Grant, host: str) -> None:
    """Programs name its token endpoint, cms its issuer; an account may describe even Google itself."""
    one = found(ANN, client_id="c", host=host)

    assert one is formats.choose([one], grant, "", "/f")


def test_another_of_microsofts_clouds_is_refused() -> None:
    """The account may be of another cloud, or the mailbox another one."""
    with pytest.raises(Unfit, match=r"a sign-in at login\.microsoftonline\.us, and the") as refused:
        formats.choose([found(host="login.microsoftonline.us")], MICROSOFT, "", "/f")

    assert refused.value.hint.startswith("set cloud= or authority= of the account")


@pytest.mark.parametrize(
    ("grant", "advice"),
    [
        (GOOGLES, "give its file to client= of the account"),
        (FASTMAIL, "name it in client_id= of the account, then"),
        (MICROSOFT, "(and tenant= as that program has it)"),
    ],
)
def test_another_application_is_named_as_its_provider_has_it(grant: Grant, advice: str) -> None:
    """A file of Google's, or client_id=."""
    with pytest.raises(Unfit, match="/f was signed in with the application other, and the account uses ") as refused:
        formats.choose([found(ANN, client_id="other")], grant, "", "/f")

    assert advice in refused.value.hint
    assert ("one that cms registers" in refused.value.message) == (grant is FASTMAIL)


def test_where_cms_registers_itself_the_file_has_to_name_the_application() -> None:
    """Otherwise there is none to redeem it with."""
    with pytest.raises(Unfit, match="does not say which application it was signed in with") as refused:
        formats.choose([found(ANN, client_id="")], FASTMAIL, "", "/f")

    assert "client_id=" in refused.value.hint


@pytest.mark.parametrize(
    ("flow", "directive"), [("service_account", "GMail_Account("), ("client_credentials", "Office365_Account(")]
)
def test_what_needs_no_sign_in_has_none_to_import(flow: str, directive: str) -> None:
    """email-oauth2-proxy's accounts that no person signs in to: the directive that does the same."""
    (one,) = formats.read(f"[{ANN}]\noauth2_flow = {flow}\n".encode(), "", "/f")
    with pytest.raises(Unfit, match="email-oauth2-proxy gets tokens there without a person") as refused:
        formats.choose([one], GOOGLES, "", "/f")

    assert refused.value.hint.startswith(directive)


@pytest.mark.parametrize("host", ["", "login.windows.net", "LOGIN.microsoftonline.com"])
def test_one_login_service_has_several_names(host: str) -> None:
    """MSAL's caches name any of them; tenants do not matter, a refresh token belongs to none."""
    one = found(host=host)

    assert one is formats.choose([one], MICROSOFT, "", "/f")
