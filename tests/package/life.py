"""The Debian packages, from the build to the purge, each step in a clean Debian: `make test-package`, as root.

Not part of `make test`: it downloads packages, and takes minutes. tests/test_package.py has what can be seen at once.
`PACKAGES=FOLDER` in the environment: these packages instead of new ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import evidence
from support.clean_root import CleanRoot, clean_root
from support.waiting import until

from cms.sandbox import stage
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
USER = "ann@example.test"

# A version that comes after.
LATER = "9999"

# What lintian would find in every package that is built here and in no archive.
_NOT_FOR_AN_ARCHIVE = "initial-upload-closes-no-bugs,bad-distribution-in-changes-file,unreleased-changes"

_BUILD = f"""
apt-get update --quiet=2
cp -r /srv/source /root/source
cd /root/source
apt-get build-dep --yes --quiet=2 --no-install-recommends ./ >/dev/null
dpkg-buildpackage --no-sign --build=binary
cp ../*.deb /srv
apt-get install --yes --quiet=2 --no-install-recommends lintian >/dev/null
lintian --allow-root --fail-on error,warning --suppress-tags {_NOT_FOR_AN_ARCHIVE} /root/*.changes
"""

# The same packages, with another number.
_LATER = f"""
apt-get install --yes --quiet=2 --no-install-recommends dpkg-dev >/dev/null
mkdir /srv/later
for deb in /srv/*.deb; do
    dpkg-deb --raw-extract "$deb" /tmp/extracted
    version=$(sed -n 's/^Version: //p' /tmp/extracted/DEBIAN/control)
    sed -i "s/^Version: .*/Version: {LATER}/; s/(= $version)/(= {LATER})/" /tmp/extracted/DEBIAN/control
    dpkg-deb -Znone --build /tmp/extracted /srv/later
    rm -r /tmp/extracted
done
"""

_INSTALL = "apt-get install --yes --quiet=2 --no-install-recommends"

# Words that a maintainer's script, or a tool that it calls, prints where something is wrong.
_WRONG = re.compile(r"error|fail|warning|invoke-rc\.d|traceback|cannot|No such", re.IGNORECASE)
# apt says this of files that it has from a folder.
_FOLDERS = re.compile(r".*(_apt|debconf: |unpackaged|delaying package configuration).*\n")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, built from this checkout."""
    folder = tmp_path_factory.mktemp("packages")
    with clean_root(SUITE) as root:
        if built := os.environ.get("PACKAGES"):
            for each in Path(built).glob("*.deb"):
                shutil.copy(each, root.share)
            root.run("apt-get update --quiet=2")
        else:
            copy_checkout(root.share / "source")
            root.run(_BUILD)
        root.run(_LATER)
        shutil.copytree(root.share, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("source"))
    return folder


def copy_checkout(target: Path) -> None:
    """Copy what git would commit."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and os.path.lexists(ROOT / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


@pytest.fixture
def root(packages: Path) -> Iterator[CleanRoot]:
    """A clean Debian that has the packages at /srv."""
    with clean_root(SUITE) as opened:
        shutil.copytree(packages, opened.share, dirs_exist_ok=True)
        opened.run("apt-get update --quiet=2")
        yield opened


def change(root: CleanRoot, command: str) -> None:
    """Have apt or dpkg change what is installed, without a complaint of anybody's."""
    printed = _FOLDERS.sub("", root.run(command))

    assert not _WRONG.search(printed), printed


def test_the_client_needs_python_only(root: CleanRoot) -> None:
    """Alone it is installed with Debian's Python, works, and leaves nothing behind."""
    root.run(f"{_INSTALL} python3 >/dev/null")
    before = root.run("dpkg-query --show")
    change(root, f"{_INSTALL} /srv/cms-oauth-client_*.deb")

    assert ["cms-oauth-client"] == [
        line.split()[0] for line in root.run("dpkg-query --show").splitlines() if line not in before.splitlines()
    ]
    assert "--user" in root.run("cms-oauth --help")
    root.run("cms-oauth --user=a@example.test", os.EX_UNAVAILABLE)
    root.run("echo | git-credential-cms get")
    root.run("python3 -I -c 'import cms_oauth'")
    change(root, "apt-get purge --yes --quiet=2 cms-oauth-client")
    assert before == root.run("dpkg-query --show")
    root.run("test ! -e /usr/lib/python3/dist-packages/cms_oauth -a ! -e /usr/bin/cms-oauth")


