"""Builds, checks and parses XOAUTH2 and OAUTHBEARER strings. Only this file handles ^A.

XOAUTH2 is Google's and Microsoft's form (`user=U^Aauth=Bearer T^A^A`); OAUTHBEARER is RFC 7628.
"""

_SEPARATOR = "\x01"
_USER = "user="
_BEARER = "auth=Bearer "


class NotSasl(ValueError):
    """The text is not a whole XOAUTH2 string. Its message never quotes the text."""


def xoauth2(user: str, token: str) -> str:
    """Return the XOAUTH2 initial response, not encoded."""
    return f"{_USER}{user}{_SEPARATOR}{_BEARER}{token}{_SEPARATOR}{_SEPARATOR}"


def oauthbearer(user: str, token: str) -> str:
    """Return the OAUTHBEARER initial response (RFC 7628, 3.1) without host and port, which are optional there.

    `,` and `=` in a user name are escaped as RFC 5801, section 4, requires in a GS2 header.
    """
    authzid = user.replace("=", "=3D").replace(",", "=2C")
    return f"n,a={authzid},{_SEPARATOR}{_BEARER}{token}{_SEPARATOR}{_SEPARATOR}"


def encode(text: str) -> str:
    """Return base64 in one line, as SASL exchanges carry it."""
    from binascii import b2a_base64  # noqa: PLC0415 - a plain fetch encodes nothing, and some builds load a library here

    return b2a_base64(text.encode(), newline=False).decode("ascii")


def split(text: str) -> tuple[str, str]:
    """Return (user, token) of a complete XOAUTH2 string; raise NotSasl for anything else, such as half a reply."""
    if not text.startswith(_USER) or not text.endswith(_SEPARATOR + _SEPARATOR):
        raise NotSasl("not a whole XOAUTH2 string")
    user, found, auth = text[len(_USER) : -2].partition(_SEPARATOR)
    token = auth.removeprefix(_BEARER)
    if not found or token == auth or not is_token(token) or not user.isprintable():
        raise NotSasl("not an XOAUTH2 string")
    return user, token


def is_token(text: str) -> bool:
    """Return True if this can be a bearer token: visible ASCII in one word (RFC 6750, 2.1, allows even less)."""
    return text != "" and text.isascii() and text.isprintable() and " " not in text


def closing_answer(mechanism: str) -> str:
    """Return a client's answer to a server's error challenge, after which the server sends the final error."""
    return _SEPARATOR if mechanism == "OAUTHBEARER" else ""
