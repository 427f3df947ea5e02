"""What an address is, and how one is read from what people paste."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.addresses import MAX_ADDRESS, bare, fault, is_address

LETTERS = st.sampled_from("aB7é漢-_'!#^~+&%$=/{}|`")
ADDRESSES = st.builds("{}@{}.example".format, st.text(LETTERS, min_size=1), st.text("ab7é", min_size=1))
AROUND = st.sampled_from(
    ["{}", " {} ", "<{}>", '"{}"', "'{}'", "“{}”", "„{}“", "«{}»", "({})", "mailto:{}", "{}.", "{},"]
)


@pytest.mark.parametrize(
    "address",
    [
        "o'connor@domain.com",
        "'t.hooft@domain.com",
        "d'arc-o'neil@domain.com",
        "a.b-c_d!e#f^g~h@domain.com",
        "user+tag@domain.com",
        "r&d@domain.com",
        "50%off@domain.com",
        "-minus@domain.com",
        "ann_contoso.com#EXT#@tenant.onmicrosoft.com",
        "jörg@münchen.example",
        "用户@例子.example",
        "User@localhost",
        "9@9",
    ],
)
def test_what_an_address_is(address: str) -> None:
    """All that Entra takes for a sign-in name and Exchange for a mailbox, as it was written."""
    assert "" == fault(address)
    assert address == bare(address)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        ("nobody", "no name"),
        ("@domain.com", "no name"),
        ("user@", "no domain"),
        ("<>", "no name"),
        ("DOMAIN\\user", "no name"),
        ("a@b@domain.com", "more than one @"),
        ("a@domain.com;b@domain.com", "more than one @"),
        ("*@domain.com", "wildcard"),
        ("user@*", "wildcard"),
        (".*@domain.com", "wildcard"),
        ("us?r@domain.com", "wildcard"),
        ("user@*.domain.com", "wildcard"),
        ("a b@domain.com", "space"),
        ("user@do main.com", "space"),
        ("us\x01er@domain.com", "control character"),
        ("us\udcffer@domain.com", "control character"),
        ("user@domain.com\n", "control character"),
        ("user.@domain.com", "before the @"),
        (".user@domain.com", "before the @"),
        ("us..er@domain.com", "before the @"),
        ('"user"@domain.com', "before the @"),
        ("us\\er@domain.com", "before the @"),
        ("o\u2019connor@domain.com", "before the @"),
        ("user@.domain.com", "domain"),
        ("user@domain..com", "domain"),
        ("user@-domain.com", "domain"),
        ("user@domain-", "domain"),
        ("user@[192.0.2.1]", "domain"),
        ("user@domain.com/x", "domain"),
        ("user@dom'ain.com", "domain"),
        ("u" * MAX_ADDRESS + "@x", "longer"),
    ],
)
def test_what_no_request_can_ever_name(text: str, why: str) -> None:
    """It is refused with its reason, and the reason does not quote it."""
    assert why in fault(text)
    assert not is_address(text)
    assert not text or text not in fault(text)


@pytest.mark.parametrize(
    ("pasted", "address"),
    [
        ("<user@x>", "user@x"),
        ("  user@x\t", "user@x"),
        (" < 'user@x' > ", "user@x"),
        ("User Name <user@x>", "user@x"),
        ('"Name, User" <user@x>.', "user@x"),
        ("MAILTO:user@x", "user@x"),
        ("mailto:user@x?subject=a%20question&cc=other@x", "user@x"),
        ("<mailto:o'connor@x>", "o'connor@x"),
        ("\u202auser@x\u202c", "user@x"),
        ("\ufeffuser@x\u200b", "user@x"),
        ("'t@x", "'t@x"),
        ("''t@x'", "'t@x"),
        ("`user`@x", "`user`@x"),
    ],
)
def test_what_is_around_a_pasted_address_is_taken_off(pasted: str, address: str) -> None:
    """Quotes in pairs, so that a name may begin with one."""
    assert address == bare(pasted)
    assert is_address(address)


@pytest.mark.parametrize("text", ["", " ", "<>", '""', " <''> ", "mailto:", ".", "< >"])
def test_a_name_never_becomes_no_name(text: str) -> None:
    """No name means the only account: for `<>` that would be a stranger's token."""
    assert bool(text) == bool(bare(text))
    assert not is_address(bare(text))


@given(ADDRESSES, AROUND, AROUND)
def test_any_address_is_read_however_it_is_pasted(address: str, inner: str, outer: str) -> None:
    """In up to two layers."""
    pasted = outer.format(inner.format(address))

    assert is_address(address)
    assert address == bare(pasted)


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    """Without an exception, and what is an address has nothing around it."""
    assert bare(bare(text)) == bare(text)
    if is_address(text):
        assert text == bare(text)
