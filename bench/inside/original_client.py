"""A stand-in for the command of the original design: argparse over a package that imports asyncio for everything in it.

    python original_client.py --proto SMTP --user USER --cms_sock SOCKET --output xoauth2

Written for this bench from its options and from what it imports; no line is the original's. What it costs is that.
"""

import argparse
import asyncio  # noqa: F401 - the original's package imports it at its start
import base64
import re
import socket
import sys


def main() -> int:
    """Ask for a token and print it."""
    parser = argparse.ArgumentParser(description="Print a token")
    parser.add_argument("--proto", default="SMTP", choices=("SMTP", "IMAP"))
    parser.add_argument("--user", required=True)
    parser.add_argument("--cms_sock", required=True)
    parser.add_argument("--output", default="xoauth2", choices=("xoauth2", "xoauth2-b64", "token"))
    args = parser.parse_args()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(args.cms_sock)
        sock.sendall(f"{args.proto} {args.user}\n".encode())
        with sock.makefile("rb") as file:
            reply = file.read()
    found = re.fullmatch(b"user=.*\x01auth=Bearer (.*)\x01\x01", reply)
    if not found:
        print("there is no token", file=sys.stderr)
        return 100
    outputs = {"xoauth2": reply, "xoauth2-b64": base64.b64encode(reply), "token": found[1]}
    sys.stdout.buffer.write(outputs[args.output])
    return 0


sys.exit(main())
