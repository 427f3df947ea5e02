"""A plain asyncio server: no account, no policy, no log. Every client that sends a line gets the same bytes.

python asyncio_server.py SOCKET BYTES
"""

import asyncio
import sys

_REPLY = b"x" * int(sys.argv[2])


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client."""
    await reader.readline()
    writer.write(_REPLY)
    await writer.drain()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_unix_server(serve, sys.argv[1], backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
