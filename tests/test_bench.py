"""The bench works: its short form measures everything, and its arithmetic and its pictures are right. No time is a condition."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.programs import require_program
from support.reachable import Installation
from support.waiting import PATIENCE

from bench import figures, report
from bench.__main__ import CHAPTERS
from bench.chapters import fetch
from bench.ground import CMS
from bench.measure import Failed, Figures, Missing, Run, Section, Target
from bench.peers import ASYNCIO
from bench.programs import Tools, ask, loaded

ROOT = Path(__file__).parents[1]

# Where `make test` shows what was measured.
RESULTS = ROOT / "build" / "bench-short"

REPLY = b"x" * 2000


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    require_program("cc", "gcc")
    return Tools(tmp_path_factory.mktemp("tools"))


def section(*rounds: tuple[str, str, list[Figures]], targets: tuple[Target, ...] = ()) -> Section:
    return Section("A chapter", targets, {(who, case): found for who, case, found in rounds})


def test_the_short_form_measures_everything(installation: Installation) -> None:
    """Every chapter runs, nothing fails, and every target has a value, except for what is not on this machine."""
    require_program("cc", "gcc")
    command = [sys.executable, "-m", "bench", "--short", f"--installed={installation.folder}", f"--out={RESULTS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = (RESULTS / "RESULTS.md").read_text()

    assert 0 == done.returncode, done.stderr + done.stdout
    assert said in done.stdout
    assert len(CHAPTERS) + 1 == said.count("\n## ")
    assert "Failed: " not in said
    assert ("not measured" in said) == ("only root can ask as another user" in said)


def test_runs_take_turns() -> None:
    """Each round begins with another run, all have as many rounds, and the first one to warm up is not counted."""
    order = list[str]()

    def run(name: str) -> Run:
        def once() -> Figures:
            order.append(name)
            return {"wall": float(len(order))}

        return Run(name, "a case", once)

    found = section()
    found.take_turns([run("a"), run("b"), run("c")], 3, warm_up=True)

    assert "cab abc bca cab" == " ".join("".join(order[at : at + 3]) for at in range(0, 12, 3))
    assert [3, 3, 3] == [len(rounds) for rounds in found.rounds.values()]
    assert [4.0, 9.0, 11.0] == found.values(("a", "a case", "wall"))


def test_a_run_that_fails_stops_no_other() -> None:
    """It is named, and left out from then on."""

    def fails() -> Figures:
        raise Failed("it has no token")

    found = section()
    found.take_turns([Run("bad", "a case", fails), Run("good", "a case", lambda: {"wall": 1.0})], 2)

    assert ["bad, a case: Failed: it has no token"] == found.faults
    assert [1.0, 1.0] == found.values(("good", "a case", "wall"))
    with pytest.raises(Missing):
        found.median(("bad", "a case", "wall"))


def test_a_target_is_a_ratio_of_medians() -> None:
    """Not the median of ratios, nor of means: one slow round of one of them says nothing. What is not met is marked."""
    target = Target("twice", (CMS, "a case", "wall"), (ASYNCIO, "a case", "wall"), at_most=2)
    found = section(
        (CMS, "a case", [{"wall": 3.0}, {"wall": 90.0}, {"wall": 2.0}]),
        (ASYNCIO, "a case", [{"wall": 1.0}, {"wall": 1.0}, {"wall": 7.0}]),
        targets=(target,),
    )

    assert 3.0 == target.value(found.median)
    assert [3.0, 90.0, 2.0 / 7.0] == found.singly(target)
    assert "| twice  | 3 x      | 0.286 to 90   | at most 2 | **no** |" in report.targets([found])


@pytest.mark.parametrize(
    ("target", "row"),
    [
        (Target("late", (CMS, "a case", "late"), None, 100), ["20 latest line, ms", "", "at most 100", "yes"]),
        (Target("slow", (CMS, "a case", "rate"), None, at_least=500), ["400 requests/s", "", "at least 500", "**no**"]),
        (
            Target("late once", (CMS, "a case", "lost"), None, 0, always=True),
            ["0 lost lines", "0 to 1", "always at most 0", "**no**"],
        ),
        (
            Target("never late", (CMS, "a case", "lost"), None, 1, always=True),
            ["0 lost lines", "0 to 1", "always at most 1", "yes"],
        ),
        (Target("told only", (CMS, "a case", "rate")), ["400 requests/s", "", "", ""]),
        (Target("missing", (CMS, "another", "rate"), None, 1), ["not measured", "", "at most 1", ""]),
    ],
    ids=lambda value: value.what if isinstance(value, Target) else "",
)
def test_absolute_targets(target: Target, row: list[str]) -> None:
    """Figures without a neighbour are shown in their unit, and so are their limits. What has to hold always holds in each round."""
    rounds: list[Figures] = [{"late": 0.02, "rate": 400.0, "lost": 0.0}, {"lost": 1.0}, {"lost": 0.0}]
    found = section((CMS, "a case", rounds), targets=(target,))
    *_, shown = report.targets([found]).splitlines()

    assert [target.what, *row] == [word.strip() for word in shown.strip("|").split("|")]


def test_an_older_revision_is_compared() -> None:
    """More time is worse and more requests are better; what differs by little says nothing."""
    new: list[Figures] = [{"wall": 2.0, "rate": 30.0, "cpu": 1.0}, {"wall": 4.0, "rate": 60.0, "cpu": 2.1}]
    old: list[Figures] = [{"wall": 1.0, "rate": 10.0, "cpu": 1.0}, {"wall": 2.0, "rate": 20.0, "cpu": 2.0}]
    text, worse = report.comparison([section((CMS, "a case", new), (f"{CMS} abc", "a case", old))], CMS, f"{CMS} abc")
    verdicts = {line.split("|")[2].strip(): line.split("|")[6].strip() for line in text.splitlines()[2:]}

    assert {"time, ms": "worse", "requests/s": "better", "CPU, ms": ""} == verdicts
    assert 1 == worse


def test_pictures_are_whole() -> None:
    """They are SVG that parses, readable on dark pages too, with a bar and a value for each."""
    found = section(
        (fetch.BARE, fetch.PASS, [{"wall": 0.01}]),
        (CMS, fetch.FETCH, [{"wall": 0.011}]),
        ("<a&b>", fetch.FETCH, [{"wall": 0.07}]),
    )
    picture = figures.fetch(found)
    root = ET.fromstring(picture)

    assert 3 == len(root.findall("{*}rect"))
    assert ["10.0 ms, 1 x", "11.0 ms, 1.1 x", "70.0 ms, 7 x"] == [
        each.text for each in root.findall("{*}text[@class='value']")
    ]
    assert "prefers-color-scheme: dark" in picture
    with pytest.raises(Missing):
        figures.socket(found)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A server that notes requests; every third client is sent one byte too few."""
    path, asked = str(tmp_path / "sock"), list[bytes]()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(512)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, suppress(OSError):
                    asked.append(client.recv(100))
                    client.sendall(REPLY[len(asked) % 3 == 0 :])

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("options", ["-c 1", "-c 8", "-c 8 -r 500"], ids=["one client", "eight", "at fixed times"])
def test_the_load_counts_what_it_was_answered(tools: Tools, server: tuple[str, list[bytes]], options: str) -> None:
    """Each request is counted once, as answered or as failed; those that are under way at the end are waited for."""
    path, asked = server
    load = tools.load(path, "SMTP a\n", f"{options} -t 0.2 -b {len(REPLY)}")
    said, _ = load.communicate(timeout=PATIENCE)
    *_, replies, failed = map(float, said.split())
    # The server takes one after the other: before this one it has seen all of the load's.
    ask(path, "the last\n")
    assert b"the last\n" == asked.pop()

    assert {b"SMTP a\n"} == set(asked)
    assert len(asked) == replies + failed
    assert len(asked) // 3 == failed


