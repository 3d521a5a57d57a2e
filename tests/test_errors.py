"""Errors say what they say in every process."""

from __future__ import annotations

import pickle

import pytest

from edgecls.errors import EdgeclsError, MissingExtraError, UsageError


@pytest.mark.parametrize(
    "error", [MissingExtraError("ray", "scale", "`engine` ray"), UsageError("no", "top"), EdgeclsError()]
)
def test_an_error_crosses_processes(error: EdgeclsError):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.field) == (type(error), str(error), error.field)
