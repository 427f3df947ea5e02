"""The shells' completions: click's own for `cms`, which asks `cms` itself; for `cms-oauth` the files in completions/.

The client cannot complete its options by itself: it has no click, and argparse completes nothing.
"""

from __future__ import annotations

from pathlib import Path

# Where a shell looks below an installation's prefix.
PLACES = {
    "bash": "share/bash-completion/completions/{command}",
    "zsh": "share/zsh/site-functions/_{command}",
    "fish": "share/fish/vendor_completions.d/{command}.fish",
}


def cms(shell: str) -> str:
    # Imported here, because the client is built without cms and click.
    from click.shell_completion import get_completion_class

    from cms.cli.commands import cms as group

    kind = get_completion_class(shell)
    assert kind
    return kind(group, {}, "cms", "_CMS_COMPLETE").source()


def cms_oauth(shell: str) -> str:
    return (Path(__file__).parent / "completions" / f"cms-oauth.{shell}").read_text()
