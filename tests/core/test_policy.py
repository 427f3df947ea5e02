"""Who may have which token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core.accounts import Account, Grant, mail_scopes
from cms.core.lifecycle import Deny
from cms.core.policy import Bits, Peer, Rules, Unmapped, admits, decide, shadowed
from cms_oauth.wire import EXIT_CODES, TokenRequest

OWNER, ALICE, EXIM, MAIL = 1000, 1001, 100, 200
SCOPES = mail_scopes("https://outlook.office.com", ["SMTP", "IMAP"])
GRAPH = ("https://graph.microsoft.com/Mail.Send",)


def account(user: str, *, login: str | None = None, **scopes: tuple[str, ...]) -> Account:
    grant = Grant("https://login.example/common", "id", user if login is None else login)
    return Account(user, grant, scopes or {"SMTP": SCOPES, "IMAP": SCOPES})


A, B = account("Alice@Example.test"), account("b@example.test")
NAMELESS = account("")


def rules(*accounts: Account, users: set[int] | None = None, groups: set[int] | None = None) -> Rules:
    return Rules(
        OWNER,
        accounts or (A, B),
        ("SMTP", "IMAP"),
        None if users is None else frozenset(users),
        None if groups is None else frozenset(groups),
    )


def ask(request: TokenRequest, its: Rules, names: dict[str, str] | None = None, uid: int = OWNER) -> Account | Deny:
    return decide(Peer(1, uid, uid), request, its, lambda grant: (names or {}).get(grant.key, ""))


def code(answer: Account | Deny) -> str:
    return answer.code if isinstance(answer, Deny) else "allowed"


@pytest.mark.parametrize(
    ("peer", "its", "expected"),
    [
        (Peer(1, ALICE, ALICE), rules(), True),
        (Peer(1, ALICE, ALICE), rules(users={ALICE}), True),
        (Peer(1, EXIM, EXIM), rules(users={ALICE}), False),
        (Peer(1, OWNER, OWNER), rules(users={ALICE}), True),
        (Peer(1, 0, 0), rules(users={ALICE}), True),
        (Peer(1, ALICE, ALICE), rules(users=set()), False),
        (Peer(1, ALICE, ALICE), rules(groups=set()), False),
        (Peer(1, EXIM, MAIL), rules(groups={MAIL}), True),
        (Peer(1, EXIM, EXIM, lambda: (MAIL,)), rules(groups={MAIL}), True),
        (Peer(1, EXIM, EXIM, lambda: (EXIM, 7)), rules(groups={MAIL}), False),
        # A uid is no gid, however alike the numbers are.
        (Peer(1, MAIL, EXIM), rules(groups={MAIL}), False),
        (Peer(1, EXIM, MAIL), rules(users={MAIL}), False),
        # A user or a group is enough where both are given.
        (Peer(1, ALICE, ALICE), rules(users={ALICE}, groups={MAIL}), True),
        (Peer(1, EXIM, MAIL), rules(users={ALICE}, groups={MAIL}), True),
        (Peer(1, EXIM, EXIM), rules(users={ALICE}, groups={MAIL}), False),
        (Peer(1, 65534, 65534), rules(users={ALICE}), False),
        # Members of root's group are not root.
        (Peer(1, ALICE, 0), rules(users={EXIM}), False),
    ],
)
def test_exactly_the_named_the_owner_and_root_may_ask(peer: Peer, its: Rules, *, expected: bool) -> None:
    """With users or groups, these, the owner and root may ask; without, all that the permission bits let in."""
    assert expected == admits(peer, its)


# In a user namespace that lacks users, and all groups but one.
NOBODY = Unmapped(65534, 65533)


@pytest.mark.parametrize(
    ("peer", "its", "expected"),
    [
        (Peer(1, 65534, 7), rules(), False),
        (Peer(1, 65534, 7), rules(users={65534}), False),
        (Peer(1, 65534, MAIL), rules(groups={MAIL}), False),
        (Peer(1, 65534, 7), replace(rules(users={ALICE}), owner=65534), False),
        (Peer(1, ALICE, 65533, lambda: (65533, 7)), rules(groups={65533}), False),
        # Others are who they are.
        (Peer(1, ALICE, 65533, lambda: (65533, MAIL)), rules(groups={65533, MAIL}), True),
        (Peer(1, ALICE, 65533), rules(users={ALICE}), True),
        (Peer(1, 65533, 65534), rules(users={65533}), True),
        (Peer(1, 0, 65533), rules(users={ALICE}), True),
        (Peer(1, ALICE, 65533), rules(), True),
    ],
)
def test_a_number_that_stands_for_many_admits_nobody(peer: Peer, its: Rules, *, expected: bool) -> None:
    """Whatever the rules name and whoever runs the daemon; outside of such a namespace it is a number like any other."""
    assert expected == admits(peer, replace(its, unmapped=NOBODY))
    assert admits(peer, its)


@pytest.mark.parametrize(
    ("its", "expected"),
    [
        (rules(users={65534}), True),
        (rules(groups={65533}), True),
        (replace(rules(), owner=65534), True),
        (rules(users={65533}, groups={65534}), False),
        (rules(), False),
    ],
)
def test_rules_that_name_such_a_number_are_told(its: Rules, *, expected: bool) -> None:
    """Where the configuration counts on it."""
    assert expected == shadowed(replace(its, unmapped=NOBODY))
    assert not shadowed(its)


OWN, GROUPS, OPEN = 0o600, 0o660, 0o666


@pytest.mark.parametrize(
    ("peer", "mode", "expected"),
    [
        (Peer(1, ALICE, ALICE), OWN, False),
        (Peer(1, ALICE, MAIL), OWN, False),
        (Peer(1, OWNER, OWNER), OWN, True),
        (Peer(1, 0, 0), 0o000, True),
        (Peer(1, ALICE, MAIL), GROUPS, True),
        (Peer(1, ALICE, ALICE, lambda: (7, MAIL)), GROUPS, True),
        (Peer(1, ALICE, ALICE), GROUPS, False),
        (Peer(1, ALICE, ALICE), OPEN, True),
        # The kernel looks at one class of bits, the first that fits.
        (Peer(1, OWNER, MAIL), 0o066, False),
        (Peer(1, ALICE, MAIL), 0o606, False),
    ],
)
def test_the_configured_bits_hold_where_another_has_made_the_socket(peer: Peer, mode: int, *, expected: bool) -> None:
    """As the kernel would apply them to a file of the daemon's owner and of group MAIL; its twin is held to nothing."""
    assert expected == admits(peer, replace(rules(), held_to=Bits(mode, OWNER, MAIL)))
    assert admits(peer, rules())
    # The bits open no door that users= closes.
    assert not admits(Peer(1, EXIM, MAIL), replace(rules(users={ALICE}), held_to=Bits(OPEN, OWNER, MAIL)))


