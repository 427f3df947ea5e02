"""What cms says about the libraries that it brings: `make test-package`, which downloads them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SBOM = ROOT / "build/sbom.json"


def _locked() -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_the_sbom_names_each_installed_library_with_its_licence_twice_alike() -> None:
    """`make sbom` names in CycloneDX each library that is locked and installed here, with a licence, and cms itself."""
    subprocess.run(["make", "--silent", "sbom"], cwd=ROOT, check=True)
    first = SBOM.read_bytes()
    components = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each for each in json.loads(first)["components"]}
    assert {"cms-oauth", "cms-oauth-client", "msal", "trio", "cryptography"} <= components.keys()
    assert components.keys() - {"cms-oauth", "cms-oauth-client", "pip", "setuptools"} <= _locked()
    assert not [name for name, each in components.items() if not each.get("licenses")]
    subprocess.run(["make", "--silent", "sbom"], cwd=ROOT, check=True)
    assert SBOM.read_bytes() == first


def test_the_audit_finds_nothing_or_says_that_it_could_not_look() -> None:
    """`make audit` fails if a locked library has a known vulnerability; with no database in reach it says so, and passes."""
    done = subprocess.run(["make", "--silent", "audit"], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"vulns": []' in done.stdout or "Nothing was audited" in done.stderr
