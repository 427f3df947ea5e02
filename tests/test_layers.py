"""The house as data: which module stands on which rung, and which library lives in which file.

Parsed from the sources, so that an import inside a function counts as well. A module may import only what stands
before it in `LADDER`; a file that is in no table fails, and so does a row without a file.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cms", "cms_oauth")

# Bottom to top; within a rung too, a module imports only what stands before it.
LADDER = {
    "the light half": (
        "cms_oauth",
        "cms_oauth.sasl",
        "cms_oauth.claims",
        "cms_oauth.verdicts",
        "cms_oauth.diagnosis_entra",
        "cms_oauth.diagnosis_local",
        "cms_oauth.diagnosis_mail",
        "cms_oauth.diagnosis",
        "cms_oauth.wire",
        "cms_oauth.paths",
        "cms_oauth.dial",
        "cms_oauth.mailtest",
        "cms_oauth.main",
        "cms_oauth.options",
        "cms_oauth.trial",
        "cms_oauth.troubleshooting",
        "cms_oauth.library",
        "cms_oauth.git_credential",
    ),
    "rung 0: pure, and the configuration": (
        "cms",
        "cms.version",
        "cms.accounts",
        "cms.lifecycle",
        "cms.preflight",
        "cms.policy",
        "cms.recent",
        "cms.socketmap",
        "cms.forecast",
        "cms.notices",
        "cms.status",
        "cms.pages",
        "cms.clock",
        "cms.trust",
        "cms.arguments",
        "cms.combinations",
        "cms.directives",
        "cms.config",
        "cms.consent",
        "cms.doctor",
        "cms.doctor.bundle",
        "cms.doctor.findings",
        "cms.doctor.access",
        "cms.doctor.judge",
        "cms.doctor.tools",
    ),
    "rung 1: the grant worker, what crosses to it, and plain tools": (
        "cms.logs",
        "cms.proctcp",
        "cms.notify",
        "cms.qr",
        "cms.remote",
        "cms.grants",
        "cms.grants.messages",
        "cms.grants.catalogue",
        "cms.grants.peers",
        "cms.grants.seals",
        "cms.grants.keys",
        "cms.grants.vault",
        "cms.grants.exports",
        "cms.grants.imports",
        "cms.grants.budget",
        "cms.grants.way",
        "cms.grants.transport",
        "cms.grants.brokered",
        "cms.grants.flows",
        "cms.grants.entra",
        "cms.grants.certificates",
        "cms.grants.application",
        "cms.grants.chores",
        "cms.grants.service",
        "cms.grants.desk",
        "cms.grants.__main__",
        "cms.doctor.probes",
        "cms.doctor.probes_network",
        "cms.doctor.probes_mail",
        "cms.doctor.consultation",
        "cms.watch",
    ),
    "rung 2: the trio shell": (
        "cms.worker",
        "cms.keeper",
        "cms.listener",
        "cms.network",
        "cms.connections",
        "cms.teller",
        "cms.postfix",
        "cms.server",
        "cms.loopback",
        "cms.signin",
        "cms.control",
        "cms.custody",
        "cms.sockets",
        "cms.tokenfiles",
        "cms.herald",
        "cms.hooks",
    ),
    "rung 3: composition": (
        "cms.process",
        "cms.app",
        "cms.login",
        "cms.moving",
        "cms.fragments",
        "cms.units",
        "cms.firstfile",
        "cms.alone",
        "cms.main",
        "cms.firstrun",
        "cms.commands",
    ),
}
ORDER = {module: place for place, module in enumerate(module for rung in LADDER.values() for module in rung)}

# The sandbox stands outside: a world to try cms in, made of cms's data and of nothing that decides or serves.
SANDBOX = "cms.sandbox"
SANDBOX_MAY_IMPORT = ("cms_oauth.", "cms.accounts", SANDBOX)

# Imports that go up, inside a function, and why.
DEFERRED = {
    (
        "cms_oauth.main",
        "cms_oauth.options",
    ): "click costs four times what a fetch does: only unusual options pay for it",
    ("cms_oauth.main", "cms_oauth.trial"): "smtplib, ssl and the tables of verdicts, for a test only",
    ("cms_oauth", "cms_oauth.library"): "the client imports the package, and needs none of what it offers programs",
    ("cms.main", "cms.commands"): "click, which the daemon does without",
    ("cms.commands", "cms.sandbox.demo"): "`cms demo` is the one command that starts the sandbox",
}

# Every third-party library, and the only files that know it.
HOMES = {
    "msal": ("cms.grants.entra",),
    "requests": ("cms.grants.transport",),
    "urllib3": ("cms.grants.budget",),
    "keyring": ("cms.grants.keys",),
    "secretstorage": ("cms.grants.keys",),
    "cryptography": (
        *("cms.grants.vault", "cms.grants.seals", "cms.grants.exports", "cms.grants.certificates"),
        "cms.sandbox.assertions",
    ),
    "certifi": ("cms.doctor.probes_network",),
    "structlog": ("cms.logs",),
    "jeepney": ("cms.notify",),
    "segno": ("cms.qr",),
    "platformdirs": ("cms_oauth.paths",),
    "click": ("cms_oauth.options", "cms.commands"),
    "trio": (*LADDER["rung 2: the trio shell"], *LADDER["rung 3: composition"]),
    "aiosmtpd": ("cms.sandbox.submission",),
    "trustme": ("cms.sandbox.entra",),
    # Only type checkers have it: what the standard library takes where it says "anything readable".
    "_typeshed": ("cms_oauth.mailtest",),
}

# Pure modules, and the doors to the outside that are shut to them.
PURE = (
    "cms_oauth.sasl",
    "cms_oauth.claims",
    "cms_oauth.verdicts",
    "cms_oauth.diagnosis_entra",
    "cms_oauth.diagnosis_local",
    "cms_oauth.diagnosis_mail",
    "cms_oauth.diagnosis",
    "cms_oauth.wire",
    "cms.accounts",
    "cms.consent",
    "cms.combinations",
    "cms.preflight",
    "cms.lifecycle",
    "cms.forecast",
    "cms.policy",
    "cms.recent",
    "cms.socketmap",
    "cms.notices",
    "cms.status",
    "cms.pages",
    "cms.doctor.bundle",
    "cms.doctor.findings",
    "cms.doctor.access",
    "cms.doctor.judge",
    "cms.doctor.tools",
    "cms.grants.messages",
    "cms.grants.catalogue",
    "cms.grants.peers",
    "cms.grants.seals",
)
IMPURE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "socket", "ssl", "select", "selectors", "urllib", "http"),
    *("subprocess", "signal", "threading", "multiprocessing", "concurrent", "asyncio", "queue", "fcntl", "sys"),
    *("time", "datetime", "random", "secrets", "logging", "trio", "structlog", "getpass", "pwd", "grp", "ctypes"),
}
# What a pure module may take from an impure one: names that compute and touch nothing.
HARMLESS = {"urllib.parse"}

# Sizes that keep the house readable in an evening.
LONGEST_FUNCTION = 50
DEEPEST_NESTING = 4
MEDIAN_FUNCTION = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def is_sandbox(module: str) -> bool:
    return module == SANDBOX or module.startswith(f"{SANDBOX}.")


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


def ours(module: str) -> set[str]:
    """Return the modules of this project that a module imports."""
    return {name for name in imports_of(module) if name.partition(".")[0] in PACKAGES}


def deferred_in(module: str) -> set[str]:
    """Return what a module imports inside functions only."""
    functions = [each for each in ast.walk(tree_of(module)) if isinstance(each, Function)]
    inside = {name for function in functions for name in imports_in(function)}
    at_start = {
        name
        for statement in tree_of(module).body
        if not isinstance(statement, Function)
        for name in imports_in(statement)
    }
    return inside - at_start


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


def test_every_file_has_its_place() -> None:
    """A file that is in no table fails, and so does a row of the table without a file."""
    actual = {module for module in MODULES if not is_sandbox(module)}

    assert set(ORDER) == actual


@pytest.mark.parametrize("module", sorted(ORDER.keys() & MODULES.keys()))
def test_imports_go_down_only(module: str) -> None:
    """A module imports only what stands before it on the ladder."""
    imported = {name for name in ours(module) if (module, name) not in DEFERRED}

    assert {name for name in imported if name not in ORDER or ORDER[name] >= ORDER[module]} == set()


@pytest.mark.parametrize(("module", "imported"), DEFERRED)
def test_what_goes_up_is_inside_a_function(module: str, imported: str) -> None:
    """The exceptions are still there, and cost nothing until they are needed."""
    assert imported in deferred_in(module)


def test_the_sandbox_stands_outside() -> None:
    """The sandbox uses the wire's and the accounts' vocabulary; it tests the rest from outside."""
    reached = {name for module in MODULES if is_sandbox(module) for name in ours(module)}

    assert {name for name in reached if not name.startswith(SANDBOX_MAY_IMPORT)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_home(module: str) -> None:
    """A third-party library that no row of the table lets in here, or that is in no row, fails."""
    libraries = {name.partition(".")[0] for name in imports_of(module)} - set(sys.stdlib_module_names) - set(PACKAGES)

    assert {library for library in libraries if module not in HOMES.get(library, ())} == set()


@pytest.mark.parametrize("library", HOMES)
def test_no_home_is_empty(library: str) -> None:
    """A row for a library that is no longer used goes."""
    used = {name.partition(".")[0] for module in MODULES for name in imports_of(module)}

    assert library in used


def test_the_light_half_knows_nothing_of_the_heavy_one() -> None:
    """cms imports cms_oauth, never the reverse; neither trio nor msal is in it."""
    imported = {name for module in MODULES if module.startswith("cms_oauth") for name in imports_of(module)}

    assert {name for name in imported if name.partition(".")[0] in {"cms", "trio", "msal"}} == set()


def test_the_worker_never_imports_trio() -> None:
    """The grant worker is plain synchronous code: no module of it, nor any that it imports, leads to trio."""
    reached, todo = set[str](), [module for module in MODULES if module.startswith("cms.grants")]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += ours(module) & set(MODULES)

    assert {module for module in reached if "trio" in imports_of(module)} == set()


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_nothing(module: str) -> None:
    """No clock, no file, no network, no chance and no log in what decides."""
    imported = imports_of(module) - HARMLESS

    assert {name for name in imported if name.partition(".")[0] in IMPURE} == set()


def test_functions_are_short() -> None:
    """No function is longer than a screen, and half of them are no longer than a few lines."""
    lengths = {name: length_of(function) for name, function in functions()}

    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION


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