def test_the_sasl_plug_in(root: CleanRoot) -> None:
    """It needs libsasl2 only, which finds it: with its tool for that, the mechanism is among those of clients."""
    change(root, f"{_INSTALL} /srv/cms-oauth-sasl_*.deb")
    root.run(f"{_INSTALL} sasl2-bin >/dev/null")
    assert "XOAUTH2" in root.run("/usr/sbin/saslpluginviewer -c")
    change(root, "apt-get purge --yes --quiet=2 cms-oauth-sasl")
    root.run("test ! -e /usr/lib/*/sasl2/libxoauth2.so")


def test_a_life(root: CleanRoot, entra: Entra) -> None:
    """Installed, set up, signed in, asked, upgraded, removed, installed again and purged.

    Its ExecStart= line runs as its user, started by the first client. systemd does not run, and nothing fails for that.
    """
    entra.add_user(USER)
    change(root, f"{_INSTALL} /srv/cms-oauth_*.deb /srv/cms-oauth-client_*.deb")
    assert "755 cms" == root.run("stat --format '%a %U' /run/cms").strip()
    root.run("ls /usr/lib/cms/lib/python3*/site-packages/cms/__pycache__/main.*.pyc")
    root.run("test -s /etc/logrotate.d/cms-oauth")
    for page in ("man1/cms.1", "man1/cms-oauth.1", "man1/git-credential-cms.1", "man5/cms.cfg.5"):
        root.run(f"test -s /usr/share/man/{page}.gz")
    for command in ("cms", "cms-oauth"):
        root.run(
            f"test -s /usr/share/bash-completion/completions/{command} -a -s /usr/share/zsh/vendor-completions/_{command}"
        )
    assert "" == root.run("systemd-analyze verify --man=no cms.service cms.socket").strip()
    assert ["enabled"] * 2 == root.run("systemctl is-enabled cms.service cms.socket").split()
    assert stage.PASSED in root.run("cms demo")
    set_up(root, entra)

    start(root)
    assert "sign" in root.run(_ASK, os.EX_TEMPFAIL)
    sign_in(root, entra)
    serves(root, entra)

    change(root, f"{_INSTALL} /srv/later/cms-oauth_*.deb /srv/later/cms-oauth-client_*.deb")
    assert [LATER, LATER] == root.run(
        "dpkg-query --show --showformat '${Version}\n' cms-oauth cms-oauth-client"
    ).split()
    serves(root, entra)
    stop(root)
    start(root)
    serves(root, entra)
    stop(root)

    change(root, "apt-get remove --yes --quiet=2 cms-oauth cms-oauth-client")
    root.run("test -s /etc/cms/cms.cfg; ls /var/lib/cms/*.vault; test ! -e /usr/lib/cms")
    change(root, f"{_INSTALL} /srv/later/cms-oauth_*.deb /srv/later/cms-oauth-client_*.deb")
    start(root)
    serves(root, entra)
    stop(root)

    evidence.keep("output", (root.share / "daemon.log").read_text())
    root.run(f"rm -r {_CREDENTIALS}")
    change(root, "apt-get purge --yes --quiet=2 cms-oauth cms-oauth-client")
    for place in (
        "/etc/cms",
        "/etc/logrotate.d/cms-oauth",
        "/etc/credstore.encrypted/cms.key",
        "/usr/lib/cms",
        "/usr/share/doc/cms-oauth",
        "/run/cms",
    ):
        root.run(f"test ! -e {place}")
    root.run("getent passwd cms")
    assert "" == root.run("find / /run /tmp -xdev '(' -user cms -o -group cms ')'").strip()
    assert "" == root.run("dpkg-query --show --showformat '${Package}\n' | grep cms || true").strip()


