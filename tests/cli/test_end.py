"""A command ends at once, but nothing is left undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_threads_are_waited_for_exit_functions_run_and_output_is_written():
    code = (
        "import atexit, sys, threading, time; from edgecls.cli import main;"
        "atexit.register(print, 'exit function');"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start();"
        "sys.argv = ['edgecls', '--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == ["edgecls", "thread", "exit"]


def test_the_exit_code_is_that_of_the_error():
    done = subprocess.run([sys.executable, "-m", "edgecls", "info", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_an_error():
    for arguments in (["--version"], ["--help"], ["doctor", "--json"]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "edgecls", *arguments]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 8
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