def test_a_request_may_be_each_clients_own(tools: Tools, server: tuple[str, list[bytes]]) -> None:
    """The number of the client stands for a mark, so that the server has to look at each."""
    path, asked = server
    tools.load(path, "SMTP,min=% a\n", "-c 12 -t 0.1 -b 0").communicate(timeout=PATIENCE)

    assert {b"SMTP,min=%d a\n" % number for number in range(12)} == set(asked)


@pytest.mark.parametrize("options", ["-c 8", "-c 8 -r 500"], ids=["closed loop", "at fixed times"])
def test_a_load_ends_where_nobody_listens(tools: Tools, tmp_path: Path, options: str) -> None:
    """A daemon may end under a load: the load still ends in time, and nothing counts as answered."""
    said, _ = tools.load(str(tmp_path / "sock"), "SMTP a\n", f"{options} -t 0.1").communicate(timeout=PATIENCE)
    *_, replies, failed = map(float, said.split())

    assert 0 == replies < failed


def test_a_load_with_failures_is_no_measurement(tools: Tools, server: tuple[str, list[bytes]]) -> None:
    """Wrong replies are fast, and must not look so."""
    with pytest.raises(Failed, match="were not"):
        loaded(tools.load(server[0], "SMTP a\n", f"-c 1 -t 0.2 -b {len(REPLY) + 1}"))


def test_a_command_that_fails_is_no_measurement(tools: Tools) -> None:
    """Of one command the status has to be the wanted one; of many, those are counted that have another."""
    assert {"wall", "cpu", "memory"} == tools.once(["sh", "-c", "exit 3"], {}, status=3).keys()
    assert 4 == tools.once(["sh", "-c", "exit 3"], {}, copies=4)["failures"]
    with pytest.raises(Failed, match="ended with"):
        tools.once(["sh", "-c", "exit 3"], {})
