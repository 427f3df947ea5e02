"""`cms doctor`: its options. The checks are in `cms/cli/doctor/`."""

from __future__ import annotations

from contextlib import nullcontext

import click

from cms.cli.commands.options import PATH, config_option, config_path, examples, json_option, user_argument
from cms.cli.doctor.examination import Examination
from cms.cli.doctor.run import examine_and_report
from cms.cli.terminal import at_length, say
from cms.config.child import load
from cms_oauth.expand import Unusable


@click.command(epilog=examples("cms doctor", "cms doctor user@domain.com", "cms doctor --bundle=report.txt"))
@user_argument
@json_option
@click.option(
    "--bundle",
    type=PATH,
    metavar="FILE",
    default="",
    help="Write a report without names and secrets, for a bug report.",
)
@click.option("--as", "asking", metavar="UNIXUSER", multiple=True, help="Check that this user reaches the sockets too.")
@config_option
def doctor(user: str, bundle: str, asking: tuple[str, ...], config: str, *, as_json: bool) -> int:
    """Check everything that mail needs.

    For USER or for every account. Says for each fault who can fix it and how. Exits as monitoring plugins do: 0 good,
    1 warning, 2 critical.
    """
    try:
        path, nowhere = config_path(config), None
    except Unusable as unusable:
        path, nowhere = "", unusable
    meant = Examination(path, load, user, asking, nowhere=nowhere)
    with nullcontext(say) if as_json else at_length() as tell:
        return examine_and_report(meant, bundle, tell, as_json=as_json)
