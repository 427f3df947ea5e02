"""Networks as companies have them, and containers as they are: the real daemon, from the sign-in to a refresh."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.contrib import ROOT
from support.daemon import Daemon, account_line
from support.evidence import keep_secret
from support.fragments import blocks
from support.proxy import Proxy, proxies
from support.reachable import ALICE, Installation, open_folder
from support.waiting import until

from cms.sandbox.entra import Entra

USER = "user@company.test"
PASSWORD = "pass: wörd/@1"


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """An ordinary user's daemon, not configured yet."""
    entra.add_user(USER)
    return make_daemon(ALICE)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with proxies() as running:
        yield running


def configure(broker: Daemon, entra: Entra, more: str, key: str = 'Vault(key=File("{path}"))\n') -> None:
    broker.configure(
        f"{key.format(path=broker.key)}{account_line('account', USER, entra)}"
        f'CredentialServer("{broker.sockets}/cms.sock", accounts=[account], protocols=["SMTP"])\n{more}'
    )


def token(broker: Daemon) -> str:
    done = broker.token(broker.sockets / "cms.sock", USER, "--output=token")
    return done.stdout.strip()


def status(broker: Daemon) -> str:
    return broker.cms("status").stdout


def restart(broker: Daemon, environment: Mapping[str, str]) -> None:
    """Restart without a token, so that Entra is asked for one."""
    broker.stop()
    broker.forget_tokens()
    broker.start(**environment)


def company_ca(proxy: Proxy, entra: Entra, folder: Path) -> Path:
    """Make the proxy intercept TLS; return the file with its CA certificate, which every user may read."""
    proxy.inspector, proxy.upstream_ca = trustme.CA(), entra.ca_file
    path = folder / "company.pem"
    proxy.inspector.cert_pem.write_to_path(path)
    path.chmod(0o644)
    return path


def forwarded(proxy: Proxy) -> int:
    """Count the token requests that the proxy has seen."""
    return sum("/oauth2/v2.0/token" in each for each in proxy.seen)


def place(entra: Entra) -> str:
    return entra.authority.removeprefix("https://")


def test_a_proxy_with_a_password(broker: Daemon, entra: Entra, proxy: Proxy) -> None:
    """Sign-in and refresh go through it; while it refuses that is told, and mail tools get their token again after."""
    keep_secret(PASSWORD)
    proxy.user, proxy.password = "ann", PASSWORD
    secret = broker.home / "proxy.password"
    broker.run("sh", "-c", f'umask 077; cat > "{secret}"', stdin=PASSWORD)
    address = proxy.url.replace("http://", "http://ann@")
    configure(broker, entra, f'Tls(ca="{entra.ca_file}")\nProxy("{address}", password=File("{secret}"))\n')
    broker.start()

    broker.sign_in(USER, entra)
    until(lambda: token(broker), "the first token")
    assert {place(entra)} == set(proxy.tunnels)

    proxy.status = 503
    restart(broker, {})
    until(lambda: "the proxy does not let cms through" in status(broker), "the status to tell of the proxy")
    assert "" == token(broker)
    assert "ask the proxy's administrator to allow it" in status(broker)

    proxy.status = 0
    proxy.tunnels.clear()
    restart(broker, {})
    until(lambda: token(broker), "a token by way of the proxy")
    assert {place(entra)} == set(proxy.tunnels)


