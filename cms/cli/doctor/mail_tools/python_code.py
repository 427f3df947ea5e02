"""Finds what in Python code asks cms for a token, without running it: `cms_oauth`, and runs of `cms-oauth`. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import ANY_LOGIN, UNKNOWN, Command, Login, Machine, Place, Use

# Functions that run a command line, or split one into words.
_RUNS = {
    *("popen", "system", "run", "call", "check_call", "check_output", "Popen", "getoutput", "getstatusoutput", "split"),
    *("create_subprocess_shell", "spawn"),
}

# What the library's functions take by position, and how `cms-oauth` names it.
_LIBRARY = {"token": ("--user", "--proto"), "Login": ("--user",)}
_KEYWORDS = {"user": "--user", "protocol": "--proto", "socket": "--cms_sock"}


def asks(code: str, place: Place, machine: Machine, login: Login = ANY_LOGIN, caller: str = "") -> list[Use]:
    """Return what Python code asks. Code that does not compile, or is nested too deeply, asks nothing.

    With a `caller`, an expression, only what it calls counts, and what that uses of the code.
    """
    try:
        tree = ast.parse(code.strip())
        return list(_uses(_used(tree, _names(ast.parse(caller.strip()))) if caller else tree, place, machine, login))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _used(tree: ast.Module, names: set[str]) -> ast.Module:
    """Return the imports of a module, and those of its statements that define these names, or names used in those."""
    left, used = list(tree.body), list[ast.stmt]()
    while found := [each for each in left if _defined(each) & names]:
        left = [each for each in left if each not in found]
        used += found
        names = names.union(*map(_names, found))
    imports = [each for each in left if isinstance(each, ast.Import | ast.ImportFrom)]
    return ast.Module([*imports, *used], [])


def _defined(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _uses(tree: ast.Module, place: Place, machine: Machine, login: Login) -> Iterator[Use]:
    assigned = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = _library_names(tree)
    for node in ast.walk(tree):
        here = Place(place.tool, place.path, place.line + getattr(node, "lineno", 1) - 1)
        if isinstance(node, ast.List | ast.Tuple):
            yield from _words(node, here, machine, login)
        elif isinstance(node, ast.Call):
            yield from _called(node, here, names)
            if _name(node.func).rpartition(".")[2] in _RUNS:
                for each in node.args[:1]:
                    line = assigned.get(each.id, each) if isinstance(each, ast.Name) else each
                    yield from shell.asks(_text(line), here, machine, login)


def _words(node: ast.List | ast.Tuple, place: Place, machine: Machine, login: Login) -> list[Use]:
    """Return what a list of words asks, if it is a command."""
    words = [_text(each) or UNKNOWN for each in node.elts]
    return shell.program(words, place, machine, login) if words else []


def _text(node: ast.expr) -> str:
    """Return a text, with UNKNOWN for the parts that are computed; "" for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) or UNKNOWN for each in node.values)
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left) or UNKNOWN}{_text(node.right) or UNKNOWN}"
    return ""


def _name(node: ast.expr) -> str:
    """Return a dotted name; "" for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _library_names(tree: ast.AST) -> Mapping[str, str]:
    """Return the names that mean a function of the library here."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "cms_oauth":
                    found |= {f"{alias.asname or alias.name}.{each}": each for each in _LIBRARY}
        elif isinstance(node, ast.ImportFrom) and node.module == "cms_oauth":
            found |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in _LIBRARY}
    return found


def _called(node: ast.Call, place: Place, names: Mapping[str, str]) -> Iterator[Use]:
    """Yield a call of the library as the command that does the same."""
    function = names.get(_name(node.func), "")
    if not function:
        return
    given = dict(zip(_LIBRARY[function], node.args, strict=False))
    given |= {_KEYWORDS[each.arg]: each.value for each in node.keywords if each.arg in _KEYWORDS}
    # A Login asks for SMTP or IMAP, depending on the method that is called.
    options = {"--proto": UNKNOWN} if function == "Login" else {}
    options |= {option: _text(value) or UNKNOWN for option, value in given.items() if not _is_empty(value)}
    yield Command(place, tuple(f"{option}={value}" for option, value in options.items()))


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""
