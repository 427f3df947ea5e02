"""An object of JSON from outside, or one error."""

from __future__ import annotations

import pytest

from cms_oauth.json_object import read_object


@pytest.mark.parametrize("text", ['{"a": [1, "\\ud800"]}', b'{"a": [1, "\\ud800"]}'])
def test_an_object_is_returned(text: str | bytes) -> None:
    """From text and from bytes."""
    assert {"a": [1, "\ud800"]} == read_object(text)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '"secret-"', "secret-", b"\xff", "[" * 4000, '{"a":' * 4000, "{}" * 2, "\0", "9" * 5000, "\ud800"],
    ids=lambda text: str(text[:8]),
)
def test_anything_else_is_one_error(text: str | bytes) -> None:
    """Also what is nested more deeply than Python can read. The error does not quote it."""
    with pytest.raises(ValueError, match="it is not a JSON object") as caught:
        read_object(text)

    assert caught.value.__cause__ is None