NUMBERS = st.integers(0, 5)


@given(NUMBERS, NUMBERS, st.lists(NUMBERS), st.frozensets(NUMBERS), st.frozensets(NUMBERS))
def test_a_stranger_gets_no_token_whatever_it_asks(
    uid: int, gid: int, more: list[int], users: frozenset[int], groups: frozenset[int]
) -> None:
    """A peer outside users and groups, other than the owner and root, never gets an account."""
    peer = Peer(1, uid, gid, lambda: tuple(more))
    its = Rules(3, (A,), ("SMTP",), users, groups)
    expected = uid in users or uid in {0, 3} or bool(groups & {gid, *more})

    assert expected == isinstance(decide(peer, TokenRequest("SMTP"), its, lambda _grant: ""), Account)


def test_a_stranger_learns_nothing_but_that_it_may_not_ask() -> None:
    """What a stranger is told does not depend on the accounts and protocols that there are."""
    its = rules(users={ALICE})
    told = {
        ask(TokenRequest(*what), its, uid=EXIM) for what in (("SMTP",), ("IMAP", "token", "b@example.test"), ("NONE",))
    }

    assert ["denied"] == [code(each) for each in told]


@pytest.mark.parametrize(
    "user",
    [
        "alice@example.test",
        "ALICE@EXAMPLE.TEST",
        "<alice@example.test>",
        '"Alice@example.test"',
        "mailto:alice@example.test",
    ],
)
def test_users_are_chosen_however_they_are_written(user: str) -> None:
    """Mail tools write addresses as they like; the name in the token's SASL string is the configuration's."""
    assert A == ask(TokenRequest("SMTP", user=user), rules())


