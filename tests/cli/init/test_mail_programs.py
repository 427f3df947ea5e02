"""What mail programs need: the files of contrib/, with the user's words in them."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.fragments import contrib, page, shown
from support.newcomers import program

from cms.cli.init import mail_programs
from cms.cli.init.mail_programs import TOOLS, Setting, Tool, data, found, fragment

SETTING = Setting(
    *("ann+x@example.test", "Ann", "smtp.example.test", "imap.example.test", "/opt/cms/bin/cms-oauth"),
    login="ann",
    runtime="/run/ann",
)
# What a person still has to choose: a folder, a test's reader.
PLAIN = Setting("user@domain.com", "User Name", "smtp.office365.com", "outlook.office365.com")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.name}-{tool.file}")
def test_a_fragment_is_the_file_that_the_tests_run(tool: Tool) -> None:
    """With the examples' names it is contrib's file, apart from a second account, or it names that file."""
    assert (ROOT / "docs" / "clients" / f"{tool.page}.md").exists()
    text, file = fragment(tool, PLAIN), (ROOT / "contrib" / tool.file).read_text()
    if not tool.text:
        paragraphs = [each for each in file.split("\n\n") if "shared@domain.com" not in each and "gmail" not in each]
        assert "\n\n".join(paragraphs).strip() == text.strip()


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.name}-{tool.file}")
def test_a_fragment_is_ready(tool: Tool) -> None:
    """No word of the examples is left in what is to be copied."""
    text = fragment(tool, SETTING, lambda _program: tool.least)

    words = ("domain.com", "User Name", "office365.com", "alice", "bob", "/run/user/1000", "CONTRIB", "ADJUSTED")
    assert not [word for word in words if word in text]
    assert "ann+x@example.test" in text or "ann%2Bx%40example.test" in text


@pytest.mark.parametrize("name", ["exim", "Postfix"])
def test_a_relay_that_exists_keeps_its_configuration(name: str) -> None:
    """Before the command that replaces it, the page for relays is named, which adds to it."""
    before, _, _ = fragment(of(name), SETTING).partition("cp ")

    assert f"If {name} takes mail from other machines already, keep its configuration: docs/relays.md." in before


def of(name: str) -> Tool:
    (tool,) = [each for each in TOOLS if each.name == name]
    return tool


def meant(text: str) -> set[str]:
    """Return the lines of a file that are no comments, without what a second account adds to them."""
    lines = (re.sub(r"(, |:)shared@domain\.com", "", line) for line in text.split("\n"))
    return {line for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("name", ["exim", "Postfix"])
def test_what_is_to_adjust_is_the_files(name: str) -> None:
    """Each line that is adjusted is one of contrib's, for one login; what is copied is a file that is there."""
    text = fragment(of(name), PLAIN)
    _, _, adjusted = text.partition("that may send")
    lines = {line for line in adjusted.partition("\n\n")[2].split("\n") if line}
    top = contrib(of(name).file).partition("# ---- Adjust nothing")[0]

    assert {line for line in meant(top) if not re.match(r"\s+(\{ )?bob\b", line)} == lines
    assert all(Path(path).is_file() for path in re.findall(r"(?:cp|cat) (\S+)", text))


@pytest.mark.parametrize("name", ["exim", "Postfix"])
def test_root_has_one_line(name: str) -> None:
    """Who is root is in the example already, and is there once."""
    text = fragment(of(name), replace(PLAIN, login="root"))

    assert (1, 0) == (len(re.findall(r"^ +(?:\{ )?root += .*user@domain.com", text, re.MULTILINE)), text.count("alice"))


def test_what_cms_is_told_is_the_pages() -> None:
    """The lines for cms's own configuration are those that the tests of the pages run."""

    def line(name: str) -> str:
        (found,) = re.findall(r"^    (\w+\(.*\))$", fragment(of(name), PLAIN, lambda _program: 7), re.MULTILINE)
        return str(found)

    def one(text: str) -> str:
        return re.sub(r"accounts=\[.*?\]", "accounts=[account]", text)

    assert one(shown("exim", "users")).strip() == line("exim")
    assert one(shown("postfix", "table")).strip() == line("Postfix")
    assert line("imapsync") == line("fetchmail")
    assert line("imapsync") in contrib("token-file.cfg").split("\n")


def test_command_lines_are_the_pages() -> None:
    """imapsync's and fetchmail's words stand on their pages; Emacs' are the block that the tests run."""
    said = " ".join(page("imapsync").split())
    (command,) = re.findall(r"^    imapsync (.*)$", fragment(of("imapsync"), PLAIN), re.MULTILINE)

    assert f"`{command}`" in said
    words = fragment(of("fetchmail"), PLAIN, lambda _program: 7)
    for each in ("auth oauthbearer", 'passwordfile "/run/user/1000/cms/imap-token"', "sslmode wrapped", "sslcertck"):
        assert f"`{each}`" in page("fetchmail")
        assert each in words
    assert fragment(of("Emacs"), PLAIN).startswith(shown("emacs", "init"))


@pytest.mark.parametrize(
    ("says", "ready"),
    [
        ("This is fetchmail release 6.4.37+GSS", False),
        ("This is fetchmail release 7.0.0-alpha9+SSL", True),
        ("This is something else", False),
    ],
)
def test_a_release_that_cannot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, ready: bool) -> None:
    """By what the program says of itself; one that says nothing cannot."""
    program(tmp_path, "fetchmail", f"echo '{says}'; exit 11")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    text = fragment(of("fetchmail"), PLAIN)

    assert ready == ("poll outlook.office365.com" in text)
    assert ready != ("can log in with a token only from version 7" in text)


def test_a_program_that_cannot_be_asked() -> None:
    """Has no release."""
    assert 0 == mail_programs.release("/nowhere/fetchmail")


def test_each_file_of_contrib_is_shown_or_known() -> None:
    """A new file has a row, or this test names it with the reason why its program cannot be found."""
    others = {
        "davmail.properties": "for DavMail, which takes no token: it is for those whose administrator switched IMAP off",
        "graph-sendmail": "a program itself, for those whose administrator switched SMTP off",
        "postfix-master.cf": "goes with postfix-main.cf",
        "relay": "for an exim or a Postfix that relays already: an administrator adds it by hand",
        "sasl": "a plug-in to build, for Postfix",
        "send.py": "a Python program of one's own",
        "with-token.sh": "a shell script of one's own",
    }
    assert {path.name for path in (ROOT / "contrib").iterdir()} == {tool.file for tool in TOOLS} | set(others)


def test_a_tool_is_there_if_its_programs_are() -> None:
    """All of them, and none that makes another row the better one."""

    def names(*there: str) -> list[str]:
        return [each.file for each in found(lambda name: name if name in there else None)]

    git = "/usr/lib/git-core/git-send-email"
    assert [] == names()
    assert ["msmtp.conf", "gitconfig-msmtp"] == names("msmtp", git)
    assert ["gitconfig-credential"] == names(git)
    assert ["muttrc"] == names("mutt", "neomutt")


def test_the_files_come_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout they lie beside it; an installation has them inside, by the project's own word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"contrib": "cms/data/contrib", "systemd": "cms/data/systemd"} == included
    assert ROOT / "contrib" / "muttrc" == data("contrib/muttrc")

    (tmp_path / "data" / "contrib").mkdir(parents=True)
    (tmp_path / "data" / "contrib" / "muttrc").touch()
    monkeypatch.setattr(mail_programs, "__file__", str(tmp_path / "cli" / "init" / "mail_programs.py"))
    assert str(tmp_path / "data" / "contrib" / "muttrc") == os.fspath(data("contrib/muttrc"))
