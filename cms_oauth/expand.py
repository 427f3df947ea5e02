"""Paths as people write them: in the configuration, in options, in environment variables.

`expanded` is the one rule for all of them. `cms-oauth` needs it for every mail, so it imports almost nothing.
"""

import os

# What to write instead of a specifier of systemd.
_SPECIFIERS = {"t": "$XDG_RUNTIME_DIR", "h": "~", "d": "$CREDENTIALS_DIRECTORY"}


class Unusable(Exception):
    """A path cannot be used as it is written, or there is no usual place for a file. `hint` is the next move."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def expanded(path: str) -> str:
    """Return a path with `~`, `~USER`, `$NAME` and `${NAME}` replaced. Raises Unusable.

    No shell reads a configuration, an environment file or the `~` in `--option=~/x`. `$$` and `%%` stand for `$` and `%`.
    What a shell or systemd would replace and cms does not, such as `$(id -u)` and `%t`, is refused: the path would mean
    another file.
    """
    if not any(mark in path for mark in "~$%`"):
        return path
    if not path.startswith("~"):
        return _filled(path)
    tilde, slash, rest = path.partition("/")
    return _home_of(tilde).rstrip("/") + slash + _filled(rest) or "/"


def literal(path: str) -> str:
    """Return an absolute path as it has to be written so that `expanded` returns it."""
    return path.replace("$", "$$").replace("%", "%%")


def named(path: str) -> str:
    """Return `expanded(path)` for an option or a variable. Raises Unusable, also if relative paths start nowhere."""
    found = expanded(path)
    if not found.startswith("/"):
        current_folder()
    return found


def current_folder() -> str:
    """Return the current folder, where relative paths start. Raises Unusable if it has been removed."""
    try:
        found = os.getcwd()  # noqa: PTH109 - pathlib doubles the client's start
    except OSError:
        found = ""
    # getcwd(3): a folder outside of this process's root is "(unreachable)/...".
    if not found.startswith("/"):
        raise Unusable("the current folder no longer exists, and relative paths start there", "`cd` to another folder")
    return found


def home() -> str:
    """Return this user's home folder: $HOME, else the one in the user database. Raises Unusable if there is none."""
    told = os.environ.get("HOME", "")
    if told.startswith("/"):
        return told
    import pwd  # noqa: PLC0415 - the environment has it, as a rule

    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        found = ""
    if not found.startswith("/"):
        what = "is not an absolute path" if told else "is not set"
        known = f"the user database has none for uid {os.getuid()}"
        raise Unusable(f"this user has no home folder: HOME {what}, and {known}", "set HOME to a folder of this user")
    return found


def _home_of(tilde: str) -> str:
    """Return the folder that `~` or `~USER` stands for. Raises Unusable."""
    if tilde == "~":
        return home()
    found = os.path.expanduser(tilde)  # noqa: PTH111 - as in current_folder
    if not found.startswith("/"):
        raise Unusable("it begins with ~, and that user's home folder is not known", "write the folder out")
    return found


def _filled(text: str) -> str:
    """Return a text with the values of its variables. Raises Unusable."""
    filled, place = "", 0
    while place < len(text):
        mark, after = text[place], text[place + 1 : place + 2]
        if mark in "$%" and after == mark:
            filled, place = filled + mark, place + 2
        elif mark == "$" and (after == "{" or _is_name(after)):
            name, place = _variable(text, place + 1)
            filled += _value_of(name)
        elif mark == "`" or (mark == "$" and after == "("):
            raise Unusable("it has a command in it, and no shell reads a path", "write what the command prints")
        elif mark == "%" and after.isascii() and after.isalpha():
            instead = _SPECIFIERS.get(after, "the path itself")
            raise Unusable(
                f"only systemd replaces %{after}, in its own files", f"write {instead}, or %% for a percent sign"
            )
        else:
            filled, place = filled + mark, place + 1
    return filled


def _is_name(text: str) -> bool:
    """True if a text is a variable's name, or the beginning of one."""
    return text.isascii() and text.isidentifier()


def _variable(text: str, start: int) -> "tuple[str, int]":
    """Return the name of the variable that begins here, with or without braces, and where it ends. Raises Unusable."""
    if text[start] == "{":
        name, brace, _ = text[start + 1 :].partition("}")
        if not (brace and _is_name(name)):
            raise Unusable("only a variable's name and } may follow ${", "write ${NAME}, or $$ for a dollar sign")
        return name, start + len(name) + 2
    end = start + 1
    while end < len(text) and _is_name(text[start : end + 1]):
        end += 1
    return text[start:end], end


def _value_of(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        what = "not set" if value is None else "empty"
        raise Unusable(
            f"the variable {name} is {what} in this environment", "set it, write the path out, or $$ for a dollar sign"
        )
    return value
