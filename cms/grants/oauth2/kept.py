"""What the vault has of a sign-in: the provider's own text there."""

from __future__ import annotations

import json
from dataclasses import field
from typing import Self

from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object


@dataclass(frozen=True, slots=True)
class Kept:
    """A sign-in. `scope` is what was granted; `client_id` is that of an application that has registered itself, else ""."""

    refresh_token: str = field(repr=False)
    scope: str = ""
    client_id: str = ""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the sign-in in the vault's text. What is missing, or is no text, is "": the provider refuses that."""
        found = read_object(text)
        values = (found.get(name) for name in ("refresh_token", "scope", "client_id"))
        return cls(*(each if isinstance(each, str) else "" for each in values))

    def text(self) -> str:
        """Return the vault's text. The same sign-in has the same text, so that nothing is written without need."""
        return json.dumps({"client_id": self.client_id, "refresh_token": self.refresh_token, "scope": self.scope})
