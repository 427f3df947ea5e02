"""What the worker answers where its own code failed: never as a fault of the network or of the provider."""

from __future__ import annotations

import sys
import traceback

from cms.core.lifecycle import Transient, Trouble

KIND = "worker"


def unexpected(error: BaseException) -> Transient:
    """Report a bug without anything that could be a secret: neither the exception's text nor locals."""
    name = type(error).__name__
    frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    print(f"error: unexpected {name}, most recent call last:\n{frames}{name}", file=sys.stderr, flush=True)
    return Transient(
        Trouble(
            KIND,
            f"the grant worker failed with an unexpected {name}",
            "this is a bug in cms: the log has the traceback",
        )
    )
