"""The configuration file (cms/config/load.py)."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

from cms.config.load import load
from cms.config.model import Config, ConfigError
from cms.config.trust import System

# A configuration is a program, and one made of random words must not run: only directives and values do.
_HARMLESS = (
    *(ast.Module, ast.Expr, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Call, ast.keyword, ast.Constant),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.USub),
)

_SYSTEM = System(
    user_id={"root": 0, "alice": 1000}.get,
    group_id={"root": 0, "mail": 8}.get,
    user_name=str,
    in_memory=lambda path: path.startswith("/run/"),
)

_FILE = Path(tempfile.mkdtemp(prefix="cms-fuzz-")) / "cms.cfg"


def check(data: bytes) -> None:
    """A file is a Config, the same each time, or a ConfigError of one line about a line that it has."""
    if _would_run(data):
        return
    _FILE.write_bytes(data)
    check_load(_FILE, data)


def check_load(file: Path, data: bytes) -> None:
    """Fail unless a file is a Config, the same each time, or a ConfigError about a line that `data` has."""
    try:
        config = load(str(file), system=_SYSTEM)
    except ConfigError as error:
        assert error.message
        assert str(error).isprintable()
        assert error.line is None or 0 <= error.line <= len(data.splitlines()) + 1
    else:
        assert isinstance(config, Config)
        assert all(warning and "\n" not in warning for warning in config.warnings)
        assert load(str(file), system=_SYSTEM) == config


def _would_run(data: bytes) -> bool:
    """Whether anything but directives would run."""
    try:
        tree = ast.parse(data)
    # The compiler refuses it, and so nothing runs.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = {
        each.func.id if isinstance(each.func, ast.Name) else "" for each in ast.walk(tree) if isinstance(each, ast.Call)
    }
    return not all(isinstance(each, _HARMLESS) for each in ast.walk(tree)) or not all(
        name[:1].isupper() for name in names
    )
