"""debian/ agrees with the rest of the project. `make test-package` builds the packages and has them live."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cms.cli.init import systemd_units
from cms.cli.init.systemd_units import CREDENTIAL_DROP_IN, EXIM_DROP_IN
from cms_oauth.version import VERSION

ROOT = Path(__file__).parents[1]
DEBIAN = ROOT / "debian"
RULES = (DEBIAN / "rules").read_text()
PROJECTS = {
    name: tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    for name, folder in {"cms-oauth": ".", "cms-oauth-client": "client"}.items()
}


def fields(package: str) -> dict[str, str]:
    """Return the fields of a package in debian/control."""
    (found,) = re.findall(rf"^Package: {package}\n(.*?)(?=^\n|\Z)", control(), re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^(\S+): (.*)$", found, re.MULTILINE))


def control() -> str:
    return (DEBIAN / "control").read_text()


def test_the_version_is_the_projects() -> None:
    """The newest entry of debian/changelog has it."""
    assert (DEBIAN / "changelog").read_text().startswith(f"cms-oauth ({VERSION}) ")


def test_the_packages_are_the_distributions() -> None:
    """One for each, which need what those need: the client Python only, the other the client at the same version.

    The SASL plug-in, which is no Python, is a third.
    """
    assert sorted([*PROJECTS, "cms-oauth-sasl"]) == sorted(re.findall(r"^Package: (\S+)$", control(), re.MULTILINE))
    python = PROJECTS["cms-oauth-client"]["requires-python"]
    assert f"${{misc:Depends}}, python3 ({python[:2]} {python[2:]})" == fields("cms-oauth-client")["Depends"]
    assert "cms-oauth-client (= ${source:Version})" in fields("cms-oauth")["Depends"].split(", ")


def test_each_command_is_in_its_package() -> None:
    """The commands of the distributions, each with the module that it starts."""
    client = dict(re.findall(r"\b(cms-oauth|git-credential-cms):(\w+)", RULES))

    assert {name: f"cms_oauth.{module}:main" for name, module in client.items()} == PROJECTS["cms-oauth-client"][
        "scripts"
    ]
    assert ["cms"] == list(PROJECTS["cms-oauth"]["scripts"])
    assert "ln -s ../lib/cms/bin/cms $(CMS)/usr/bin/cms\n" in RULES


@pytest.mark.parametrize("kind", ["system", "user"])
def test_the_units_start_the_packages_command(kind: str) -> None:
    """The build replaces the one that the unit has in the source."""
    unit = (ROOT / "systemd" / kind / "cms.service").read_text()
    (script,) = re.findall(r"sed -i ('s,\^.*Exec.*,') ", RULES)

    packaged = subprocess.run(["sed", script.strip("'")], input=unit, capture_output=True, text=True, check=True).stdout
    assert ["Start=/usr/bin/cms run", "Reload=/usr/bin/cms reload"] == re.findall(r"^Exec(.*)$", packaged, re.MULTILINE)
    assert f"systemd/{kind}" in RULES


@pytest.mark.parametrize(
    "listing", sorted(DEBIAN.glob("*.docs")) + sorted(DEBIAN.glob("*.examples")), ids=lambda path: path.name
)
def test_what_is_listed_is_there(listing: Path) -> None:
    """Each pattern stands for files of the project."""
    patterns = listing.read_text().split()

    assert patterns
    assert [] == [each for each in patterns if not list(ROOT.glob(each))]


def test_the_files_beside_the_units_are_those_of_the_source() -> None:
    """The package has no copies that could differ."""
    for kind in ("sysusers", "tmpfiles", "logrotate"):
        assert (ROOT / "systemd" / "system" / f"{kind}.conf").samefile(DEBIAN / f"cms-oauth.{kind}")


def test_the_scripts_of_the_maintainer() -> None:
    """Each is a script for sh that ends at an error, and has what debhelper adds."""
    scripts = [each for name in ("postinst", "prerm", "postrm") for each in DEBIAN.glob(f"*.{name}")]

    assert scripts
    for script in scripts:
        assert script.read_text().startswith("#!/bin/sh\nset -e\n"), script
        assert "\n#DEBHELPER#\n" in script.read_text(), script
        assert 0 == subprocess.run(["sh", "-n", script], check=False).returncode, script


def test_a_purge_deletes_what_init_wrote() -> None:
    """The key, the drop-ins, the configuration and the sign-ins: all is named in the script that deletes it."""
    script = (DEBIAN / "cms-oauth.postrm").read_text()

    assert f"rm -f {systemd_units.CREDENTIAL_FILE}\n" in script
    assert f"in {CREDENTIAL_DROP_IN} {EXIM_DROP_IN};" in script
    assert {"/etc/cms", "/var/lib/cms", "/var/log/cms"} < set(re.findall(r"\S+", script))
    # README.Debian says it to people.
    said = (DEBIAN / "cms-oauth.README.Debian").read_text()
    for place in ("/etc/cms", "/var/lib/cms", "/var/log/cms", systemd_units.CREDENTIAL_FILE):
        assert place in said
