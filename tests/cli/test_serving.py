"""Where a page is, is said to whoever started it."""

from __future__ import annotations

import pytest

from edgecls.cli.serving import announced
from edgecls.web.server import Server


def test_a_drawn_token_is_said_wherever_standard_error_goes(capsys: pytest.CaptureFixture[str]):
    server = Server("0.0.0.0:0")
    announced(server, "page")(server.url)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"page: {server.url}\n"
    assert server.token
    assert server.token in said.err


def test_a_given_token_is_not_written_into_logs(capsys: pytest.CaptureFixture[str]):
    server = Server("0.0.0.0:0", "a secret of mine")
    announced(server)(server.url)
    said = capsys.readouterr().err
    assert said.startswith("web view: http://")
    assert "secret of mine" not in said
    assert "token=***" in said


def test_a_page_without_a_token_is_said_whole(capsys: pytest.CaptureFixture[str]):
    server = Server("127.0.0.1:0")
    announced(server)(server.url)
    assert capsys.readouterr().err == "web view: http://127.0.0.1:0/\n"
