"""How much may be written: at once, in a day, by each user and by all, and what is counted of the rest."""

from __future__ import annotations

from cms.core.ration import DAY, Ration, Rations


def test_what_is_there_can_be_taken_once() -> None:
    """All of it at once, then nothing more, until time has brought some back."""
    ration = Ration(10, DAY)

    assert [True, False, True, False] == [ration.take(10, 5), ration.take(1, 5), ration.take(2, 7), ration.take(1, 7)]


def test_it_never_holds_more_than_at_the_beginning() -> None:
    """A quiet year gives nobody a year's worth at once."""
    ration = Ration(10, DAY)
    ration.take(10, 0)

    assert (True, False) == (ration.take(10, 365 * DAY), ration.take(1, 365 * DAY))


def test_no_more_than_so_much_in_a_day() -> None:
    """Whoever asks without end gets the beginning and the day's part, to the last of it."""
    ration = Ration(100, 1000)
    granted = sum(ration.take(1, second / 10) for second in range(int(DAY) * 10))

    assert 1099 <= granted <= 1100


def test_a_clock_that_went_back_gives_nothing() -> None:
    """Neither then, nor when it is where it was."""
    ration = Ration(1, DAY)

    assert [True, False, False] == [ration.take(1, 100), ration.take(1, 50), ration.take(1, 100)]


def test_what_was_refused_is_counted() -> None:
    """All of it, and what was not told yet."""
    ration = Ration(1, DAY)
    for _ in range(4):
        ration.take(1, 0)
    told = ration.told()
    ration.take(1, 0)

    assert (3, 4, 1) == (told, ration.refused, ration.untold)


def test_each_user_has_a_ration_of_their_own() -> None:
    """One who takes everything leaves another's alone."""
    rations = Rations((2, 0), (100, 0))

    assert [True, True, False, True] == [rations.take(uid, 1, 0) for uid in (1, 1, 1, 2)]


def test_all_together_have_one_too() -> None:
    """Many users get no more than that, however many they are; with time some comes back."""
    rations = Rations((2, 0), (3, DAY))

    assert 3 == sum(rations.take(uid, 1, 0) for uid in range(10))
    assert (True, False) == (rations.take(11, 1, 1), rations.take(12, 1, 1))


def test_what_all_have_used_up_costs_a_user_nothing() -> None:
    """Who is refused because of others has all of their own part when there is room again."""
    rations = Rations((2, 0), (2, 2 * DAY))
    used_up = [rations.take(uid, 1, 0) for uid in (1, 1, 2, 2)]

    assert [True, True, False, False] == used_up
    assert [True, True] == [rations.take(2, 1, 1) for _ in range(2)]


def test_users_beyond_the_most_share_one() -> None:
    """Their number costs no memory, and those who were there keep their own."""
    rations = Rations((2, DAY), (100, 0), most=2)

    assert [True, True, True, True, False, True] == [rations.take(uid, 1, 0) for uid in (1, 2, 3, 4, 5, 1)]


def test_users_who_have_all_again_make_room() -> None:
    """After a quiet time a new user has a ration of their own, and who used theirs up before does not get it anew."""
    rations = Rations((2, DAY), (100, 0), most=2)
    for uid in (1, 2, 3, 3):
        rations.take(uid, 1, 0)
    rations.take(2, 1, 0)

    # The first has had its part back; the second has not, and the shared one is empty but for what a second brings.
    assert [True, True, True, False] == [rations.take(uid, 1, 1) for uid in (3, 3, 2, 2)]


def test_what_a_user_gives_back_is_theirs_and_everybodys() -> None:
    """It is there again for those who share one with that user, and for nobody else."""
    rations = Rations((1, 0), (2, 0), most=1)
    taken = [rations.take(uid, 1, 0) for uid in (1, 2, 3, 1)]
    rations.give_back(2, 1)

    assert [True, True, False, False] == taken
    assert [False, True] == [rations.take(uid, 1, 0) for uid in (1, 3)]


def test_what_is_given_back_can_be_taken_again() -> None:
    """And no more than there was at the beginning."""
    ration = Ration(2, 0)
    ration.take(2, 0)
    ration.give_back(1)

    assert [True, False] == [ration.take(1, 0), ration.take(1, 0)]
    ration.give_back(9)
    assert [True, False] == [ration.take(2, 0), ration.take(1, 0)]
