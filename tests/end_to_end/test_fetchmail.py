"""docs/clients/fetchmail.md: what the packaged fetchmail says of OAuth."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.fragments import page, shown
from support.programs import require_program
from support.reachable import bare_environment

REFUSED = "Invalid authentication `oauthbearer' specified."
REFUSED_IN_FILE = "syntax error at oauthbearer"


def run(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    require_program("fetchmail", "fetchmail")
    environment = bare_environment(HOME=str(home))
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)


def test_version_6_refuses_a_token(tmp_path: Path) -> None:
    """The page's test tells one that cannot, in the words that the page has; one that can shows its version."""
    done = run(shown("fetchmail", "test"), tmp_path)

    if done.returncode:
        assert REFUSED in done.stderr
        assert f"``{REFUSED}``" in page("fetchmail")
    else:
        assert "This is fetchmail release 7" in done.stdout


def test_version_6_refuses_the_file(tmp_path: Path) -> None:
    """The same with a line in its own file."""
    file = tmp_path / "fetchmailrc"
    file.write_text('poll localhost protocol imap auth oauthbearer user "user@domain.com"\n')
    file.chmod(0o600)

    done = run(f"fetchmail --version --fetchmailrc {file}", tmp_path)

    if done.returncode:
        # A newer Bison says more between the two.
        assert "syntax error" in done.stderr
        assert "at oauthbearer" in done.stderr
        assert f"`{REFUSED_IN_FILE}`" in page("fetchmail")
    else:
        assert "This is fetchmail release 7" in done.stdout