@pytest.mark.parametrize(
    "user", ["c@example.test", "alice", "alice@example.test.evil.test", "*", "*@example.test", "<>", '""']
)
def test_an_unknown_user_is_told_so_without_a_list_of_those_that_are_known(user: str) -> None:
    """A name that is not served is unknown-account, and the answer names no account."""
    answer = ask(TokenRequest("SMTP", user=user), rules())

    assert code(answer) == "unknown-account"
    assert "example.test" not in str(answer)


def test_one_mailbox_is_never_taken_for_another() -> None:
    """Letters that only look or fold alike are different names: ß is not ss."""
    its = rules(account("strasse@example.test"))

    assert code(ask(TokenRequest("SMTP", user="straße@example.test"), its)) == "unknown-account"


def test_no_user_means_the_only_account() -> None:
    """A request without a user gets the only account of the socket."""
    assert B == ask(TokenRequest("SMTP"), rules(B))


def test_no_user_is_refused_where_there_is_a_choice() -> None:
    """cms never guesses which of two accounts was meant."""
    answer = ask(TokenRequest("SMTP"), rules())

    assert code(answer) == "unknown-account"
    assert "--user" in str(answer)


def test_accounts_of_one_name_are_one_account() -> None:
    """A second resource is another Account of the same name: a request gets the one that serves its protocol."""
    graph = account("ALICE@example.test", GRAPH=GRAPH)
    its = Rules(OWNER, (A, graph), ("SMTP", "GRAPH"))

    assert graph == ask(TokenRequest("GRAPH"), its)
    assert A == ask(TokenRequest("SMTP", user="alice@example.test"), its)


@pytest.mark.parametrize("protocol", ["POP", "GRAPH", "X"])
def test_a_protocol_that_is_not_served_is_told_so(protocol: str) -> None:
    """A protocol outside the socket's own, or without scopes in the account, is unknown-protocol."""
    assert code(ask(TokenRequest(protocol, user=A.user), rules())) == "unknown-protocol"


def test_a_socket_opens_no_protocol_that_only_the_account_has() -> None:
    """The account's scopes do not widen what its socket serves."""
    its = Rules(OWNER, (A,), ("SMTP",))

    answer = ask(TokenRequest("IMAP"), its)

    assert code(answer) == "unknown-protocol"
    assert isinstance(answer, Deny)
    assert "this socket does not serve IMAP" in answer.message
    assert '"IMAP" to protocols= of this CredentialServer' in answer.hint


def test_an_account_without_scopes_for_a_protocol_does_not_serve_it() -> None:
    """The socket's protocols do not widen what the account has scopes for: its own protocols= have to."""
    its = Rules(OWNER, (account("a@example.test", SMTP=SCOPES),), ("SMTP", "IMAP"))
    answer = ask(TokenRequest("IMAP"), its)

    assert code(answer) == "unknown-protocol"
    assert isinstance(answer, Deny)
    assert "the protocols= of this account leave IMAP out" == answer.message
    assert '"IMAP" to protocols= of the account' in answer.hint


def test_an_account_without_a_user_has_the_name_that_signed_in() -> None:
    """user=None: the name that signed in selects the account."""
    names = {NAMELESS.grant.key: "Who@example.test"}
    answers = [ask(TokenRequest("SMTP", user=user), rules(NAMELESS), names) for user in ("", "who@EXAMPLE.test")]

    assert [NAMELESS] * 2 == answers


def test_no_user_means_the_default_where_there_is_one() -> None:
    """A Postfix table that is asked by host uses the default account, even before its first sign-in."""
    its = replace(rules(A, B, NAMELESS), default=B)

    assert B == ask(TokenRequest("SMTP"), its)
    assert NAMELESS == ask(TokenRequest("SMTP"), replace(its, default=NAMELESS))
    assert A == ask(TokenRequest("SMTP", user=A.user), its)


