"""A stand-in for the server of the original design: one asyncio process that holds MSAL, the keyring and the tokens.

    python original_server.py SOCKET BYTES USER

Written for this bench from its protocol and from what it imports; no line is the original's. It has one account, whose
token it always holds.
"""

import asyncio
import os
import re
import sys

import keyring  # noqa: F401 - in the same process, as in the original
import msal  # noqa: F401 - as above

_REQUEST = re.compile(r"(?P<protocol>[A-Z]+) (?P<user>\S+)")
_TOKENS = {sys.argv[3]: "x" * (int(sys.argv[2]) - len(f"user={sys.argv[3]}\1auth=Bearer \1\1"))}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client."""
    request = (await reader.readline()).decode().strip()
    asked = _REQUEST.fullmatch(request)
    if asked and asked["user"] in _TOKENS:
        writer.write(f"user={asked['user']}\1auth=Bearer {_TOKENS[asked['user']]}\1\1".encode())
        await writer.drain()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    os.umask(0o177)
    server = await asyncio.start_unix_server(serve, sys.argv[1])
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
