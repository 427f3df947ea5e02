"""What mail programs need: the files of contrib/, with the user's words in them."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.fragments import shown

from cms import fragments
from cms.fragments import TOOLS, Setting, Tool, data, found, fragment

SETTING = Setting("ann+x@example.test", "Ann", "smtp.example.test", "imap.example.test", "/opt/cms/bin/cms-oauth")
# What a person still has to choose: a folder, a test's reader.
PLAIN = Setting("user@domain.com", "User Name", "smtp.office365.com", "outlook.office365.com")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: f"{tool.name}-{tool.file}")
def test_a_fragment_is_the_file_that_the_tests_run(tool: Tool) -> None:
    """With the examples' own words it is contrib's file, or the page's block, but for a second account."""
    assert (ROOT / "docs" / "clients" / f"{tool.page}.md").exists()
    text, file = fragment(tool, PLAIN), (ROOT / "contrib" / tool.file).read_text()
    if not tool.whole:
        assert f"contrib/{tool.file}" in text
    elif tool.text:
        assert text.startswith(shown("emacs", "init"))
    else:
        paragraphs = [each for each in file.split("\n\n") if "shared@domain.com" not in each]
        assert "\n\n".join(paragraphs) == text


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.whole], ids=lambda tool: f"{tool.name}-{tool.file}")
def test_a_fragment_is_ready(tool: Tool) -> None:
    """No word of the examples is left in what is to be copied."""
    text = fragment(tool, SETTING)

    assert not [word for word in ("domain.com", "User Name", "office365.com") if word in text]
    assert "ann+x@example.test" in text or "ann%2Bx%40example.test" in text


def test_each_file_of_contrib_is_shown_or_known() -> None:
    """A new one has a row, or is named here with the reason why nobody can find its program."""
    others = {
        "postfix-master.cf": "goes with postfix-main.cf",
        "send.py": "a Python program of one's own",
        "token-file.cfg": "cms's own configuration",
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
    monkeypatch.setattr(fragments, "__file__", str(tmp_path / "fragments.py"))
    assert str(tmp_path / "data" / "contrib" / "muttrc") == os.fspath(data("contrib/muttrc"))
