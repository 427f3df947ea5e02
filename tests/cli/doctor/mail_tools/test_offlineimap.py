"""offlineimap's file is read with its interpolation, and its Python expressions and functions without running them."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine

from cms.cli.doctor.mail_tools.found import Use
from cms.cli.doctor.mail_tools.offlineimap import uses

HEAD = "[general]\naccounts = w\n[Repository far]\ntype = IMAP\nauth_mechanisms = XOAUTH2\n"


def read(text: str, **files: str) -> list[Use]:
    return list(uses(machine({".offlineimaprc": text, **files})))


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ('__import__("os").popen("cms-oauth --user=u@x").read() or None', "--user=u@x"),
        ('os.popen("cms-oauth --user=u%%40x # c").read()', "--user=u%40x"),
        ('subprocess.check_output(["cms-oauth", "--user=u@x"]).strip()', "--user=u@x"),
        ('check_output("cms-oauth --user=u@x".split())', ""),
        ('(os.popen("cms-oauth --user=u@x")\n   .read())', "--user=u@x"),
        ('token("u@x")', "--user=…"),
    ],
)
def test_an_expression_that_asks(expression: str, words: str) -> None:
    """A command line, a list of words, or a function of the file that `pythonfile` names."""
    python = 'import os\ndef token(user):\n    return os.popen(f"cms-oauth --user={user}").read()\n'
    text = HEAD.replace("accounts", "pythonfile = ~/.oi.py\naccounts") + f"oauth2_access_token_eval = {expression}\n"
    found = read(text, **{".oi.py": python})

    assert [words] == [each for _, each in commands(found)] or (words == "" and [] == commands(found))
    assert [] == faults(found)


@pytest.mark.parametrize(
    "python",
    [
        "from cms_oauth import token\n\ndef get(user):\n    return token('u@x')\n",
        "import os\nget = lambda u: os.popen('cms-oauth --user=u@x')\n",
        "import os\nC = 'cms-oauth --user=u@x'\ndef get(u):\n    return os.popen(C).read()\n",
        "def _run():\n    return run(['cms-oauth', '--user=u@x'])\nclass X:\n    o = _run\ndef get(u):\n    return X.o()\n",
    ],
)
def test_what_a_function_uses(python: str) -> None:
    """The library, names of the module, and other functions; what it does not use is not asked."""
    text = HEAD.replace("accounts", "pythonfile = ~/.oi.py\naccounts") + "oauth2_access_token_eval = get('u@x')\n"
    other = "def another():\n    return run(['cms-oauth', '--user=no@x'])\n"

    assert {"--user=u@x"} == {each for _, each in commands(read(text, **{".oi.py": python + other}))}


def test_a_pythonfile_that_is_not_there_or_broken() -> None:
    """It asks nothing; offlineimap itself complains."""
    text = "[general]\npythonfile = ~/.oi.py\n[Repository far]\noauth2_access_token_eval = token()\n"

    assert [] == read(text)
    assert [] == read(text, **{".oi.py": "def token(:"})


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        ('oauth2_access_token_eval = os.popen("cms-oauth").read()', []),
        (
            'remotepasseval = os.popen("cms-oauth").read()\noauth2_access_token_eval = %(remotepasseval)s',
            [],
        ),
        (
            'remotepasseval = os.popen("cms-oauth").read()',
            ["remotepasseval gives a password, and offlineimap logs in with it as with a password"],
        ),
    ],
)
def test_what_can_never_log_in(text: str, causes: list[str]) -> None:
    """A token as a password."""
    assert causes == [each for _, each in faults(read(f"{HEAD}{text}\n"))]


def test_mechanisms() -> None:
    """The default has XOAUTH2; a comment at the end of a line is part of the value."""
    command = 'oauth2_access_token_eval = os.popen("cms-oauth").read()\n'
    for mechanisms, good in (("GSSAPI, XOAUTH2", True), ("PLAIN", False), ("XOAUTH2 ; c", False)):
        found = read(HEAD.replace("XOAUTH2", mechanisms) + command)
        assert good is ([] == faults(found))
    assert [] == faults(read("[Repository far]\n" + command))


def test_a_file_that_offlineimap_refuses() -> None:
    """A single percent sign, for example. It matters if it is about cms."""
    text = f'{HEAD}oauth2_access_token_eval = os.popen("cms-oauth --user=u%x").read()\n'
    said = "the value of oauth2_access_token_eval has a percent sign that is not doubled"

    assert [(0, f"offlineimap refuses the file: {said}")] == faults(read(text))
    assert [(0, "offlineimap refuses the file: line 1 stands before the first section")] == faults(read("cms-oauth\n"))
    assert [] == read("no section\n")


def test_other_expressions_are_nobodys_business() -> None:
    """Whatever their form, and in a section that is no repository."""
    assert [] == read(
        f"{HEAD}remotepasseval = get_pass('x')\n[mbnames]\noauth2_access_token_eval = os.popen('cms-oauth')\n"
    )
