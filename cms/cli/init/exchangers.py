"""Asks DNS which hosts receive a domain's mail (its MX records): they show whose mailboxes a domain has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dns.resolver import Resolver

# For the whole look-up. A name server that answers at all does so in a second or two, and a person waits for it.
_SECONDS = 4.0


def exchangers(domain: str, resolver: Resolver | None = None) -> tuple[str, ...] | str:
    """Return the hosts that receive a domain's mail, the preferred ones first, or why they could not be looked up.

    There are none if the domain is unknown or says that it has no mail. `resolver` is the machine's unless it is given.
    """
    # Only `cms init` looks up a domain, and only one that it does not know.
    import dns.exception  # noqa: PLC0415
    import dns.resolver  # noqa: PLC0415

    try:
        # The dot: the machine's search list is for its own names.
        answer = (resolver or dns.resolver.Resolver()).resolve(
            f"{domain}.", "MX", lifetime=_SECONDS, raise_on_no_answer=False
        )
    except dns.resolver.NXDOMAIN:
        return ()
    except dns.exception.Timeout:
        return "no name server answers in time"
    except dns.resolver.NoResolverConfiguration:
        return "this machine has no name server"
    except dns.exception.DNSException:
        return "the name servers have no answer"
    found = sorted((each.preference, each.exchange.to_text(omit_final_dot=True)) for each in answer)
    # A domain without mail has the name "." (RFC 7505).
    return tuple(host for _, host in found if host not in ("", "."))
