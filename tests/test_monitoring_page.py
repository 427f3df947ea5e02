"""docs/monitoring.md shows what cms prints, and commands and rules that are right."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.fragments import marked
from support.programs import require_program
from support.status_rows import DAEMON, DAY, ENTRIES, EXPECTED, MACHINE, NOW, WALL, given, row_of
from support.waiting import PATIENCE, until

from cms.core.accounts import FleetFacts
from cms.core.monitoring import check_line
from cms.core.status import as_json, describe
from cms.daemon import openmetrics
from cms.system import logs

PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def block(name: str) -> str:
    return marked(PAGE, name)


def metrics() -> str:
    """The metrics of accounts of which everything is known."""
    rows = [replace(given(12, forecast=EXPECTED), credential_ends_in=60, shared=True), row_of("failing")]
    counters = {"requests": {"granted": 1}, "refreshes": {"bounds": (1.0,), "outcomes": {"transient": _ONE}}}
    daemon = replace(DAEMON, fleet=FleetFacts())
    return openmetrics.text({**as_json(rows, daemon), "counters": counters}).decode()


_ONE = {"counts": [1, 0], "seconds": 0.5}


def test_the_line_is_what_cms_prints() -> None:
    """Character by character."""
    known = replace(ENTRIES["ok"].sign_in, credential_expires=WALL + 19 * DAY)
    rows = describe([replace(ENTRIES["ok"], account=MACHINE, user="a@domain.com", sign_in=known)], NOW, WALL)

    assert block("line") == check_line(rows) + "\n"


@pytest.mark.parametrize("name", ["icinga", "sudoers"])
def test_both_run_the_same_command(name: str) -> None:
    """What Icinga calls is what sudo permits."""
    words = re.findall(r"[\w/-]+", block(name))

    assert ["status", "--check"] == [each for each in words if each in ("status", "--check")]
    assert {"icinga": "cms", "sudoers": "/usr/bin/cms"}[name] in words


def test_the_text_file_is_whole_or_the_old_one(tmp_path: Path) -> None:
    """The command as the page has it, in another folder: a `cms` that fails leaves what was there."""
    cms = tmp_path / "cms"
    script = block("textfile").replace("/var/lib/prometheus/node-exporter", str(tmp_path))

    def run(body: str) -> str:
        cms.write_text(f"#!/bin/sh\n{body}\n")
        cms.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", script], env=environment, check=False)
        return (tmp_path / "cms.prom").read_text()

    assert str(tmp_path) in script
    assert ["metrics\n", "metrics\n"] == [run('echo "$1"'), run('echo "half"; exit 69')]


def test_every_metric_is_in_the_table_and_there() -> None:
    """The table has each name once, and no other."""
    listed = re.findall(r"^\| (`cms_.*?) \|", PAGE, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(listed))
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics(), re.MULTILINE))

    assert sorted(named) == sorted(f"{name}_total" if kind == "counter" else name for name, kind in types.items())


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    """The rules are YAML of Prometheus' form, and each name and label in them is one of cms's or node_exporter's."""
    (group,) = importlib.import_module("yaml").safe_load(block("alerts"))["groups"]
    text = metrics()

    for rule in group["rules"]:
        assert {"alert", "expr", "annotations"} <= set(rule) <= {"alert", "expr", "annotations", "for"}
        for name in re.findall(r"\bcms_\w+", rule["expr"]):
            assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), name
    assert 'outcome="transient"' in text


def test_the_log_line_has_the_fields_that_the_page_names() -> None:
    """In JSON, and each with a row of the table if it is about a request."""
    out = io.StringIO()
    shown = json.loads(block("json"))
    fields = {name: value for name, value in shown.items() if name not in ("time", "level", "event")}
    logs.setup(form="json", stream=out)
    logs.get_logger().info(shown["event"], **fields)

    assert shown == {**json.loads(out.getvalue()), "time": shown["time"]}
    assert set() == fields.keys() - set(re.findall(r"`(\w+)`", PAGE))


# What Debian's rsyslog.conf does with journald's socket, at another place.
_RSYSLOG = """
global(workDirectory="{folder}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log")
{rules}
"""


def test_rsyslog_keeps_and_sends_warnings(tmp_path: Path) -> None:
    """Of cms, and no other program; information is left out."""
    program = require_program("rsyslogd", "rsyslog")
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        other.settimeout(PATIENCE)
        rules = block("rsyslog").replace("/var/log/cms-warnings.log", f"{tmp_path}/warnings")
        rules = rules.replace("loghost.example.com", "127.0.0.1").replace('"514"', f'"{other.getsockname()[1]}"')
        (tmp_path / "rsyslog.conf").write_text(_RSYSLOG.format(folder=tmp_path, rules=rules))
        command = [program, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                until((tmp_path / "log").exists, "rsyslog's socket")
                for line in ("<30>cms[7]: fresh", "<28>exim[7]: no mail", "<28>cms[7]: the password was changed"):
                    journald.sendto(line.encode(), str(tmp_path / "log"))
                with other.accept()[0] as connection, connection.makefile() as lines:
                    sent = lines.readline()
            finally:
                running.terminate()

    kept = (tmp_path / "warnings").read_text().splitlines()
    assert [True] == [line.endswith("cms[7]: the password was changed") for line in kept]
    assert sent.endswith("cms[7]: the password was changed\n")
