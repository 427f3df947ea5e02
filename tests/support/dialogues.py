"""Recorded dialogues with mail servers, as data, and the script that plays a server's part of one.

A line of a dialogue is `S: what the server says`, `C: what the client's line begins with`, `TLS` where the connection
goes on encrypted, or `CLOSE`. TAG is the tag of IMAP's last command. `+NAME` stands for another opening, DATE for the time.
"""

from __future__ import annotations

import json
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from support.scripted import Talk

FILE = Path(__file__).parent.parent / "dialogues" / "dialogues.json"

USER = "user@contoso.example"

# A token that nothing is wrong with; `exp` is in seconds from now.
GOOD = {
    "aud": "https://outlook.office.com",
    "scp": "IMAP.AccessAsUser.All POP.AccessAsUser.All SMTP.Send",
    "upn": USER,
    "tid": "11111111-2222-3333-4444-555555555555",
    "appid": "99999999-8888-7777-6666-555555555555",
    "exp": 3600,
}
_QUESTION = "TAG CAPABILITY"

# Tokens of personal accounts are opaque.
OPAQUE = "EwB4A8l6BAAU" + "x-_" * 300


@dataclass(frozen=True)
class Dialogue:
    """One dialogue. `claims` differ from a good token's, None for one that cannot be read.

    `expect` is the first verdict's name, `also` names of others, `words` are in what is said, `status` is the exit
    status; `source` is where the server's wording comes from; `retries` says that another token is asked for.
    """

    name: str
    source: str
    protocol: str
    lines: tuple[str, ...]
    expect: str
    user: str = USER
    claims: Mapping[str, Any] | None = None
    also: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    status: int = 77
    retries: bool = False

    def token(self) -> str:
        """Return the token that the login is made with."""
        return OPAQUE if self.claims is None else jwt(self.claims)


def jwt(claims: Mapping[str, Any]) -> str:
    """Return a token with these claims, of which `exp` is in seconds from now."""
    exp = claims.get("exp")
    told = {**claims, "exp": int(time.time()) + exp} if exp is not None else claims
    header, payload = ({"typ": "JWT", "alg": "RS256"}, told)
    return ".".join(
        [*(_base64(json.dumps(each).encode()) for each in (header, payload)), _base64(b"no signature" * 20)]
    )


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def all_dialogues() -> list[Dialogue]:
    """Return the dialogues of the file."""
    data = json.loads(FILE.read_text())
    return [_dialogue(each, data["openings"]) for each in data["dialogues"]]


def _dialogue(each: dict[str, Any], openings: Mapping[str, list[str]]) -> Dialogue:
    opening, lines, claims = each.pop("opening"), each.pop("dialogue"), each.pop("claims", {})
    opening = openings[opening] if isinstance(opening, str) else opening
    user = each.get("user", USER)
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
    return Dialogue(
        **fields,
        lines=(*_opened(opening, openings), *lines),
        claims=None if claims is None else GOOD | {"upn": user} | claims,
    )


def _opened(lines: Iterable[str], openings: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the lines of an opening, with those of others that it names."""
    for line in lines:
        if line.startswith("+"):
            yield from _opened(openings[line[1:]], openings)
        else:
            yield line


class Player:
    """Plays the server's part. `surprises` are lines of the client's that the dialogue does not have there."""

    def __init__(self, lines: Iterable[str], tls: ssl.SSLContext) -> None:
        self.surprises: list[str] = []
        self._lines = tuple(lines)
        self._tls = tls

    def __call__(self, talk: Talk) -> None:
        tag, greeting = "", ""
        lines = iter(self._lines)
        for line in lines:
            kind, _, text = line.partition(": ")
            if kind == "S":
                greeting = greeting or text
                talk.say(text.replace("TAG", tag).replace("DATE", formatdate()))
            elif kind == "C":
                heard = talk.hear()
                if text == _QUESTION and "[CAPABILITY " in greeting and not _begins(heard, text):
                    # Python 3.14 does not ask for what the greeting has told.
                    text = next(each for each in lines if each.startswith("C: ")).removeprefix("C: ")
                if not _begins(heard, text):
                    self.surprises.append(f"{text!r} was expected, and {len(heard)} characters came")
                tag = heard.partition(" ")[0] if text.startswith("TAG ") else tag
            elif kind == "TLS":
                talk.start_tls(self._tls)
            else:
                return
        talk.hear()


def _begins(heard: str, expected: str) -> bool:
    """Whether a line of the client's, without its tag where one is expected, begins as the dialogue has it."""
    said = heard.partition(" ")[2] if expected.startswith("TAG ") else heard
    return said.lower().startswith(expected.removeprefix("TAG ").partition("<")[0].lower())
