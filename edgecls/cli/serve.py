"""`edgecls serve`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from edgecls.cli.common import messages, opening
from edgecls.cli.options import Option, configured
from edgecls.cli.serving import TOKEN_VARIABLE, stopping_on_signals
from edgecls.serving.config import ServeConfig

if TYPE_CHECKING:
    from edgecls.serving.run import Serving

ADDRESSES, LIMITS, COMPUTING = "Addresses", "Limits", "Computing"


@configured(
    panels={
        ADDRESSES: ("http", "grpc", "tls_cert", "tls_key", "web_token", "web_token_file", "allow_origin"),
        COMPUTING: ("threads", "max_batch", "batch_delay_ms", "unknown", "false_refusals", "no_check"),
        LIMITS: (
            "queue", "timeout_s", "max_images", "body_mib", "held_mib", "connections", "drain_s",
        ),
    },
    models=Option(argument="MODEL"),
    web_token=Option(
        names=("--token",), variable=TOKEN_VARIABLE,
        help="What clients must send as Authorization: Bearer; drawn where others can reach the server.",
    ),
    web_token_file=Option(names=("--token-file",), help="A file whose only line is the token."),
)  # fmt: skip
def serve(config: ServeConfig) -> None:
    """Answer other programs by the Open Inference Protocol (KServe v2, Triton), by HTTP and gRPC.

    SIGHUP loads the models again; SIGTERM and Ctrl-C answer what is under way, then end.
    """
    from edgecls.serving.run import serve as run

    config.check()
    with (
        ExitStack() as waiting,
        _logging_to_stderr(config.access_log),
        _reloading_on_hangup() as reload,
        stopping_on_signals() as (stop, _),
    ):
        on_progress = waiting.enter_context(opening("the models"))

        def announce(serving: Serving) -> None:
            for say in (waiting.close, partial(_announce, serving)):
                with suppress(OSError):  # a full disk under the log keeps nobody from asking
                    say()

        run(config, stop, reload, announce, on_progress)


def _announce(serving: Serving) -> None:
    """Say what is served where; the token, where it was drawn, to a terminal alone."""
    for model in serving.models:
        messages.print(f"model: {model}", soft_wrap=True)
    for protocol, address in serving.addresses.items():
        messages.print(f"{protocol}: {address}", soft_wrap=True)
    if serving.token_drawn and messages.is_terminal:
        messages.print(f"token: {serving.token}", soft_wrap=True)
    elif serving.token_drawn:
        messages.print(
            f"token: drawn, and not shown here: choose one by {TOKEN_VARIABLE} or --token-file", soft_wrap=True
        )


@contextmanager
def _reloading_on_hangup() -> Iterator[threading.Event]:
    """An event that SIGHUP sets."""
    reload = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: reload.set())
    try:
        yield reload
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _logging_to_stderr(requests: bool) -> Iterator[None]:
    """What the server has to tell goes to standard error while the block runs, and each request as JSON if so asked.

    Warnings and errors are said by the program's own handler already; a traceback follows here.
    """
    logger, access = logging.getLogger("edgecls.serving"), logging.getLogger("edgecls.serving.access")
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.levelno < logging.WARNING or bool(record.exc_info))
    levels = logger.level, access.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    access.setLevel(logging.INFO if requests else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(levels[0])
        access.setLevel(levels[1])
