"""Other libraries' loggers are quiet while we work, and as before afterwards."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from edgecls.logs import quiet, without_advice


def test_a_logger_is_quiet_inside_and_as_before_afterwards():
    logger = logging.getLogger("somebody")
    logger.setLevel(logging.DEBUG)
    with quiet("somebody"):
        assert logger.level == logging.ERROR
    assert logger.level == logging.DEBUG


def test_threads_that_overlap_leave_the_level_as_it_was():
    logger = logging.getLogger("somebody.else")
    logger.setLevel(logging.INFO)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with quiet("somebody.else"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with quiet("somebody.else"):
        thread.start()
        inside.wait(10)
    assert logger.level == logging.ERROR
    leave.set()
    thread.join()
    assert logger.level == logging.INFO


def test_only_the_advice_of_one_package_is_kept_from_the_root(caplog: pytest.LogCaptureFixture):
    record = logging.LogRecord("root", logging.WARNING, "/x/onnxruntime/quantize.py", 1, "advice", (), None)
    with without_advice("onnxruntime"):
        logging.getLogger().handle(record)
        logging.getLogger().warning("ours")
    assert caplog.messages == ["ours"]


@pytest.mark.parametrize(
    ("name", "work"),
    [
        (
            "lightning_fabric",
            "from edgecls.training.parallel import launched\nwith launched('fp32', False): print(logger.level)",
        ),
        (
            "optuna",
            "from edgecls.tuning import search\nsearch.open_study = lambda _: print(logger.level) or exit()\n"
            "search.tune(search.TuneConfig())",
        ),
    ],
)
def test_libraries_are_quiet_in_the_first_call_of_a_process_too(name: str, work: str):
    code = f"import logging\nlogger = logging.getLogger({name!r})\n{work}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(logging.ERROR)], done.stderr
    assert done.stderr == ""
