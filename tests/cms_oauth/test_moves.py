"""The next move: templates filled in once, commands quoted for a shell in one place, and what depends on the parts."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.moves import (
    RELOAD,
    RETRIES,
    Command,
    Move,
    Promise,
    Run,
    as_data,
    cms,
    commands_of,
    fill,
    from_data,
    in_person,
    of_anyone,
    parts_of,
    signs_in,
)

LOGIN = {"login": cms("login", "ann@example.test")}
AGAIN = fill("start again: {login}", LOGIN)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("sign in: {login}", "sign in: `cms login ann@example.test`"),
        ("{login --browser} in a browser", "`cms login ann@example.test --browser` in a browser"),
        ("then {reload}; or {refresh}", "then `cms reload`; or `cms refresh`"),
        ("then {reload, login}.", "then `cms reload` and `cms login ann@example.test`."),
        ("{retries}; tell them", "cms tries again by itself; tell them"),
        ("{user} --x", "{braces} --x"),
        ("{user --x}", "{braces} --x"),
        ("{ $_ } {nothing} {login, nothing}", "{ $_ } {nothing} {login, nothing}"),
        ("", ""),
    ],
)
def test_filling_in(template: str, expected: str) -> None:
    """Fields get their values, options go inside the backquotes, and a value is never filled in itself."""
    assert expected == fill(template, {**LOGIN, "user": "{braces}", "braces": "never"})


def test_text_from_outside_is_shown_on_one_line() -> None:
    """In a sentence and in a command."""
    odd = "a\x1b[2J\nb"

    assert "a?[2J b: `cms login 'a?[2J b'`" == fill("{who}: {login}", {"who": odd, "login": cms("login", odd)})


def test_a_command_without_a_user() -> None:
    """Unknown words are left out."""
    assert "cms login --paste" == str(cms("login", "", "--paste"))


@pytest.mark.parametrize("user", ["o'connor@x", "a b", "$(evil)", "a`b", "-x", 'q"q', "a\\b", "é@x"])
def test_a_shell_takes_a_command_as_it_is_shown(user: str) -> None:
    """Each word stays one word, and means nothing to the shell."""
    assert ["cms", "login", user, "--browser"] == shlex.split(str(cms("login", user, "--browser")))


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_real_shells_take_it_too(shell: str) -> None:
    """And an address that begins with a hyphen is no option."""
    users = [
        "o'connor@x",
        "-x@y",
        "--paste@y",
        "a&b@x",
        "$HOME@x",
        "!!@x",
        "`id`@x",
        "#a@x",
        "~root@x",
        "{a,b}@x",
        "ü@x",
    ]
    commands = [cms("login", each, "--paste").with_options("--browser") for each in users]
    script = "cms() { printf '%s\\n' \"$*\"; }\n" + "".join(f"{each}\n" for each in commands)
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)

    first = [
        "login --paste --browser -- " if each.startswith("-") else f"login {each} --paste --browser" for each in users
    ]
    assert [
        f"{words}{user}" if user.startswith("-") else words for words, user in zip(first, users, strict=True)
    ] == done.stdout.splitlines()


@given(st.lists(st.text(), min_size=1))
def test_any_words_are_quoted(words: list[str]) -> None:
    """What prints comes back from the shell's own splitting, word for word."""
    shown = str(Command(tuple(words)))

    assert len(words) == len(shlex.split(shown))
    assert shown.isprintable()


def test_a_move_is_its_line() -> None:
    """Programs get the text; a copy, and what is added to it, keeps the parts and whose move it is."""
    move = fill("tell them: {login}", LOGIN, mover="administrator")
    longer = copy.deepcopy(move) + "; or wait"

    assert '"tell them: `cms login ann@example.test`"' == json.dumps(move)
    assert "tell them: `cms login ann@example.test`; or wait" == longer
    assert ("administrator", (LOGIN["login"],)) == (longer.mover, commands_of(longer))


def test_whether_a_move_signs_in() -> None:
    """The commands tell, never the words."""
    assert signs_in(AGAIN)
    assert signs_in(fill("{reload, login}", LOGIN))
    assert not signs_in("sign in with `cms login`")
    assert not signs_in(fill("{refresh}"))


@pytest.mark.parametrize(
    ("template", "pause", "expected"),
    [
        ("mend it, then {refresh}", None, "mend it, then start again: `cms login ann@example.test`"),
        ("mend it, then {reload}", None, "mend it, then `cms reload`, if cms runs, and start again: `cms login ann@"),
        (
            "then {reload, refresh}",
            None,
            "then `cms reload`, if cms runs, and start again: `cms login ann@example.test`",
        ),
        ("then {reload, login}", None, "then `cms reload`, if cms runs, and `cms login ann@example.test`"),
        ("{login --device}", None, "`cms login ann@example.test --device`"),
        ("look at {retries}", None, "look at cms tries again by itself"),
        ("{nothing_to_do}", 0.0, "wait a minute, then start again: `cms login ann@example.test`"),
        ("{nothing_for_now}; if", 900.0, "wait 15 minutes, then start again: `cms login ann@example.test`; if"),
        ("check it; {retries}", 900.0, "check it; start again: `cms login ann@example.test`"),
        ("see the log", 0.0, "see the log; start again: `cms login ann@example.test`"),
    ],
)
def test_what_a_person_is_told_who_has_asked_for_this(template: str, pause: float | None, expected: str) -> None:
    """Nothing tries again by itself for them, and no daemon may be there to be told."""
    assert in_person(fill(template, LOGIN), AGAIN, pause).startswith(expected)


@pytest.mark.parametrize(
    "move",
    [
        fill("{login}, {retries}; {reload, login}", LOGIN, mover="administrator"),
        Move("text", Promise("for now", waits=True)),
        Move(Run((RELOAD,))),
        Move(),
        "plain text",
    ],
)
def test_between_processes(move: str) -> None:
    """JSON carries a move with all its parts."""
    back = from_data(json.loads(json.dumps(as_data(move))))

    assert (move, parts_of(move)) == (back, back.parts)
    assert (move.mover if isinstance(move, Move) else "you") == back.mover


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        {},
        {"mover": "me", "parts": []},
        {"mover": "you", "parts": "text"},
        {"mover": "you", "parts": [5]},
        {"mover": "you", "parts": [{}]},
        {"mover": "you", "parts": [{"run": [[5]]}]},
        {"mover": "you", "parts": [{"run": 5}]},
        {"mover": "you", "parts": [{"promise": 5, "waits": True}]},
    ],
)
def test_what_is_no_move(data: Any) -> None:
    """It is refused with the error that the reader of messages expects."""
    with pytest.raises(TypeError):
        from_data(data)


def test_promises_are_known_by_their_kind() -> None:
    """What cms does by itself is a part, so that a person can be told something else."""
    assert (RETRIES,) == fill("{retries}").parts


def test_a_text_about_one_account_becomes_one_about_anyone() -> None:
    """Also where the name is an argument that a shell needs quoted; without a name nothing is replaced."""
    user = "o'connor@domain.com"
    assert "USER: `cms login USER`" == of_anyone(f"{user}: `{cms('login', user)}`", user)
    assert "`cms login`" == of_anyone("`cms login`", "")
