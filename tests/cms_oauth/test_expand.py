"""Paths as people write them: what is replaced, and what is refused."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from cms_oauth.expand import Unusable, current_folder, expanded, home, literal, named


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HOME", "/home/me"), ("RUN", "/run/user/7"), ("_x1", "y"), ("EMPTY", ""), ("ODD", "$RUN%t~")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOT", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/run/cms.sock", "/run/cms.sock"),
        ("cms.sock", "cms.sock"),
        ("~", "/home/me"),
        ("~/a~b", "/home/me/a~b"),
        ("~root/x", f"{pwd.getpwuid(0).pw_dir.rstrip('/')}/x"),
        ("a/~/b", "a/~/b"),
        ("$RUN/cms.sock", "/run/user/7/cms.sock"),
        ("${RUN}.d/cms.sock", "/run/user/7.d/cms.sock"),
        ("~/$_x1/$_x1-${_x1}z", "/home/me/y/y-yz"),
        ("$ODD/x", "$RUN%t~/x"),
        ("$HOME/$$RUN/100%%", "/home/me/$RUN/100%"),
        ("/a$/b$1/c$.d", "/a$/b$1/c$.d"),
        ("/100%/5%20", "/100%/5%20"),
        ("$", "$"),
        ("/%", "/%"),
        ("/é$é", "/é$é"),
    ],
)
def test_what_is_replaced(written: str, meant: str) -> None:
    """Home folders and variables are replaced, once; other characters are left as they are."""
    assert meant == expanded(written)


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("$NOT/cms.sock", "the variable NOT is not set in this environment", "$$ for a dollar sign"),
        ("/run/${NOT}/x", "the variable NOT is not set in this environment", "$$ for a dollar sign"),
        ("~/$EMPTY/x", "the variable EMPTY is empty in this environment", "write the path out"),
        ("${RUN:-/run}/x", "only a variable's name and } may follow ${", "write ${NAME}"),
        ("${RUN/x", "only a variable's name and } may follow ${", "write ${NAME}"),
        ("/run/user/$(id -u)/x", "it has a command in it, and no shell reads a path", "write what the command prints"),
        ("/run/user/`id -u`/x", "it has a command in it, and no shell reads a path", "write what the command prints"),
        ("%t/cms.sock", "only systemd replaces %t, in its own files", "write $XDG_RUNTIME_DIR, or %%"),
        ("%h/cms.cfg", "only systemd replaces %h, in its own files", "write ~, or %%"),
        ("/run/%i/x", "only systemd replaces %i, in its own files", "write the path itself, or %%"),
        ("~nobody-at-all/x", "it begins with ~, and that user's home folder is not known", "write the folder out"),
        ("~$USER/x", "it begins with ~, and that user's home folder is not known", "write the folder out"),
    ],
)
def test_what_is_refused(written: str, message: str, hint: str) -> None:
    """What a shell or systemd would replace, and cms does not, is refused: it would be another file."""
    with pytest.raises(Unusable) as caught:
        expanded(written)

    assert message == caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("path", ["/plain", "/a$RUN/%t", "/$$/%%", "/~/x`"])
def test_a_path_that_cms_writes_is_read_as_the_same(path: str) -> None:
    """`literal` writes a path so that it means itself; a command's backquotes have no such form."""
    if "`" in path:
        with pytest.raises(Unusable):
            expanded(literal(path))
    else:
        assert path == expanded(literal(path))


def test_the_root_can_be_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's home is often /, and its paths have one slash."""
    monkeypatch.setenv("HOME", "/")

    assert ("/", "/x") == (expanded("~"), expanded("~/x"))


class TestHome:
    @pytest.mark.parametrize("told", ["", "relative", "~"])
    def test_the_user_database_is_asked(self, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A HOME that is empty or relative is no folder: the user database has one."""
        monkeypatch.setenv("HOME", told)

        assert pwd.getpwuid(os.getuid()).pw_dir == home()

    @pytest.mark.parametrize(
        ("told", "what"), [(None, "is not set"), ("", "is not set"), ("here", "is not an absolute path")]
    )
    def test_a_user_without_a_home(self, told: str | None, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user whom the database does not know, as in a container, is told what to set."""
        monkeypatch.delenv("HOME") if told is None else monkeypatch.setenv("HOME", told)
        monkeypatch.setattr(os, "getuid", lambda: 3_000_000_000)
        with pytest.raises(Unusable) as caught:
            expanded("~/x")

        assert (
            f"this user has no home folder: HOME {what}, and the user database has none for uid 3000000000"
            == caught.value.message
        )
        assert "set HOME to a folder of this user" == caught.value.hint


class TestCurrentFolder:
    def test_it_is_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Relative paths stay relative."""
        monkeypatch.chdir(tmp_path)

        assert (os.path.realpath(tmp_path), "x/y") == (current_folder(), named("x/y"))

    def test_it_was_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only relative paths need it, and the message is about it, not about the path."""
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

        assert ("/x", "/home/me/x") == (named("/x"), named("~/x"))
        with pytest.raises(Unusable, match="the current folder no longer exists"):
            named("x")

    def test_it_is_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After its mount was taken away the kernel gives a name that is no path."""
        monkeypatch.setattr("os.getcwd", lambda: "(unreachable)/x")

        with pytest.raises(Unusable, match="the current folder no longer exists"):
            current_folder()