def test_an_account_before_its_first_sign_in_makes_mail_wait() -> None:
    """Before the first sign-in any name may be right: the answer is sign-in-required, so that mail does not bounce."""
    answer = ask(TokenRequest("SMTP", user="who@example.test"), rules(NAMELESS, B))

    assert (code(answer), EXIT_CODES[code(answer)]) == ("sign-in-required", 75)


def test_without_a_user_the_nameless_account_is_still_the_only_one() -> None:
    """A request without a user reaches the only account's keeper, which knows why there is no token yet."""
    assert NAMELESS == ask(TokenRequest("SMTP"), rules(NAMELESS))


def test_every_refusal_has_a_code_of_the_wire_and_a_next_move() -> None:
    """Each denial says what happened and whose move it is, under a code that the protocol knows."""
    refusals = [
        ask(TokenRequest("SMTP"), rules(users=set()), uid=EXIM),
        ask(TokenRequest("SMTP"), rules()),
        ask(TokenRequest("SMTP", user="x"), rules()),
        ask(TokenRequest("SMTP", user="x"), rules(NAMELESS)),
        ask(TokenRequest("POP", user=A.user), rules()),
    ]

    assert all(isinstance(each, Deny) and each.code in EXIT_CODES and each.message and each.hint for each in refusals)


EVERY = account("*@Example.test", login="")
NOBODY_IN_PARTICULAR = TokenRequest("SMTP", "token")


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("desk@example.test", "desk@example.test"),
        ("<Desk@EXAMPLE.test>", "desk@example.test"),
        ("alice@example.test", "Alice@Example.test"),
        ("desk@sub.example.test", ""),
        ("desk@example.test.evil", ""),
        ("desk@other@example.test", ""),
        ("@example.test", ""),
        ("example.test", ""),
        ("*@example.test", ""),
        ("d*@example.test", ""),
        ("desk\x01auth=x@example.test", ""),
    ],
)
def test_every_address_of_a_domain(user: str, name: str) -> None:
    """Each is served under its own name, a named account wins, and what is no address of exactly this domain is unknown."""
    answer = ask(TokenRequest("SMTP", "token", user), rules(A, B, EVERY))

    assert name == (answer.user if isinstance(answer, Account) else "")
    assert code(answer) == ("allowed" if name else "unknown-account")
    if isinstance(answer, Account):
        assert answer.grant == (A if answer == A else EVERY).grant


def test_a_named_account_wins_with_its_own_protocols() -> None:
    """An address that has an account is not served by that of its domain, not even a protocol that it lacks."""
    less = account("desk@example.test", SMTP=SCOPES)

    assert "unknown-protocol" == code(ask(TokenRequest("IMAP", "token", "desk@example.test"), rules(less, EVERY)))
    signed_in = {NAMELESS.grant.key: "desk@example.test"}
    answer = ask(TokenRequest("SMTP", "token", "desk@example.test"), rules(NAMELESS, EVERY), signed_in)
    assert isinstance(answer, Account)
    assert NAMELESS == answer


def test_no_default_is_every_address() -> None:
    """A request without a user means the only named account, and none if there is only that of a domain."""
    alone, beside = (ask(NOBODY_IN_PARTICULAR, rules(*them)) for them in ((EVERY,), (EVERY, A)))

    assert "unknown-account" == code(alone)
    assert isinstance(beside, Account)
    assert A == beside


def test_an_address_with_a_grant_of_its_own() -> None:
    """However it is written, an address is one mailbox and one grant, and no other's."""
    every = replace(EVERY, max_mailboxes=10)
    answers = [
        ask(TokenRequest("SMTP", "token", user), rules(A, every))
        for user in ("desk@example.test", "<Desk@EXAMPLE.test>", "jobs@example.test")
    ]
    grants = [each.grant for each in answers if isinstance(each, Account)]

    assert ["desk@example.test", "desk@example.test", "jobs@example.test"] == [each.login for each in grants]
    assert 2 == len({each.key for each in grants} - {every.grant.key})
