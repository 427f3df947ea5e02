"""What the process of a configuration answers: a `Config`, or why there is none, as lines of JSON.

The accounts come first, each on a line of its own. In the `Config` after them an account is its number: sockets and files
share their accounts, and each is sent once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cms.config.model import Config, ConfigError
from cms.core import json_lines
from cms.core.accounts import Account
from cms.core.json_lines import Garbled, Lines, Records

# Enough for a hundred thousand accounts with a socket each. Anything longer is not a configuration.
MAX_ANSWER = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Fault:
    """The fields of a ConfigError."""

    file: str
    line: int | None
    message: str
    hint: str


def pack(said: Config | ConfigError) -> Iterator[bytes]:
    """Yield the lines of an answer, LF included."""
    each = Records()
    if isinstance(said, ConfigError):
        yield json_lines.pack(each.pack(_Fault(said.file, said.line, said.message, said.hint)))
        return
    numbers = {id(account): number for number, account in enumerate(said.accounts)}
    for account in said.accounts:
        yield json_lines.pack(each.pack(account))
    yield json_lines.pack(Records({Account: lambda account: numbers[id(account)]}).pack(said))


class Answer:
    """An answer while it comes in. `said` is None until it is complete."""

    def __init__(self) -> None:
        self.said: Config | ConfigError | None = None
        self._accounts: list[Account] = []
        self._lines = Lines(MAX_ANSWER)
        self._left = MAX_ANSWER
        self._account = Records(share=True)
        self._rest = Records(read={Account: self._numbered})

    def feed(self, data: bytes) -> None:
        """Take what has come. Raises Garbled if it is no answer."""
        self._left -= len(data)
        if self._left < 0:
            raise Garbled("an answer that is too long")
        for line in self._lines.feed(data):
            body = json_lines.unpack(line)
            try:
                self._take(body)
            except TypeError:
                raise Garbled("an invalid answer") from None

    def _take(self, body: dict[str, Any]) -> None:
        if body.get("is") == Account.__name__:
            self._accounts.append(self._account.unpack(body, Account))
            return
        said = self._rest.unpack(body, _Fault | Config)
        self.said = said if isinstance(said, Config) else ConfigError(said.file, said.line, said.message, said.hint)

    def _numbered(self, number: Any) -> Account:
        if type(number) is not int or not 0 <= number < len(self._accounts):
            raise TypeError
        return self._accounts[number]
