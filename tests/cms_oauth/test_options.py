"""Every spelling of the options, and that both parsers agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth import dial, wire
from cms_oauth.fetch import Options
from cms_oauth.main import read_exactly
from cms_oauth.options import read, understand

# Values with everything that a parser could stumble over, the obvious ones often.
VALUES = st.sampled_from(["SMTP", "IMAP", "user@domain.com", "/run/cms.sock", *wire.FORMS]) | st.text(max_size=12)
NAMES = st.sampled_from(
    [
        *("--user", "--cms_sock", "--cms-sock", "--proto", "--output", "--no_newline", "--no-newline", "--rejected"),
        *(
            "--test-smtp",
            "--test_imap",
            "--test-pop",
            "--help",
            "--version",
            "-h",
            "--",
            "-",
            "--us",
            "--usér",
            "--cms-",
        ),
        *("-_user", "__user", "--_user", "---user", "--user_", "--no_newline_", "--cms__sock", "-user"),
    ]
)
ARGUMENTS = st.lists(
    st.one_of(NAMES, st.builds("{}={}".format, NAMES, VALUES), VALUES),
    max_size=6,
)
FAST = st.lists(
    st.one_of(
        st.builds(
            "{}={}".format, st.sampled_from(["--user", "--cms_sock", "--cms-sock", "--proto"]), st.text(min_size=1)
        ),
        st.builds("--output={}".format, st.sampled_from(wire.FORMS)),
        st.sampled_from(["--no_newline", "--no-newline", "--rejected"]),
    ),
    max_size=6,
    unique_by=lambda argument: argument.partition("=")[0].replace("-", "_"),
)


@given(st.one_of(ARGUMENTS, FAST))
def test_both_parsers_agree_on_all_that_the_fast_one_takes(arguments: list[str]) -> None:
    """Whatever is not left to argparse is read as argparse reads it."""
    fast = read_exactly(arguments)

    assert fast is None or fast == read(arguments)


@given(st.one_of(ARGUMENTS, FAST))
def test_what_is_understood_is_what_would_be_read(arguments: list[str]) -> None:
    """For a command that another program runs: the same options, or a refusal where this one would end."""
    understood, done = understand(arguments), read(arguments)

    assert understood == done if isinstance(done, Options) else isinstance(understood, dial.Failed)


def test_nothing_is_printed_for_another_program(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither help nor a mistake."""
    for arguments in (["--help"], ["--version"], ["--what"], ["--user"]):
        assert isinstance(understand(arguments), dial.Failed)

    assert ("", "") == capfd.readouterr()


@given(FAST)
def test_the_usual_forms_are_taken(arguments: list[str]) -> None:
    """The fast parser is no use if it leaves everything to argparse."""
    assert isinstance(read_exactly(arguments), Options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--user", "u"],
        ["--user="],
        ["--user"],
        ["--user=a", "--user=b"],
        ["--cms_sock=a", "--cms-sock=b"],
        ["--output=XOAUTH2"],
        ["--no_newline=yes"],
        ["--no_newline="],
        ["--test-smtp=host"],
        ["--help"],
        ["-_user=u"],
        ["__user=u"],
        ["u"],
        [""],
        ["--"],
        ["--output=token", "--version"],
    ],
)
def test_anything_unusual_is_left_to_argparse(arguments: list[str]) -> None:
    """Values in a second argument, empty ones, repeats, mistakes, tests and help."""
    assert read_exactly(arguments) is None


@pytest.mark.parametrize("reader", [read_exactly, read])
def test_cmss_own_command_line_is_read(reader: object) -> None:
    """Both spellings, and CMS's defaults: SMTP, xoauth2, with a newline."""
    assert callable(reader)

    assert Options() == reader([])
    assert Options(
        user="user@domain.com", socket="/run/cms.sock", protocol="IMAP", output="token", newline=False, rejected=True
    ) == reader(
        [
            "--user=user@domain.com",
            "--cms_sock=/run/cms.sock",
            "--proto=IMAP",
            "--output=token",
            "--no_newline",
            "--rejected",
        ]
    )
    assert Options(socket="/s", newline=False) == reader(["--cms-sock=/s", "--no-newline"])


def test_argparse_takes_values_as_separate_arguments() -> None:
    """A value may be a separate argument, as in every program that reads options."""
    assert Options(user="u", socket="/s") == read(["--user", "u", "--cms-sock", "/s"])


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_test_chooses_its_own_protocol(test: str) -> None:
    """A test ignores --proto and --output=token; with --output=json it prints its result as JSON."""
    expected = Options(user="u", protocol=test.upper(), test=test, host="host:1")
    as_json = Options(user="u", protocol=test.upper(), test=test, host="host:1", output="json")

    assert expected == read(["--user=u", f"--test-{test}=host:1", "--proto=GRAPH", "--output=token"])
    assert as_json == read(["--user=u", f"--test-{test}=host:1", "--output=json"])
    assert expected == read(["--user=u", f"--test_{test}", "host:1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--test-smtp=a", "--test-imap=b"], "one test at a time"),
        (["--test-smtp=a", "--rejected"], "--rejected prints a token"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--output=bogus"], "invalid choice: 'bogus'"),
        (["--user="], "the value is empty"),
        (["--test-smtp="], "the value is empty"),
        (["--user"], "expected one argument"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_mistake_is_one_line_and_ex_usage(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """No usage text of several lines, no traceback, nothing on stdout."""
    status = read(arguments)
    out, err = capfd.readouterr()

    assert 64 == status
    assert "" == out
    assert words in err
    assert err.startswith("cms-oauth: ")
    assert err.endswith("run: cms-oauth --help\n")
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("argument", "words"), [("--help", "--test-smtp"), ("-h", "--rejected"), ("--version", "cms-oauth ")]
)
def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str], argument: str, words: str) -> None:
    """On stdout, and the command has done its work."""
    assert 0 == read([argument])
    assert words in capsys.readouterr().out


def test_options_are_compared_by_what_they_ask() -> None:
    """Equal options are equal and hash alike; they are nothing else."""
    assert {Options(user="u")} == {Options(user="u"), Options(user="u")}
    assert Options(user="u") != Options()
    assert Options() != "Options()"
