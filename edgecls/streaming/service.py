"""Running under systemd: telling it that the stream is alive, and the unit that starts it.

The protocol is that of sd_notify(3): datagrams to the socket that $NOTIFY_SOCKET names.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecls.clock import milliseconds_since, now_ns

UNIT = """\
# /etc/systemd/system/edgecls.service; then: systemctl enable --now edgecls
[Unit]
Description=edgecls: {what}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
WorkingDirectory={folder}
User={user}
# Secrets, in a file that root alone can read: EDGECLS_WEB_TOKEN=, EDGECLS_MQTT=, EDGECLS_WEBHOOK=, EDGECLS_CAMERA_0=:
EnvironmentFile={optional}{file}
SupplementaryGroups=video
Restart=always
RestartSec=5
WatchdogSec=60
TimeoutStopSec=30
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


SECRETS_FILE = "/etc/edgecls.env"
"""Where the unit takes secrets from: units themselves can be read by everybody."""


def unit(arguments: Sequence[str], cameras: Sequence[str], secrets: Mapping[str, str] | None = None) -> str:
    """A systemd unit that runs `edgecls stream` with these arguments, from here, as this user.

    `secrets`, from names of variables to what is secret in the arguments, are not written: `SECRETS_FILE` is to.
    """
    import getpass

    marks = {f"@{name}@": secret for name, secret in (secrets or {}).items()}
    words = [sys.executable, "-m", "edgecls", "stream", *arguments]
    for mark, secret in marks.items():
        words = [word.replace(secret, mark) for word in words]
    command = shlex.join(words).replace("%", "%%").replace("$", "$$")
    for mark in marks:
        command = command.replace(mark, f"${{{mark.strip('@')}}}")
    return UNIT.format(
        what=", ".join(cameras).replace("%", "%%"), command=command, folder=str(Path.cwd()).replace("%", "%%"),
        user=getpass.getuser(), optional="" if secrets else "-", file=SECRETS_FILE,
    )  # fmt: skip


class Supervisor:
    """Tells systemd that the service is ready, alive, and ending; silent where there is no systemd."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET")
        self._every_ms = int(os.environ.get("WATCHDOG_USEC", "0")) / 1000 / 3
        self._told_ns: int | None = None

    def beat(self) -> None:
        """The loop is alive: call it often; the first time says that the service is ready."""
        if self._address is None:
            return
        if self._told_ns is None:
            self._tell("READY=1")
            self._told_ns = now_ns()
        elif self._every_ms and milliseconds_since(self._told_ns) >= self._every_ms:
            self._tell("WATCHDOG=1")
            self._told_ns = now_ns()

    def stopping(self) -> None:
        """The service is ending, cleanly."""
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), address)
