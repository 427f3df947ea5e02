"""A real browser, Debian's chromium, without a window: driven by selenium, and as a user of the test's choice.

It reaches this machine only: no name but localhost resolves, and it sends no requests for its own purposes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from support import evidence
from support.programs import require_program
from support.reachable import bare_environment, become
from support.waiting import PATIENCE

# What the browser showed is kept here, for people; git ignores the folder.
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

_ARGUMENTS = (
    "--headless=new",
    # Containers do not let a process make namespaces, which chromium's own sandbox is made of. It shows our pages only.
    "--no-sandbox",
    # A container's /dev/shm has 64 MB, and chromium wants more.
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--window-size=1000,800",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


TAB, ENTER = Keys.TAB, Keys.ENTER

# axe-core comes with a package whose own code is for another driver: only its script is used.
_AXE = next(Path(str(each.locate())) for each in files("axe-playwright-python") or () if each.name == "axe.min.js")
_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
_ASK_AXE = "const done = arguments[1]; axe.run(document, arguments[0]).then((result) => done(result.violations))"


class Browser:
    """What a person does with a browser. Each step waits until the page shows it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._wait = WebDriverWait(driver, PATIENCE)
        # For a page that may replace what was just found in it.
        self._renewing = WebDriverWait(driver, PATIENCE, ignored_exceptions=[StaleElementReferenceException])

    def open(self, address: str) -> str:
        """Open an address; return what the page shows."""
        self._driver.get(address)
        return self.text

    @property
    def text(self) -> str:
        """What the page shows."""
        return self._find("body").text

    @property
    def source(self) -> str:
        """The page itself."""
        return self._driver.page_source

    @property
    def address(self) -> str:
        return self._driver.current_url

    def await_title(self, title: str) -> str:
        """Return what the page with this title shows, once the browser has come to it."""
        try:
            self._wait.until(lambda _driver: self._there(title), f"{title!r} is not the title")
        except TimeoutException as late:
            late.add_note(self.text)
            raise
        return self.text

    def press(self, name: str) -> None:
        """Press the button with this name: what a screen reader says, or what is on it."""
        found = f"//button[@aria-label='{name}' or normalize-space(.)='{name}']"

        def pressed(_driver: object) -> bool:
            self._find(found, By.XPATH).click()
            return True

        self._renewing.until(pressed, f"no button {name!r}")

    @property
    def buttons(self) -> list[str]:
        """The names of the page's buttons, as a screen reader says them."""
        # In one step: the page may renew itself between two.
        return str(
            self._run("return [...document.querySelectorAll('button')].map((each) => each.ariaLabel).join('\\n')")
        ).splitlines()

    @property
    def summary(self) -> str:
        """What the page says of itself in its status line."""
        return str(self._run("return document.getElementById('summary').innerText"))

    def type(self, keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self._driver).send_keys(keys).perform()

    @property
    def focused(self) -> str:
        """The name of what has the focus."""
        return str(self._run("return document.activeElement.ariaLabel"))

    @property
    def shows_focus(self) -> bool:
        """Whether what has the focus is outlined."""
        return "none" != self._run("return getComputedStyle(document.activeElement).outlineStyle")

    def look(self, look: str) -> None:
        """Have the page light or dark, as the system of its reader wishes, or light and as narrow as a telephone."""
        wish = {"name": "prefers-color-scheme", "value": "dark" if look == "dark" else "light"}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wish]})
        # As high as the page with two accounts, so that a picture of it has no scroll bar.
        width, height = (360, 900) if look == "narrow" else (1000, 800)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def without_scripts(self) -> None:
        """Switch scripts off for the pages that are opened from now on."""
        self._driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})

    def faults(self) -> list[str]:
        """Return what axe-core's rules of WCAG, levels A and AA, find in the page."""
        self._run(_AXE.read_text())
        found = self._driver.execute_async_script(_ASK_AXE, _RULES)
        return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]

    def choose(self, option: str) -> None:
        """Choose an entry of the page's list."""
        Select(self._find("select")).select_by_visible_text(option)

    def reload(self) -> str:
        """Load the page again; return what it shows."""
        self._driver.refresh()
        return self.text

    def keep(self, name: str) -> None:
        """Keep a picture of what the browser shows."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self._driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def _there(self, title: str) -> bool:
        """Whether the page with this title is here, all of it."""
        return title == self._driver.title and "complete" == self._driver.execute_script("return document.readyState")

    def _run(self, script: str) -> object:
        return self._driver.execute_script(script)

    def _find(self, what: str, by: str = By.TAG_NAME) -> WebElement:
        return self._driver.find_element(by, what)


@contextmanager
def browser(folder: Path, uid: int, certificate: Path) -> Iterator[Browser]:
    """Run a browser as this uid, which trusts one server's certificate; `folder` must be enterable by all."""
    home = folder / "browser"
    home.mkdir(mode=0o700)
    os.chown(home, uid, uid)
    options = webdriver.ChromeOptions()
    # Named, so that selenium looks for no browser and no driver, here or elsewhere.
    options.binary_location = require_program("chromium", "chromium")
    for each in (
        *_ARGUMENTS,
        f"--user-data-dir={home}/profile",
        f"--ignore-certificate-errors-spki-list={_pin(certificate)}",
    ):
        options.add_argument(each)
    service = webdriver.ChromeService(
        str(_driver(folder, uid)),
        env=bare_environment(HOME=str(home), TMPDIR=str(home)),
        log_output=str(home / "driver.log"),
    )
    driver = webdriver.Chrome(options, service)
    try:
        driver.set_page_load_timeout(PATIENCE)
        yield Browser(driver)
        evidence.keep("output", driver.page_source)
    finally:
        driver.quit()


def _driver(folder: Path, uid: int) -> Path:
    """Write a program that is the driver, as this uid."""
    driver = require_program("chromedriver", "chromium-driver")
    command = become(uid, [driver]) if uid != os.geteuid() else [driver]
    path = folder / "driver"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return path


def _pin(certificate: Path) -> str:
    """Return what chromium calls a certificate: the hash of its public key."""
    blocks = certificate.read_bytes()
    begin = blocks.index(b"-----BEGIN CERTIFICATE-----")
    key = load_pem_x509_certificate(blocks[begin:]).public_key()
    digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return base64.b64encode(digest).decode()