_ASK = f"cms-oauth --user={USER} --proto=SMTP --output=token"
_CREDENTIALS = "/run/cms-credentials"
_AS_CMS = (
    "setpriv --reuid=cms --regid=cms --init-groups --no-new-privs --bounding-set=-all"
    " env --ignore-environment PATH=/usr/bin:/bin"
)


def set_up(root: CleanRoot, entra: Entra) -> None:
    """Write the configuration with `cms init --system`, and the key as a credential."""
    (root.share / "ca.pem").write_text(Path(entra.ca_file).read_text())
    root.run("install -m 0644 /srv/ca.pem /etc/sandbox.pem")
    said = root.run(
        f"cms init --system --offline --user {USER} --authority {entra.authority} --client-id {CLIENT_ID}"
        " --redirect-uri http://localhost/ --ca /etc/sandbox.pem"
    )
    steps = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert ["systemctl", "systemctl", "sudo"] == [each.split()[0] for each in steps], "the package has done the rest"

    root.run(
        "/usr/lib/cms/bin/python3 -I -c 'from cms.cli.init import systemd_units as units;"
        " assert not (why := units.make_credential()), why'\n"
        f"mkdir {_CREDENTIALS}\n"
        f"systemd-creds decrypt --name=cms.key /etc/credstore.encrypted/cms.key {_CREDENTIALS}/cms.key\n"
        f"chown -R cms:cms {_CREDENTIALS}\n"
        """sed -i 's,^Vault(.*,Vault(key=Credential("cms.key")),' /etc/cms/cms.cfg\n"""
        "cms check --config /etc/cms/cms.cfg"
    )


def start(root: CleanRoot) -> None:
    """Be systemd: hold the socket, and start what the unit says with its folders when a client comes."""
    (command,) = re.findall(r"^ExecStart=(.*)$", root.run("cat /usr/lib/systemd/system/cms.service"), re.MULTILINE)
    folders = ("STATE_DIRECTORY=/var/lib/cms", "RUNTIME_DIRECTORY=/run/cms", "CONFIGURATION_DIRECTORY=/etc/cms")
    variables = (*folders, f"CREDENTIALS_DIRECTORY={_CREDENTIALS}")
    known = " ".join(f"--setenv={each}" for each in variables)
    root.run(
        "install -d -o cms -g cms -m 0700 /var/lib/cms\n"
        f"setsid {_AS_CMS} systemd-socket-activate --listen=/run/cms/cms.sock --fdname=cms {known} {command}"
        " >>/srv/daemon.log 2>&1 &\n"
        "echo $! >/run/daemon.pid\n"
        "until test -S /run/cms/cms.sock; do sleep 0.1; done"
    )


def stop(root: CleanRoot) -> None:
    """Stop the daemon, and take its socket away, as systemd does when the package is removed."""
    root.run(
        "pid=$(cat /run/daemon.pid)\n"
        "kill $pid\n"
        "while kill -0 $pid 2>/dev/null; do sleep 0.1; done\n"
        "rm -f /run/cms/cms.sock"
    )


def sign_in(root: CleanRoot, entra: Entra) -> None:
    """Sign in as README.Debian and init say: as the user cms, by pasting an address."""
    said = root.share / "said"
    root.run(
        f"mkfifo /srv/typed\n{{ {_AS_CMS} cms login {USER} --paste >/srv/said 2>&1 </srv/typed; echo $? >/srv/status; }} &"
    )
    with (root.share / "typed").open("w") as typed:
        link = until(lambda: re.search(r"https://\S+/authorize\?\S+", said.read_text()), "a link to sign in with")
        assert link
        typed.write(f"{entra.sign_in(link[0], USER, follow=False).url}\n")
    until((root.share / "status").exists, "the end of the sign-in")
    assert "0" == until((root.share / "status").read_text, "its status").strip(), said.read_text()


def serves(root: CleanRoot, entra: Entra) -> None:
    """A request has a token that the provider knows."""
    # A daemon that has just started fetches its token first, and a client waits for seconds only.
    token = root.run(f"until {_ASK} 2>/dev/null; do sleep 0.2; done").strip()
    evidence.keep_secret(token)
    assert entra.introspect(token)["active"]
