"""When a refusal that depends on where or how the machine is connected is looked at again. Pure.

The pauses between two looks double, so that the looks of a day are spread over it: each is a failed sign-in in the
organisation's log. A change of the network brings one more. How many there may be in a day is a budget of the Grant
(`cms.core.budget.Budget`).
"""

from __future__ import annotations

from dataclasses import replace

from cms_oauth.frozen import dataclass

FIRST_LOOK = 30 * 60.0
LONGEST_LOOK = 6 * 60 * 60.0
# After a change of the network: time for a VPN and a name server to come up.
LOOK_AFTER_CHANGE = 60.0

# The kinds of trouble without an answer of the provider: a try that ended like this was no look.
UNANSWERED = frozenset(
    {
        *("network", "garbage", "locked", "storage", "vault-damaged", "vault-newer", "broker", "shutdown"),
        *("fleet", "elsewhere"),
    }
)


@dataclass(frozen=True, slots=True)
class Look:
    """How the next look comes about.

    `pause` is the number of seconds between the last look, or the refusal, and the next one. `unanswered` counts the tries
    since then that the provider has not answered.
    """

    pause: float = FIRST_LOOK
    unanswered: int = 0

    def refused(self) -> Look:
        """Return the look after one that was refused."""
        return Look(min(2 * self.pause, LONGEST_LOOK))

    def hurried(self) -> Look:
        """Return this look if it comes in addition, after a change of the network: the next pause is what it was."""
        return Look(self.pause / 2)

    def missed(self) -> Look:
        """Return the look after a try without an answer."""
        return replace(self, unanswered=self.unanswered + 1)
