"""What shell text asks cms is found as sh(1) would run it, and nothing of it is run."""

from __future__ import annotations

import pytest
from support.mail_files import HOME, machine

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import UNKNOWN, Command, Fault, Login, Place, Request, TokenPath, Variable

HERE = Place("shell", "/f", 1)
ENVIRON = {"XDG_RUNTIME_DIR": "/run/user/7", "SECRET": "hunter2"}


def asked(script: str) -> list[tuple[int, tuple[str, ...], str]]:
    """Return line, words and $CMS_SOCK of each run of cms-oauth."""
    found = shell.asks(script, HERE, machine({}, ENVIRON))
    return [(each.place.line, each.words, each.socket) for each in found if isinstance(each, Command)]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("cms-oauth --user=u@x --output=token # --user=other", ("--user=u@x", "--output=token")),
        ("cms-oauth --user=a#b", ("--user=a#b",)),
        ("/opt/cms/bin/cms-oauth --user 'o'\\''connor@x' 2>/dev/null", ("--user", "o'connor@x")),
        ("~/bin/cms-oauth --cms_sock=~/cms.sock", ("--cms_sock=~/cms.sock",)),
        ('cms-oauth --cms_sock="$HOME/c.sock" --user=$USER', (f"--cms_sock={HOME}/c.sock", f"--user={UNKNOWN}")),
        (
            "cms-oauth --cms_sock=${XDG_RUNTIME_DIR:-/run}/c --user=${X:-u@x}",
            ("--cms_sock=/run/user/7/c", "--user=u@x"),
        ),
        ("cms-oauth --user=${X:-$(id -un)} --proto=${P%x}", (f"--user={UNKNOWN}", f"--proto={UNKNOWN}")),
        ("cms-oauth --user='$HOME' --proto=\"\\$HOME\"", ("--user=$HOME", "--proto=$HOME")),
        ("cms-oauth \\\n  --user=u@x \\\n  --output=token", ("--user=u@x", "--output=token")),
        ("cms-oauth --user=u@x | tr -d '\\n'", ("--user=u@x",)),
        ("cms-oauth --user=u@x; echo --proto=IMAP", ("--user=u@x",)),
        ("cms-oauth --user=u@x>token 2>&1&&true", ("--user=u@x",)),
        ("cms-oauth --user=u@x &>token", ("--user=u@x",)),
        ("cms-oauth $'--user=u@x' $\"--proto=IMAP\" $((1+1))", ("--user=u@x", "--proto=IMAP", UNKNOWN)),
        ('echo "$(cms-oauth --user=u@x | head -1)"', ("--user=u@x",)),
        ("T=`cms-oauth --user=\\`id -un\\`@x`", ("--user=…@x",)),
        ("sh -c 'exec cms-oauth --user=u@x'", ("--user=u@x",)),
        ("bash -lc \"cms-oauth --user='u@x'\"", ("--user=u@x",)),
        ("su -c 'cms-oauth --user=u@x' cms", ("--user=u@x",)),
        ("timeout 5 nice -n 3 cms-oauth --user=u@x", ("--user=u@x",)),
        ("if ! t=$(cms-oauth --user=u@x); then exit 75; fi", ("--user=u@x",)),
        ("eval cms-oauth --user=u@x", ("--user=u@x",)),
        ("diff <(cms-oauth --user=u@x) -", ("--user=u@x",)),
        ("u=u@x; cms-oauth --user=$u", ("--user=u@x",)),
        ("u=u@x; read u; cms-oauth --user=$u", (f"--user={UNKNOWN}",)),
        ("f() { local u=$1; cms-oauth --user=$u; }", (f"--user={UNKNOWN}",)),
        ("cms-oauth --user=$SECRET", (f"--user={UNKNOWN}",)),
        ("cms-oauth --user=$", ("--user=$",)),
    ],
)
def test_the_words_are_those_that_the_program_gets(script: str, words: tuple[str, ...]) -> None:
    """Quotes, comments, variables, substitutions and wrappers; a variable that may be private is not looked at."""
    assert [words] == [each[1] for each in asked(script)]


@pytest.mark.parametrize(
    ("script", "socket"),
    [
        ("export CMS_SOCK=/x; cms-oauth", "/x"),
        ("CMS_SOCK=/x cms-oauth", "/x"),
        ("LANG=C CMS_SOCK='/a b' /usr/bin/cms-oauth", "/a b"),
        ("env -u DISPLAY CMS_SOCK=/x cms-oauth", "/x"),
        ("CMS_SOCK=~/x; export CMS_SOCK; cms-oauth", f"{HOME}/x"),
        ("CMS_SOCK=/x sh -c cms-oauth", "/x"),
        ("CMS_SOCK=/x; cms-oauth", ""),
        ("CMS_SOCK=/x true; cms-oauth", ""),
        ("export CMS_SOCK=/x; unset CMS_SOCK; cms-oauth", ""),
        ("declare -gx CMS_SOCK=/s; cms-oauth", "/s"),
        ("declare -x CMS_SOCK=$XDG_RUNTIME_DIR/s && cms-oauth", "/run/user/7/s"),
    ],
)
def test_the_socket_is_that_of_the_environment(script: str, socket: str) -> None:
    """As the shell passes it on: a variable that is not exported does not arrive."""
    assert [socket] == [each[2] for each in asked(script)]


