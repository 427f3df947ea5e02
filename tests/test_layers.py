"""The packages as data: what each package may import, and which files know which library.

Parsed from the sources, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cms", "cms_oauth")

# The ladder, bottom to top. A package may import what its row names (a package there means all that is in it), itself,
# and what COMMON names.
LADDER: dict[str, tuple[str, ...]] = {
    "cms_oauth": (),
    "cms.core": (),
    "cms.system": ("cms.core",),
    "cms.config": ("cms.core", "cms.system"),
    "cms.grants": ("cms.core", "cms.system.files", "cms.system.threads"),
    "cms.daemon": ("cms.core", "cms.config", "cms.system", "cms.grants.messages"),
    "cms.sandbox": ("cms.core.accounts",),
    "cms.cli": (
        "cms.core",
        "cms.config",
        "cms.system",
        "cms.grants.messages",
        "cms.daemon",
        "cms.sandbox.stage",
    ),
    "cms.main": (
        *("cms.cli", "cms.daemon", "cms.config.child"),
        *("cms.system.logs", "cms.system.process", "cms.system.start"),
    ),
}
COMMON = ("cms_oauth",)

# Within a package, what must not know of what: a reader of the first needs none of the second.
STRANGERS = (
    ("cms.daemon.serving", "cms.daemon.signin"),
    ("cms.daemon.signin", "cms.daemon.serving"),
    *(("cms.daemon.registry", f"cms.daemon.{name}") for name in ("control", "signin", "serving", "commands")),
    ("cms.daemon.control", "cms.daemon.serving"),
    ("cms.grants.vault", "cms.grants.entra"),
    ("cms.grants.entra", "cms.grants.vault"),
    ("cms.grants.network", "cms.grants.entra"),
    ("cms.grants.network", "cms.grants.vault"),
    # What is Microsoft's alone is met in its folder only.
    *(
        (f"cms.grants.{name}", "cms.grants.entra")
        for name in ("service", "housekeeping", "providers", "credentials", "exchange", "oauth2")
    ),
    *(("cms.grants.oauth2", f"cms.grants.{name}") for name in ("vault", "service")),
    *((f"cms.grants.{name}", "cms.grants.oauth2") for name in ("entra", "network", "vault", "exchange", "service")),
)

# What a plain fetch of a token loads, and what it must never pay for.
FETCH = ("main", "fetch", "dial", "wire", "sasl", "paths", "expand", "impostor", "peer")
TOO_HEAVY = {"argparse", "json", "re", "typing", "dataclasses", "__future__", "errno", "binascii"}

# Files of the worker import this of cms/system and nothing that would bring trio or a log along.
PLAIN = ("cms.system.files", "cms.system.threads")

# Every third-party library, and the only files that know it; a package means all that is in it.
HOMES = {
    "msal": ("cms.grants.entra.exchange", "cms.grants.entra.machine"),
    "jwt": ("cms.grants.oauth2.jwts",),
    "requests": tuple(f"cms.grants.network.{name}" for name in ("http", "session", "trouble")),
    "urllib3": ("cms.grants.network.deadline", "cms.cli.doctor.probe_network"),
    "socks": ("cms.cli.doctor.probe_network",),
    "keyring": ("cms.grants.vault.keyring",),
    "secretstorage": ("cms.grants.vault.keyring",),
    "cryptography": (
        "cms.grants",
        "cms.sandbox.assertions",
        "cms.sandbox.proving",
        "cms.cli.doctor.probe_network",
    ),
    "certifi": ("cms_oauth.tls",),
    "structlog": ("cms.system.logs",),
    "h11": ("cms.daemon.signin.http",),
    "jeepney": ("cms.daemon.desktop",),
    "segno": ("cms.cli.login",),
    "dns": ("cms.cli.init.exchangers",),
    "platformdirs": ("cms_oauth.paths",),
    # Only `cms metrics`, and a daemon with `Metrics`, load it.
    "prometheus_client": ("cms.daemon.openmetrics",),
    # Only the grant worker, and only with `Fleet`.
    "psycopg": ("cms.grants.fleet.connection",),
    "click": ("cms.cli.commands", "cms.cli.terminal"),
    "trio": (
        *("cms.daemon", "cms.main", "cms.cli.daemonless"),
        *("cms.system.listener", "cms.system.network", "cms.system.sd_notify", "cms.system.process"),
    ),
    "aiosmtpd": ("cms.sandbox.submission",),
    "trustme": ("cms.sandbox.host",),
    # Only type checkers have it: what the standard library takes where it says "anything readable".
    "_typeshed": ("cms_oauth.mailtest.imap", "cms_oauth.mailtest.smtp"),
}

# Pure: cms/core, and what else only computes.
PURE = (
    "cms.core",
    "cms_oauth.sasl",
    "cms_oauth.claims",
    "cms_oauth.wire",
    "cms_oauth.microsoft",
    "cms_oauth.providers",
    *(
        f"cms_oauth.diagnosis.{name}"
        for name in (
            "lookup",
            "explain",
            "entra",
            "oauth2",
            "provider",
            "gmail",
            "servers",
            "challenge",
            "times",
            "mail",
            "local",
            "certificates",
            "verdicts",
        )
    ),
    "cms.config.consistency",
    "cms.grants.messages",
    *(f"cms.grants.fleet.{name}" for name in ("claim", "schema", "statements")),
    "cms.grants.transfer.formats",
    "cms.grants.transfer.decrypt",
    "cms.daemon.serving.socketmap",
    "cms.daemon.signin.pages",
    "cms.cli.admin_consent",
    *(f"cms.cli.doctor.{name}" for name in ("bundle", "findings", "access", "assess", "assess_network", "mail_tools")),
)
IMPURE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "socket", "ssl", "select", "selectors", "urllib", "http"),
    *("subprocess", "signal", "threading", "multiprocessing", "concurrent", "asyncio", "queue", "fcntl", "sys"),
    *("time", "datetime", "random", "secrets", "logging", "trio", "structlog", "getpass", "pwd", "grp", "ctypes"),
}
# What a pure module may take from an impure one: names that compute and touch nothing.
HARMLESS = {"urllib.parse"}

# Sizes that keep the code readable in an evening.
LONGEST_FUNCTION = 50
DEEPEST_NESTING = 4

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def is_in(module: str, *places: str) -> bool:
    """Whether a module is one of these, or lies in one of these packages."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports_in(node: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that is imported below this node; of `from x import y`, x.y if that is a module."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            base = each.module or ""
            yield from (full if (full := f"{base}.{alias.name}") in MODULES else base for alias in each.names)


