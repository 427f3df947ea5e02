"""Mailboxes that open when they are asked for: how many, which close, and what made-up addresses cost."""

from __future__ import annotations

from cms.core.accounts import Account, Grant, Scopes
from cms.core.lifecycle import Deny, Life, NeedsSignIn, Settled, Token, Trouble
from cms.core.mailboxes import (
    NEW_AT_ONCE,
    SPARED_SECONDS,
    UNPROVEN_SECONDS,
    UNUSED_SECONDS,
    USERS_WORTH,
    Mailboxes,
    Place,
)

GRANT = Grant("https://issuer.test", "", "*@x.test", sign_in="app")
PROVEN = Life(Token("secret", 0.0, 3600.0, 1800.0))
MINUTE = 60.0
UID, OTHER = 1000, 1001
ALL = ("a", "b", "c", "made-up", "offline", "used", "unused")


def refused(since: float) -> Life:
    return Life(None, NeedsSignIn(since, Trouble("application", "no such mailbox"), since + 900.0))


def place(of: Mailboxes, name: str) -> Place:
    return next(each for each in of.places.values() if each.account.user == f"{name}@x.test")


def names(of: Mailboxes) -> list[str]:
    return [each.account.user.partition("@")[0] for each in of.places.values()]


def closed(of: Mailboxes, keys: list[str] | Deny) -> list[str]:
    """Return the names of mailboxes that were closed."""
    assert isinstance(keys, list)
    return [name for name in ALL if of.account.of(f"{name}@x.test").grant.key in keys]


def mailboxes(most: int = 1000) -> Mailboxes:
    return Mailboxes(Account("*@X.test", GRANT, {}, max_mailboxes=most))


def opened(of: Mailboxes, *names: str, now: float = 0.0, life: Life = PROVEN) -> None:
    """Open these mailboxes, and let the provider answer."""
    for name in names:
        assert [] == of.enter(f"{name}@x.test", UID, now)
        place(of, name).learn(life)


def test_no_more_than_the_account_allows() -> None:
    """The next one is refused for now, so that mail waits; the refusal names the limit and what to do."""
    of = mailboxes(2)
    opened(of, "a", "b")
    answer = of.enter("c@x.test", UID, MINUTE)

    assert isinstance(answer, Deny)
    assert [True, False] == [of.are_crowded(now) for now in (2 * MINUTE, MINUTE + SPARED_SECONDS)]
    assert ("unavailable", ["a", "b"]) == (answer.code, names(of))
    assert "2 mailboxes of x.test" in answer.message
    assert "max_mailboxes= of this account, then `cms reload`" in answer.hint


def test_the_one_asked_for_longest_ago_makes_room() -> None:
    """After an hour, when its token has come to an end."""
    of = mailboxes(2)
    opened(of, "a", "b")
    place(of, "a").asked = 1.0

    assert isinstance(of.enter("c@x.test", UID, SPARED_SECONDS - 1.0), Deny)
    assert ["b"] == closed(of, of.enter("c@x.test", UID, SPARED_SECONDS + 1.0))
    assert ["a", "c"] == names(of)


def test_a_refused_one_makes_room_first() -> None:
    """An address that does not exist keeps no other from a place."""
    of = mailboxes(2)
    opened(of, "a")
    opened(of, "made-up", life=refused(0.0))

    assert ["made-up"] == closed(of, of.enter("c@x.test", UID, 1.0))


def test_one_that_lost_its_right_keeps_its_place() -> None:
    """A program that asks for it is told why, and no other takes its place within the hour."""
    of = mailboxes(1)
    opened(of, "a")
    place(of, "a").learn(refused(0.0))

    assert isinstance(of.enter("b@x.test", UID, 1.0), Deny)


def test_unused_ones_are_closed() -> None:
    """After a day; one that never had a token after minutes, since it was refused or was asked for last."""
    of = mailboxes()
    opened(of, "used", "unused")
    opened(of, "made-up", life=refused(0.0))
    opened(of, "offline", life=Life())
    for key in ("made-up", "offline"):
        place(of, key).asked = UNPROVEN_SECONDS - 1.0

    assert [] == of.leave(UNPROVEN_SECONDS - 1.0)
    assert ["made-up"] == closed(of, of.leave(UNPROVEN_SECONDS))
    assert ["offline"] == closed(of, of.leave(2 * UNPROVEN_SECONDS))
    place(of, "used").asked = 1.0
    assert ["unused"] == closed(of, of.leave(UNUSED_SECONDS))


def test_made_up_addresses_are_rationed() -> None:
    """So many at once, then one a minute: the provider is not asked about more. Those that are open go on."""
    of = mailboxes()
    for number in range(NEW_AT_ONCE):
        opened(of, str(number), life=refused(0.0))
    answer = of.enter("next@x.test", UID, 1.0)

    assert isinstance(answer, Deny)
    assert ("unavailable", MINUTE) == (answer.code, answer.retry_after)
    assert [] == of.enter("next@x.test", UID, 1.0 + MINUTE)
    assert isinstance(of.enter("more@x.test", UID, 1.0 + MINUTE), Deny)


