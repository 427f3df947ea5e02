"""The `cms-oauth` command: prints a fresh token, or one line on standard error that says why there is none.

It runs once for every mail, so a plain fetch imports almost nothing: `read_exactly` reads the options as configuration
files write them; argparse, whose import costs more than the rest, reads all other forms. Modules that only a
failure, `--rejected` or a test needs are imported then.
"""

import atexit
import os
import sys

from cms_oauth import dial, sasl, wire
from cms_oauth.fetch import Options, fetch, report, write

# The exit status that a shell reports for a process ended by SIGINT.
INTERRUPTED = 130


def main() -> int:
    """Run the command with the arguments of this process; return its exit status."""
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED
    return leave(status)


def leave(status: int) -> int:
    """End the process with this exit status; return the status if the interpreter has to do that.

    The interpreter would first take apart what it has loaded, and that takes a sixth of a fetch. It still does so if
    something is registered for the exit, as in a program that imports this one, or if output cannot be written.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
    except (OSError, ValueError):
        return status
    if not atexit._ncallbacks():  # noqa: SLF001 - there is no other way to know
        os._exit(status)  # pragma: no cover - what measures the coverage is registered
    return status


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; return its exit status."""
    options: Options | int | None = read_exactly(arguments)
    if options is None:
        from cms_oauth.options import read  # noqa: PLC0415 - argparse costs more than a fetch does

        options = read(arguments)
    if isinstance(options, int):
        return options
    refused = _refused_token() if options.rejected else ""
    if isinstance(refused, dial.Failed):
        return report(refused)
    answer = fetch(options, dial.now() + wire.CLIENT_SECONDS, refused)
    if options.test:
        from cms_oauth.mailtest import command  # noqa: PLC0415 - smtplib and ssl, for a test only

        return command.run(options, answer)
    if isinstance(answer, dial.Failed):
        return report(answer)
    text = answer.document or wire.render(options.output, answer.user, answer.token).decode()
    return write(text + "\n" if options.newline else text)


# Spelled with underscores, as cloud_mdir_sync did; hyphens are read as underscores.
_WITH_VALUE = frozenset(("__user", "__cms_sock", "__proto", "__output"))
_FLAGS = frozenset(("__no_newline", "__rejected"))


def read_exactly(arguments: list[str]) -> Options | None:
    """Return the options of a plain fetch in the forms that configuration files use; None leaves them to argparse.

    Those forms are `--name=value` and the two flags, each at most once. `options.read` reads everything that this accepts
    in the same way.
    """
    values: dict[str, str] = {}
    for argument in arguments:
        option, equals, value = argument.partition("=")
        name = option.replace("-", "_")
        known = name in (_WITH_VALUE if value else _FLAGS) and bool(value) == bool(equals)
        if not known or name in values or not option.startswith("--"):
            return None
        values[name] = value
    output = values.get("__output", "xoauth2")
    if output not in wire.FORMS:
        return None
    return Options(
        user=values.get("__user", ""),
        socket=values.get("__cms_sock", ""),
        protocol=values.get("__proto", "SMTP"),
        output=output,
        newline="__no_newline" not in values,
        rejected="__rejected" in values,
    )


def _refused_token() -> str | dial.Failed:
    """Return the token on standard input."""
    data = b""
    try:
        while len(data) <= wire.MAX_REPLY and (more := os.read(0, wire.MAX_REPLY)):
            data += more
    except OSError:
        data = b""
    token = data.decode("ascii", errors="replace").strip()
    if len(data) > wire.MAX_REPLY or not sasl.is_token(token):
        return dial.Failed(
            "bad-request", "there is no token on standard input", "--rejected reads the refused token from there"
        )
    return token


if __name__ == "__main__":
    sys.exit(main())