def imports_of(module: str) -> set[str]:
    return set(imports_in(tree_of(module)))


def imported_at_start(module: str) -> set[str]:
    """Return what a module imports when it is imported itself: not inside of its functions."""
    return {
        imported
        for statement in tree_of(module).body
        if not isinstance(statement, Function) and not ast.unparse(statement).startswith("if TYPE_CHECKING:")
        for imported in imports_in(statement)
    }


def ours(module: str) -> set[str]:
    """Return the modules of this project that a module imports."""
    return {name for name in imports_of(module) if name.partition(".")[0] in PACKAGES}


def functions() -> list[tuple[str, Function]]:
    return [
        (f"{module}.{node.name}", node)
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, Function)
    ]


def length_of(function: Function) -> int:
    """Return the lines of a function without its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return lines
    return lines - (first.end_lineno - first.lineno + 1)


def depth_of(node: ast.AST) -> int:
    """Return how deep blocks are nested below this node. `elif` and `case` do not count as deeper."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth_of(child) + (isinstance(child, _BLOCKS) and not is_elif))
    return deepest


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the members of the circles of arrows, and what lies between two circles; none if there is no circle."""
    left = dict(graph)
    while ends := {module for module in left if not left[module] & left.keys()} | (
        left.keys() - {name for imported in left.values() for name in imported}
    ):
        left = {module: imported for module, imported in left.items() if module not in ends}
    return sorted(left)


def packages_of(module: str) -> list[str]:
    """Return the row of the ladder that a module belongs to; a file without a row is in none."""
    return [place for place in LADDER if is_in(module, place)]


def upward(module: str, imported: set[str]) -> set[str]:
    """Return what a module imports although its row does not name it."""
    (place,) = packages_of(module)
    common = () if place == "cms_oauth" else COMMON
    return {name for name in imported if not is_in(name, place, *LADDER[place], *common)}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"cms"}))
def test_imports_go_down_only(module: str) -> None:
    """A module imports its own package and what the row of its package names, even inside a function."""
    assert set() == upward(module, ours(module))


def test_a_row_names_only_rows_below_it() -> None:
    """The ladder has no step that leads up."""
    rows = list(LADDER)

    assert set() == {
        (row, name) for number, row in enumerate(rows) for name in LADDER[row] if not is_in(name, *rows[:number])
    }


def test_every_row_has_files() -> None:
    """No row of the ladder, and nothing that a row or a list names, is without a file."""
    named = {*LADDER, *PURE, *PLAIN, *(name for row in (*LADDER.values(), *STRANGERS, *HOMES.values()) for name in row)}

    assert set() == {name for name in named if name not in MODULES}


def test_there_is_no_circle() -> None:
    """No file leads back to itself by what it imports, nor a package by what is imported from outside of it."""
    graph = {module: ours(module) - {module} for module in MODULES}

    assert [] == circle_in(graph)


@pytest.mark.parametrize(("one", "other"), STRANGERS)
def test_strangers_stay_strangers(one: str, other: str) -> None:
    """The first imports nothing of the second."""
    known = {(module, name) for module in MODULES if is_in(module, one) for name in ours(module)}

    assert set() == {(module, name) for module, name in known if is_in(name, other)}


@pytest.mark.parametrize("module", MODULES)
def test_each_library_stays_where_it_belongs(module: str) -> None:
    """A third-party library that no row lets in here, or that is in no row, fails."""
    libraries = {name.partition(".")[0] for name in imports_of(module)} - set(sys.stdlib_module_names) - set(PACKAGES)

    assert set() == {library for library in libraries if not is_in(module, *HOMES.get(library, ()))}


@pytest.mark.parametrize("library", HOMES)
def test_every_place_of_a_library_uses_it(library: str) -> None:
    """A row, or a file in it, that no longer uses the library goes."""
    users = [module for module in MODULES if library in {name.partition(".")[0] for name in imports_of(module)}]

    assert [] == [place for place in HOMES[library] if not any(is_in(module, place) for module in users)]


def test_the_worker_never_imports_trio() -> None:
    """The grant worker is plain synchronous code: no module of it, nor any that it imports, leads to trio or a log."""
    reached, todo = set[str](), [module for module in MODULES if is_in(module, "cms.grants", *PLAIN)]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += ours(module) & set(MODULES)

    assert set() == {module for module in reached if imports_of(module) & {"trio", "structlog"}}


def test_only_microsofts_accounts_load_msal() -> None:
    """The worker starts without it, and no other provider leads to it: 21 MiB that a daemon without Microsoft's saves."""
    reached, todo = set[str](), [module for module in MODULES if is_in(module, "cms") and "entra" not in module]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += imported_at_start(module) & MODULES.keys()

    assert set() == {module for module in reached if is_in(module, "cms.grants.entra")}
    assert all("msal" not in imported_at_start(module) for module in reached)