@pytest.mark.parametrize(
    "script",
    [
        "command -v cms-oauth",
        "which cms-oauth >/dev/null || exit",
        "echo run cms-oauth --user=u@x",
        "# cms-oauth --user=u@x",
        "cat <<EOF\ncms-oauth --user=u@x\nEOF",
        "cat <<-'END' >f\n\tcms-oauth --user=u@x\n\tEND",
        "sudo apt install cms-oauth",
        "sh cms-oauth",
        "python3 other-oauth --user=u@x",
        "'",
        "$(",
        "`",
        '"${',
        "",
    ],
)
def test_what_does_not_run_it_asks_nothing(script: str) -> None:
    """A mention is no run, and unfinished text is no error."""
    assert [] == asked(script)


def test_each_run_has_its_line() -> None:
    """The line on which the command begins, in a script and in a substitution."""
    script = "#!/bin/sh\n\ncms-oauth \\\n --user=a@x\nx='\n\n' y=$(\n\ncms-oauth --user=b@x)\ncat <<E\n\nE\ncms-oauth --user=c@x\n"

    assert [3, 9, 13] == [line for line, _, _ in asked(script)]


@pytest.mark.parametrize(
    "script", ["'cms-oauth --user=u@x'", '"/opt/cms-oauth --user=u@x" | cat', "exec 'cms-oauth --x'"]
)
def test_a_command_in_quotes(script: str) -> None:
    """A shell looks for a program with that whole name."""
    (use,) = shell.asks(script, HERE, machine({}))

    assert isinstance(use, Fault)
    assert "a single word of the whole command" in use.cause


def test_the_path_of_the_program() -> None:
    """Where it is whole, so that the judge can look whether there is one."""
    for script, path in (("cms-oauth", ""), ("/opt/cms-oauth", "/opt/cms-oauth"), ("~/cms-oauth", f"{HOME}/cms-oauth")):
        (use,) = shell.asks(script, HERE, machine({}))
        assert isinstance(use, Command)
        assert path == use.path


def test_nesting_ends() -> None:
    """However deep a file nests: it is a file of somebody else's."""
    for hostile in (
        "$(" * 20_000,
        "`\\" * 20_000,
        '"${a-' * 20_000,
        "<<a\n" * 20_000,
        "sh -c '" * 2_000,
        "a|b;" * 9_000,
    ):
        assert [] == asked(hostile)
    assert [] == asked("cms-oauth".join(["eval eval $(" * 40, ")" * 40]))


def test_requests_of_a_script() -> None:
    """`nc -U` and socat write what the command before them prints."""
    script = (
        "printf 'SMTP,token %s\\n' u@x | nc -NU /s\n"
        "echo IMAP,token u@x | socat - UNIX-CONNECT:/s,shut-down\n"
        "cat f | nc -U /s\nnc localhost 25\nsocat - TCP:localhost:25\n"
    )

    assert [
        Request(Place("shell", "/f", 1), "/s", "SMTP,token u@x"),
        Request(Place("shell", "/f", 2), "/s", "IMAP,token u@x"),
        Request(Place("shell", "/f", 3), "/s", UNKNOWN),
    ] == shell.asks(script, HERE, machine({}))


def test_token_files_of_imapsync() -> None:
    """For both sides, in both spellings."""
    script = "imapsync --user1 a --oauthaccesstoken1 /t1 -oauthaccesstoken2=/t2"

    assert [TokenPath(HERE, "/t1", "IMAP"), TokenPath(HERE, "/t2", "IMAP")] == shell.asks(script, HERE, machine({}))


def test_a_startup_file_tells_the_socket_that_it_exports() -> None:
    """Also through a file that it sources; a variable that stays in the shell is nobody else's."""

    def follow(path: str, _place: Place) -> str:
        return {"/more": "CMS_SOCK=/b; export CMS_SOCK; export CMS_SOCK=/b; CMS_SOCK=/c"}.get(path, "")

    start = shell.Start(HERE, {}, frozenset(), follow, startup=True)
    found = shell.walk("CMS_SOCK=/a\n. /more\n. /none; . $x", start)

    assert ["/b", "/b", "/c"] == [each.socket for each in found if isinstance(each, Variable)]


def test_a_program_without_a_shell() -> None:
    """Its words are taken as they are, but for a wrapper; the login is what its caller does with the output."""
    login = Login("IMAP", "token")
    found = shell.program(("env", "CMS_SOCK=/x", "cms-oauth", "--user=$HOME;"), HERE, machine({}), login)

    assert [Command(HERE, ("--user=$HOME;",), "/x", login)] == found
    assert [] == shell.program((), HERE, machine({}))
