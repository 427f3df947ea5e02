"""What a TLS connection to another machine is made with."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(authorities: str = "") -> ssl.SSLContext:
    """Return what verifies the other side's certificate and host name, with TLS 1.2 or newer.

    `authorities` is a file or a folder of trusted certificates, "" for the system's, or what SSL_CERT_FILE names. Not
    `create_default_context`, which writes the session's keys where SSLKEYLOGFILE says.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not authorities:
        context.load_default_certs()
    elif Path(authorities).is_dir():
        context.load_verify_locations(capath=authorities)
    else:
        context.load_verify_locations(cafile=authorities)
    return context