def test_only_a_fleet_loads_its_store() -> None:
    """Nothing outside of it imports it at its start, so that a single host needs no library for a database."""
    outside = [module for module in MODULES if not is_in(module, "cms.grants.fleet")]

    assert [] == [
        module for module in outside if any(is_in(each, "cms.grants.fleet") for each in imported_at_start(module))
    ]


@pytest.mark.parametrize("name", FETCH)
def test_a_fetch_is_light(name: str) -> None:
    """What `cms-oauth` needs for a plain fetch imports nothing at its start that costs as much as the fetch."""
    started = {imported.partition(".")[0] for imported in imported_at_start(f"cms_oauth.{name}")}

    assert set() == started & TOO_HEAVY


@pytest.mark.parametrize("module", sorted(module for module in MODULES if is_in(module, *PURE)))
def test_pure_modules_touch_nothing(module: str) -> None:
    """No clock, no file, no network, no chance and no log in what decides."""
    imported = imports_of(module) - HARMLESS

    assert set() == {name for name in imported if name.partition(".")[0] in IMPURE}


def test_the_table_catches_what_it_is_for() -> None:
    """An import upward, a circle, and a library in another file than its own are found."""
    assert {"cms.core.words"} == upward("cms_oauth.main", {"cms.core.words", "cms_oauth.fetch"})
    assert {"cms.daemon.app"} == upward("cms.core.policy", {"cms.daemon.app", "cms.core.accounts"})
    assert ["a", "b"] == circle_in({"a": {"b", "c"}, "b": {"a"}, "c": set(), "d": {"a"}})
    assert not is_in("cms.core.policy", *HOMES["trio"])


def test_functions_are_short() -> None:
    """No function is longer than a screen."""
    lengths = {name: length_of(function) for name, function in functions()}

    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_nesting_is_shallow() -> None:
    """No function nests blocks deeper than a reader can hold."""
    depths = {name: depth_of(function) for name, function in functions()}

    assert {name: depth for name, depth in depths.items() if depth > DEEPEST_NESTING} == {}


DEEP = """
def deep():
    for a in b:
        if a:
            pass
        elif b:
            while c:
                try:
                    with d: pass
                except E:
                    pass
"""


def test_the_measures_measure() -> None:
    """The nesting of a known function is what a person counts, `elif` being no step."""
    assert depth_of(ast.parse(DEEP)) == 5
