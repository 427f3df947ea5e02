"""Dovecot's configuration for the tests, in the syntax of 2.3 and in that of 2.4."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.programs import require_program
from support.waiting import PATIENCE

# From this version on the second syntax is used.
_NEW_SYNTAX = (2, 4)

_COMMON = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
auth_verbose = yes
protocols = imap pop3
auth_mechanisms = xoauth2 oauthbearer
# All: the usual ones are fewer than an address may have.
auth_username_chars =
listen = 127.0.0.1
first_valid_uid = 1
ssl = required
# A refused token is a test here, not an attack.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/sasl {{
    mode = 0666
  }}
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {imap}
    ssl = yes
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = 0
  }}
  inet_listener pop3s {{
    port = {pop}
    ssl = yes
  }}
}}
"""

_OLD = """
mail_location = maildir:~/Maildir
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.pem
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={folder}/mail/%Lu
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.ext
}}
"""

# In a file that the passdb names.
_OLD_INTROSPECTION = """
introspection_mode = get
introspection_url = {introspection}
force_introspection = yes
send_auth_headers = yes
username_attribute = email
active_attribute = active
active_value = true
"""

# The first line must be that of the file.
_NEW = """dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
mail_driver = maildir
mail_path = ~/Maildir
ssl_server_cert_file = {folder}/server.pem
ssl_server_key_file = {folder}/server.pem
userdb static {{
  fields {{
    uid = {uid}
    gid = {uid}
    home = {folder}/mail/%{{user | lower}}
  }}
}}
passdb oauth2 {{
  mechanisms_filter = xoauth2 oauthbearer
}}
oauth2 {{
  introspection_mode = get
  introspection_url = {introspection}
  force_introspection = yes
  send_auth_headers = yes
  username_attribute = email
  active_attribute = active
  active_value = true
}}
"""


def write(folder: Path, introspection: str, *, imap: int, pop: int, uid: int) -> Path:
    """Write a configuration for the installed Dovecot, all of it in this folder; return its path.

    The token is appended to the URL of the introspection; `uid` owns all mail.
    """
    fields = {"folder": folder, "introspection": introspection, "imap": imap, "pop": pop, "uid": uid}
    (folder / "oauth2.ext").write_text(_OLD_INTROSPECTION.format(**fields))
    path = folder / "dovecot.conf"
    syntax = _NEW if _version() >= _NEW_SYNTAX else _OLD
    path.write_text((syntax + _COMMON).format(**fields))
    return path


def _version() -> tuple[int, ...]:
    dovecot = require_program("dovecot", "dovecot-core")
    said = subprocess.run([dovecot, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])
