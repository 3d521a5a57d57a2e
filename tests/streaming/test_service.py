"""Under systemd: what is told, and the unit that starts it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls.runtime.store import Artifact
from edgecls.streaming.service import Supervisor, unit


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def test_it_is_ready_once_and_alive_again_and_again(listening: socket.socket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WATCHDOG_USEC", "90000")
    supervisor = Supervisor()
    for _ in range(20):
        supervisor.beat()
        time.sleep(0.01)
    supervisor.stopping()
    listening.settimeout(0.0)
    message = []
    while not message or message[-1] != b"STOPPING=1":
        message.append(listening.recv(100))
    assert message[0] == b"READY=1"
    assert 3 <= message.count(b"WATCHDOG=1") <= 7


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Supervisor().beat()
    Supervisor().stopping()


def test_a_stream_tells_that_it_is_ready_alive_and_ending(
    listening: socket.socket, bundle: Callable[[str, str], Artifact], cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    result = cli("stream", "--camera", "demo", "--model", bundle("onnx", "int8").path, "--duration", 1.2,
                 "--display", "none")  # fmt: skip
    assert result.exit_code == 0, result.output
    message = [listening.recv(100)]
    while message[-1] != b"STOPPING=1":
        message.append(listening.recv(100))
    assert message[0] == b"READY=1"
    assert b"WATCHDOG=1" in message


def test_the_unit_runs_the_command_that_asked_for_it(cli: Callable[..., Result], tmp_path: Path):
    text = unit(["--camera", "rtsp://door/live?a=100%", "--events", "seen it.jsonl"], ["door"])
    assert "Type=notify" in text
    assert "--camera 'rtsp://door/live?a=100%%' --events 'seen it.jsonl'" in text
    assert "WatchdogSec=" in text
    assert f"WorkingDirectory={Path.cwd()}" in text


@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_the_unit_holds_no_secrets_and_says_where_they_belong(form: str, tmp_path: Path):
    secrets = {
        "--camera": "rtsp://me:CAMERA's$ECRET@door/live", "--mqtt": "mqtt://me:BROKER@host/prefix",
        "--webhook": "http://host/HOOK", "--web-token": "TO KEN",
    }  # fmt: skip
    given = [word for option, secret in secrets.items() for word in form.format(option, secret).split(" ", 1)]
    if form == "{}={}":
        given = [form.format(option, secret) for option, secret in secrets.items()]
    done = subprocess.run([sys.executable, "-m", "edgecls", "stream", *given, "--web", "0.0.0.0:8000", "--systemd"],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = ["EDGECLS_CAMERA_0", "EDGECLS_MQTT", "EDGECLS_WEBHOOK", "EDGECLS_WEB_TOKEN"]
    started = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart="))
    assert re.findall(r"(?<!\$)\$\{(\w+)\}", started) == names
    assert not re.search("CAMERA's|ECRET@|BROKER|HOOK@|/HOOK|TO KEN", done.stdout + done.stderr)
    assert all(f"{name}=…" in done.stderr for name in names)
    assert "EnvironmentFile=/etc/edgecls.env" in done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path):
    path = tmp_path / "edgecls.service"
    path.write_text(unit(["--camera", "0"], ["0"]))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, env=os.environ)
    assert "edgecls.service" not in done.stderr, done.stderr