WAYS = {
    "directives": ('Tls(ca="{ca}")\nProxy("{proxy}")\n', {}),
    "usual variables": ("", {"HTTPS_PROXY": "{proxy}", "SSL_CERT_FILE": "{ca}"}),
    "variables of requests": ("", {"https_proxy": "{proxy}", "REQUESTS_CA_BUNDLE": "{ca}"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_looks_into_tls(broker: Daemon, entra: Entra, proxy: Proxy, way: str) -> None:
    """With the company's authority named, in the configuration or by a usual variable, all goes through it."""
    names = {"ca": str(company_ca(proxy, entra, broker.folder)), "proxy": proxy.url}
    lines, variables = WAYS[way]
    environment = {name: value.format(**names) for name, value in variables.items()}
    configure(broker, entra, lines.format(**names))
    broker.start(**environment)

    broker.sign_in(USER, entra)
    until(lambda: token(broker), "the first token")
    signed_in = len(proxy.seen)
    restart(broker, environment)
    until(lambda: token(broker), "a token by way of the proxy")

    assert signed_in < len(proxy.seen)
    until(lambda: entra.count("token") == forwarded(proxy), "Entra to have been asked by way of the proxy only")


def test_a_proxy_whose_authority_is_not_named(broker: Daemon, entra: Entra, proxy: Proxy) -> None:
    """Nothing is sent through a connection that cannot be trusted, and the message says what is missing."""
    company_ca(proxy, entra, broker.folder)
    configure(broker, entra, f'Tls(ca="{entra.ca_file}")\nProxy("{proxy.url}")\n')
    broker.start()

    done = broker.cms("login", "-c", str(broker.config), USER, "--paste")

    assert 1 == done.returncode
    assert "no trusted TLS connection" in done.stdout
    assert "Tls(ca=...)" in done.stdout
    assert [] == proxy.seen


def examined(broker: Daemon, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what `cms doctor` finds in an environment."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = ("doctor", "--json", "-c", str(broker.config))
    done = broker.run("env", *variables, broker.installation.command("cms"), *words)
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return findings


@pytest.mark.parametrize(
    ("variable", "mode", "why"),
    [
        ("REQUESTS_CA_BUNDLE", None, "does not exist"),
        ("CURL_CA_BUNDLE", 0o600, "cannot be read: Permission denied"),
        ("SSL_CERT_FILE", None, "does not exist"),
    ],
)
def test_a_variable_that_names_no_authorities(
    broker: Daemon, entra: Entra, variable: str, mode: int | None, why: str
) -> None:
    """The daemon's log and status, `cms login` and the doctor name it; nobody is told of a proxy that inspects TLS."""
    path = broker.folder / "company.pem"
    if mode is not None:
        path.write_bytes(Path(entra.ca_file).read_bytes())
        path.chmod(mode)
    configure(broker, entra, "")
    broker.start(**{variable: str(path)})

    said = f"{variable} names {path}, which {why}"
    login = broker.cms("login", "-c", str(broker.config), USER, "--paste").stdout
    assert said in login
    assert "proxy" not in login
    assert said in " ".join(status(broker).split())
    assert said in broker.log
    found = examined(broker, {variable: str(path)})
    assert [said] == [each["message"] for each in found if each["check"] == "environment"]
    assert any(said in each["message"] for each in found if each["check"] == "tls")


def test_the_doctor_goes_past_the_proxy_as_the_daemon_does(broker: Daemon, entra: Entra) -> None:
    """A host and port of NO_PROXY are reached without the proxy, which is not there, by both."""
    environment = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": f"example.com, {place(entra)}"}
    configure(broker, entra, f'Tls(ca="{entra.ca_file}")\n')
    broker.start(**environment)
    broker.sign_in(USER, entra)
    until(lambda: token(broker), "a token without the proxy")

    found = {each["check"]: each["level"] for each in examined(broker, environment)}
    assert ("pass", "pass", "pass") == (found["proxy"], found["tls"], found["token"])


def test_a_sign_in_without_a_daemon(broker: Daemon, entra: Entra, proxy: Proxy) -> None:
    """`cms login` goes the same way when it works alone."""
    configure(broker, entra, f'Tls(ca="{entra.ca_file}")\nProxy("{proxy.url}")\n')

    broker.sign_in(USER, entra)

    assert {place(entra)} == set(proxy.tunnels)


def shown(language: str) -> str:
    """Return what docs/operations.md shows for a container: the "dockerfile" or the "python" configuration."""
    page = blocks((ROOT / "docs" / "operations.md").read_text())
    (found,) = (each.text for each in page if each.mark == "test: container" and each.language == language)
    return found


class Container(Daemon):
    """A daemon as in a container: no systemd, D-Bus, home or user name for its uid; folders for state and sockets."""

    @property
    def environment(self) -> Mapping[str, str]:
        (variables,) = re.findall(r"^ENV (.*)$", shown("dockerfile"), re.MULTILINE)
        given = dict(each.split("=") for each in self.here(variables).split())
        return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **given}

    def here(self, text: str) -> str:
        """Return an example with this test's folders for the container's."""
        return text.replace("/var/lib/cms", str(self.home / "state")).replace("/run/cms", str(self.sockets))


@pytest.fixture
def container(installation: Installation, entra: Entra) -> Iterator[Container]:
    entra.add_user(USER)
    with open_folder("container") as folder:
        made = Container(installation, folder, ALICE)
        yield made
        if made.process:
            made.stop()


def test_a_container(container: Container, entra: Entra) -> None:
    """As the documentation has it, a sign-in is kept over a restart of the container, whose processes find each other."""
    text = container.here(shown("python"))
    account = re.search(r"^account = .*\n", text, re.MULTILINE)
    assert account
    sandbox = account_line("account", USER, entra) + f'Tls(ca="{entra.ca_file}")\n'
    container.configure(text.replace(account[0], sandbox))
    container.start()
    container.sign_in(USER, entra)

    container.restart()

    assert until(lambda: token(container), "the token after a restart")
    assert 0 == container.cms("refresh").returncode
    assert "MEMORY ONLY" not in status(container)
    assert list((container.home / "state").glob("*.vault"))


def test_a_container_without_a_key(container: Container, entra: Entra) -> None:
    """With neither keyring nor key file a sign-in is in memory only: log, status and sign-in say so, with the remedy."""
    configure(container, entra, f'Tls(ca="{entra.ca_file}")\n', key="")
    container.start()
    said = container.sign_in(USER, entra)

    until(lambda: token(container), "the first token")
    assert "kept in memory only" in said
    assert 'Vault(key=File("...")' in said
    assert "MEMORY ONLY" in status(container)
    until(lambda: "MEMORY ONLY" in container.log, "the log to tell where the sign-in is")
