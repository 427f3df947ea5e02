"""What arguments may be: tables of what is taken, what is refused, and that nothing given is ever quoted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cms.config import arguments
from cms.config.arguments import Mistake
from cms.core.accounts import Source

GUID = "0a1b2c3d-1111-2222-3333-444455556666"
OUTLOOK = "https://outlook.office.com"


def tenant_like(value: object) -> Any:
    return arguments.guid("client_id", value, ("cms", "thunderbird"))


def names(value: object) -> Any:
    return arguments.texts("names", value)


def address(value: object) -> Any:
    return arguments.address("user", value)


def bits(value: object) -> Any:
    return arguments.permissions("mode", value)


def path(value: object) -> Any:
    return arguments.path("path", value, "/etc/cms")


def socket_path(value: object) -> Any:
    return arguments.socket_path(value, "/etc/cms")


def secret(value: object) -> Any:
    return arguments.secret("client_secret", value)


def flag(value: object) -> Any:
    return arguments.flag("preflight", value)


def colour(value: object) -> Any:
    return arguments.choice("colour", value, ("red", "green"))


TAKEN = [
    (address, "User@example.com", "User@example.com"),
    (address, "user@domain", "user@domain"),
    (address, " <O'Connor@domain.com> ", "O'Connor@domain.com"),
    (arguments.tenant, "Contoso.onmicrosoft.com", "contoso.onmicrosoft.com"),
    (arguments.tenant, GUID.upper(), GUID),
    (arguments.tenant, "consumers", "consumers"),
    (tenant_like, GUID.upper(), GUID),
    (tenant_like, "Thunderbird", "thunderbird"),
    (arguments.authority, "https://Login.Example.com", "https://login.example.com"),
    (arguments.authority, "https://localhost:8443", "https://localhost:8443"),
    (arguments.authority, "https://[::1]:8443", "https://[::1]:8443"),
    (arguments.origin, "http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
    (arguments.origin, "https://mail.example.com", "https://mail.example.com"),
    (arguments.origin, "", None),
    (arguments.redirect_uri, "http://localhost", "http://localhost"),
    (arguments.redirect_uri, "http://127.0.0.1:8080/oauth2/msal", "http://127.0.0.1:8080/oauth2/msal"),
    (
        arguments.redirect_uri,
        "https://login.microsoftonline.com/common/oauth2/nativeclient",
        "https://login.microsoftonline.com/common/oauth2/nativeclient",
    ),
    (arguments.scopes, [f"{OUTLOOK}/SMTP.Send", f"{OUTLOOK}/POP.X"], (f"{OUTLOOK}/POP.X", f"{OUTLOOK}/SMTP.Send")),
    (arguments.scopes, ("https://partner.outlook.cn/.default",), ("https://partner.outlook.cn/.default",)),
    (arguments.scopes, [f"api://{GUID}/Mail.Use"], (f"api://{GUID}/Mail.Use",)),
    (arguments.refresh_before, 600, 600.0),
    (arguments.refresh_before, 1.5, 1.5),
    (secret, Source("credential", ("secret",)), Source("credential", ("secret",))),
    (bits, 0o660, 0o660),
    (flag, False, False),
    (colour, "green", "green"),
    (names, ["b", "a", "b"], ("b", "a")),
    (path, "key", "/etc/cms/key"),
    (path, "../key", "/etc/key"),
    (path, Path("/srv/key"), "/srv/key"),
    (path, "~root/key", "/root/key"),
    (socket_path, "/" + "x" * 106, "/" + "x" * 106),
]


@pytest.mark.parametrize(("check", "given", "expected"), TAKEN)
def test_taken(check: Callable[[object], object], given: object, expected: object) -> None:
    """What is right comes back in the one form that the rest of cms knows."""
    assert expected == check(given)


SECRET = "hunter2"
REFUSED = [
    (address, SECRET, "user= is an address such as user@example.com"),
    (address, "@example.com", "user= is an address"),
    (address, "*@example.com", "user= is an address"),
    (address, "user@*", "user= is an address"),
    (address, "<>", "user= is an address"),
    (address, "user@", "user= is an address"),
    (address, "a b@example.com", "user= is an address"),
    (address, "a@b@example.com", "user= is an address"),
    (address, "u" * 310 + "@example.com", "user= is an address"),
    (address, "us\x01er@example.com", "user= is empty or has control characters in it"),
    (address, "", "user= is empty or has control characters in it"),
    (address, 1, "user= is a string, not a value of type int"),
    (arguments.tenant, SECRET, "tenant= is a GUID, a domain, common, organizations or consumers"),
    (arguments.tenant, "contoso.com/x", "tenant= is a GUID"),
    (tenant_like, SECRET, "client_id= is an application's GUID, or one of cms, thunderbird"),
    (
        arguments.authority,
        "http://login.example.com",
        "authority= is https://HOST or https://HOST:PORT and nothing else",
    ),
    (arguments.authority, "https://login.example.com/common", "authority= is https://HOST"),
    (arguments.authority, "https://login.example.com?x", "authority= is https://HOST"),
    (arguments.authority, "https://login.example.com#x", "authority= is https://HOST"),
    (arguments.authority, "https://user:hunter2@login.example.com", "authority= is not a valid address"),
    (arguments.authority, "https://login.example.com:99999", "authority= is not a valid address"),
    (arguments.authority, "https://login.example.com:", "authority= is not a valid address"),
    (arguments.authority, "https://", "authority= is not a valid address"),
    (arguments.authority, "https://[::1", "authority= is not a valid address"),
    (arguments.origin, "http://127.0.0.1:8080/path", "origin= is http://HOST"),
    (arguments.origin, "ftp://127.0.0.1", "origin= is http://HOST"),
    (
        arguments.redirect_uri,
        "http://mail.example.com/",
        "redirect_uri= with http:// goes to localhost or 127.0.0.1 only",
    ),
    (arguments.redirect_uri, "http://[::1]:8080/", "redirect_uri= with http:// goes to localhost or 127.0.0.1 only"),
    (arguments.redirect_uri, "http://localhost/#x", "redirect_uri= is an http:// or https:// address"),
    (arguments.redirect_uri, "msal://auth", "redirect_uri= is an http:// or https:// address"),
    (arguments.redirect_uri, SECRET, "redirect_uri= is not a valid address"),
    (arguments.scopes, [], "scopes= is an empty list"),
    (arguments.scopes, f"{OUTLOOK}/SMTP.Send", "scopes= is a list, not a value of type str"),
    (arguments.scopes, [f"{OUTLOOK}/SMTP.Send", "offline_access"], "scopes= names openid, profile or offline_access"),
    (arguments.scopes, ["SMTP.Send"], "scopes= takes full names"),
    (arguments.scopes, [f"{OUTLOOK}/A", "https://graph.microsoft.com/B"], "scopes= names more than one resource"),
    (arguments.scopes, [f"{OUTLOOK}/A", f"{OUTLOOK}/.default"], "scopes= has .default and more"),
    (arguments.refresh_before, 0, "refresh_before= is a number of seconds, from 1 to 3000"),
    (arguments.refresh_before, 3001, "refresh_before= is a number of seconds"),
    (arguments.refresh_before, True, "refresh_before= is a number of seconds"),
    (arguments.refresh_before, "600", "refresh_before= is a number of seconds"),
    (arguments.refresh_before, float("nan"), "refresh_before= is a number of seconds"),
    (secret, SECRET, "client_secret= takes no literal secret: name the place to read it from"),
    (secret, b"hunter2", "client_secret= takes no literal"),
    (bits, True, "mode= is permission bits such as 0o600, not a value of type bool"),
    (bits, "0600", "mode= is permission bits such as 0o600, not a value of type str"),
    (bits, 666, "mode= is permission bits from 0o000 to 0o777"),
    (bits, -1, "mode= is permission bits from 0o000 to 0o777"),
    (bits, 0o555, "mode= lets no user connect"),
    (flag, None, "preflight= is True or False, not None"),
    (flag, SECRET, "preflight= is True or False, not a value of type str"),
    (colour, SECRET, "colour= is one of red, green"),
    (names, [SECRET, 1], "names= is a string, not a value of type int"),
    (path, "~no-such-user/key", "path= cannot be used: it begins with ~, and that user's home folder is not known"),
    (path, b"/key", "path= is a string, not a value of type bytes"),
    (path, "a\0b", "path= is empty or has control characters in it"),
    (socket_path, "/" + "x" * 107, "path= is longer than the 107 bytes that a socket may have"),
    (socket_path, "/" + "é" * 54, "path= is longer than the 107 bytes that a socket may have"),
    (socket_path, "/run/cms/", "path= ends with a slash, and that is a folder"),
]


@pytest.mark.parametrize(("check", "given", "message"), REFUSED)
def test_refused(check: Callable[[object], object], given: object, message: str) -> None:
    """What is wrong is refused in words that name the argument, and never quote what could be a secret."""
    with pytest.raises(Mistake) as caught:
        check(given)

    assert message == caught.value.message[: len(message)]
    assert SECRET not in str(caught.value)


def test_decimal_permissions() -> None:
    """Permission bits without the 0o are answered with the octal number that was meant."""
    with pytest.raises(Mistake) as caught:
        bits(666)

    assert "Octal: 0o666" == caught.value.hint


@pytest.mark.parametrize(
    ("word", "hint"), [("smtp", "Did you mean SMTP?"), ("IMPA", "Did you mean IMAP?"), ("X", "Known: SMTP, IMAP")]
)
def test_nearest(word: str, hint: str) -> None:
    """A misspelt word is answered with the nearest known one, in whatever case; an unlike word with all of them."""
    assert hint == arguments.nearest(word, ["SMTP", "IMAP"])
