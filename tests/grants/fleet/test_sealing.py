"""The bytes of a token's row: what a host that only serves knows of the sign-in behind it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Ending, token_hash
from cms.grants.fleet.sealing import Keys, opened_token, sealed_token
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.minted import MintedToken, Moment

GRANT, MAIL = Grant("https://issuer.test", "client", "ann@x.test"), ("mail",)
TOKEN = MintedToken(MAIL, "access", MAIL, 3600.0, Moment(1.0, 2.0, "boot"))
KNOWN = Entry("refresh", "subject", "ann@x.test", 1.0, (Ending(0.5, 0.75, None, "invalid_rapt"),), 2.0, "claims", 3.0)


def test_what_is_known_of_the_sign_in_goes_along() -> None:
    """All that its end is foretold from, and nothing that it is redeemed with."""
    keys = Keys("serving_key", [Source("memory")], lambda _source: b64encode(bytes(32)))
    raw = sealed_token(GRANT, KNOWN, TOKEN, keys.first())
    found = opened_token(GRANT, MAIL, token_hash(TOKEN.secret), raw, keys)

    assert Entry("", "", KNOWN.who, KNOWN.signed_in, KNOWN.endings, KNOWN.redeemed, ends=KNOWN.ends) == found.entry
    assert (TOKEN,) == found.tokens
    with pytest.raises(ValueError, match="belongs to another"):
        opened_token(GRANT, MAIL, "another", raw, keys)


@pytest.mark.parametrize("change", [{"secret": "two\r\nlines"}, {"life": 0.0}, {"life": float("nan")}])
def test_a_token_that_cannot_be_used(change: dict[str, Any]) -> None:
    """It is refused, even if a holder of the key has sealed it."""
    keys = Keys("serving_key", [Source("memory")], lambda _source: b64encode(bytes(32)))
    token = replace(TOKEN, **change)

    with pytest.raises(ValueError, match="cannot be used"):
        opened_token(GRANT, MAIL, token_hash(token.secret), sealed_token(GRANT, KNOWN, token, keys.first()), keys)
