"""The least that a Python program does to fetch a token: what is left of `cms-oauth` without options, checks and reasons.

python least_client.py SOCKET USER
"""

import _socket
import os
import sys

daemon = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
daemon.settimeout(10)
daemon.connect(sys.argv[1])
daemon.sendall(f"SMTP {sys.argv[2]}\n".encode())
while reply := daemon.recv(65536):
    os.write(1, reply)
os._exit(0)
