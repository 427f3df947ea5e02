"""contrib/sasl: the plug-in under libsasl2 itself, built with sanitizers, asked in each way that programs ask."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.programs import require_program
from support.waiting import PATIENCE

SANITIZERS = "-g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"

USER, TOKEN = "o'connor+1@domain.com", "eyJ0.secret-token"
RESPONSE = f"user={USER}\x01auth=Bearer {TOKEN}\x01\x01".encode().hex()

# libsasl2's results: what comes next, all is done, and a prompt without an answer.
CONTINUE, OK, BAD_PARAMETER = 1, 0, -7


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in, and a client that loads it."""
    for program in ("make", "gcc"):
        require_program(program, program)
    folder = tmp_path_factory.mktemp("sasl")
    shutil.copytree(ROOT / "contrib" / "sasl", folder, dirs_exist_ok=True)
    for command in (
        ["make", "-C", str(folder), "CC=gcc", f"CFLAGS={SANITIZERS}"],
        [
            "gcc",
            *SANITIZERS.split(),
            "-o",
            str(folder / "client"),
            str(ROOT / "tests" / "sasl" / "client.c"),
            "-lsasl2",
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("callbacks", f"{CONTINUE} 0 {RESPONSE} {OK}"),
        ("prompts", f"{CONTINUE} 2 {RESPONSE} {OK}"),
        ("silent", f"{BAD_PARAMETER} 2 "),
    ],
)
def test_it_answers_in_each_way_that_programs_ask(built: Path, way: str, expected: str) -> None:
    """Postfix gives user and token, mbsync is asked for them; a program without an answer gets an error, and no crash."""
    command = [str(built / "client"), str(built), way, USER, TOKEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (0, expected, "") == (done.returncode, done.stdout.rstrip("\n"), done.stderr)


def test_make_install_puts_it_where_libsasl2_looks(built: Path, tmp_path: Path) -> None:
    """In the folder of the machine's libsasl2, which differs by processor; and `make uninstall` takes it away."""
    (folder,) = {path.parent for path in Path("/usr/lib").glob("*/sasl2/lib*.so")}
    for verb, there in (("install", True), ("uninstall", False)):
        command = ["make", "-C", str(built), "CC=gcc", f"DESTDIR={tmp_path}", verb]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

        assert (0, there) == (done.returncode, (tmp_path / str(folder).lstrip("/") / "libxoauth2.so").exists())