def test_one_user_who_makes_addresses_up_leaves_others_theirs() -> None:
    """Each has a ration, and so have all together; what one gets a token for is not counted as theirs."""
    of = mailboxes()
    for number in range(2 * NEW_AT_ONCE):
        of.enter(f"{number}@x.test", UID, 0.0)
    theirs = [of.enter(f"a{number}@x.test", OTHER, 0.0) for number in range(NEW_AT_ONCE)]

    assert isinstance(of.enter("next@x.test", UID, 0.0), Deny)
    assert [] == [each for each in theirs if isinstance(each, Deny)]
    assert isinstance(of.enter("b@x.test", OTHER, 0.0), Deny)
    place(of, "a0").learn(PROVEN)
    assert [False, True] == [isinstance(of.enter("b@x.test", uid, 0.0), Deny) for uid in (OTHER, UID)]
    many = [of.enter(f"{uid}@x.test", uid, 0.0) for uid in range(2000, 2000 + USERS_WORTH * NEW_AT_ONCE)]
    assert USERS_WORTH * NEW_AT_ONCE - 2 * NEW_AT_ONCE == sum(not isinstance(each, Deny) for each in many)


def test_a_mailbox_with_a_token_is_not_counted() -> None:
    """A server that starts serves all of its mailboxes."""
    of = mailboxes()
    opened(of, *map(str, range(3 * NEW_AT_ONCE)))
    place(of, "0").learn(Life(PROVEN.held, Settled()))

    assert 3 * NEW_AT_ONCE == len(of.places)
    assert [] == of.enter("another@x.test", UID, 1.0)


def test_a_full_domain_costs_no_ration() -> None:
    """What is refused for want of room asked nobody."""
    of = mailboxes(1)
    opened(of, "a")
    for _ in range(2 * NEW_AT_ONCE):
        assert isinstance(of.enter("b@x.test", UID, 1.0), Deny)

    assert ["a"] == closed(of, of.enter("b@x.test", UID, SPARED_SECONDS))


def test_what_shows_whether_the_account_works() -> None:
    """The mailbox with a token that was asked for last; if none has one, the last one of all; nothing if none is open."""
    of = mailboxes()
    lives = dict[str, dict[Scopes, Life]]()
    assert {} == of.shown(lives.__getitem__, 0.0)
    for number, (name, life) in enumerate((("a", PROVEN), ("b", PROVEN), ("c", refused(0.0)))):
        opened(of, name, now=float(number), life=life)
        lives[of.account.of(f"{name}@x.test").grant.key] = {(name,): life}

    assert [("b",)] == [*of.shown(lives.__getitem__, 10.0)]
    assert [("c",)] == [*of.shown(lives.__getitem__, 3600.0)]


def test_a_reload_keeps_what_is_still_known() -> None:
    """With the account's new settings; the rest, such as what an account of its own has now, is forgotten."""
    of = mailboxes()
    opened(of, "a", "b")
    key = of.account.of("a@x.test").grant.key
    of.apply(Account("*@X.test", GRANT, {}, imap_host="mail", max_mailboxes=5), [key])

    assert ([key], "mail") == ([*of.places], of.places[key].account.imap_host)


def test_an_outage_uses_nothing_up() -> None:
    """Mailboxes that were asked for in vain, because the provider did not answer, can be asked for again after it."""
    of = mailboxes()
    for number in range(NEW_AT_ONCE):
        opened(of, str(number), life=Life())
    assert isinstance(of.enter("more@x.test", UID, 1.0), Deny)

    assert NEW_AT_ONCE == len(of.leave(UNPROVEN_SECONDS))
    for number in range(NEW_AT_ONCE):
        opened(of, str(number), now=UNPROVEN_SECONDS, life=Life())


def test_a_refusal_is_shown_until_something_works() -> None:
    """Also when its mailbox is closed; one that works meanwhile, or a reload, ends that."""
    of, lives = mailboxes(), dict[str, dict[Scopes, Life]]()
    of.apply(Account("*@X.test", GRANT, {"IMAP": ("mail",), "SMTP": ("mail",)}, max_mailboxes=9), [])
    opened(of, "a", life=refused(0.0))
    of.leave(UNPROVEN_SECONDS)
    first = of.shown(lives.__getitem__, UNPROVEN_SECONDS)
    opened(of, "b", life=refused(0.0))
    opened(of, "c")
    place(of, "b").learn(Life(PROVEN.held, NeedsSignIn(0.0, Trouble("application", "no more"), 1.0)))
    place(of, "c").learn(PROVEN)
    of.leave(UNUSED_SECONDS)
    second = of.shown(lives.__getitem__, UNUSED_SECONDS)
    opened(of, "a", life=refused(0.0))
    of.apply(of.account, [])

    assert ({("mail",): refused(0.0)}, {}) == (first, second)
    assert {} == of.shown(lives.__getitem__, UNUSED_SECONDS)
