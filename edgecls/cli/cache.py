"""`edgecls cache`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgecls.cli.common import console, megabytes, messages, shown

KINDS = {"verified": "bundles that gave right answers on this machine"}
"""What is kept besides the compiled graphs of runtimes."""


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is kept on this machine between two starts, and where; or delete it.

    EDGECLS_CACHE names another folder, or is off; EDGECLS_CACHE_MIB says how much may be kept.
    """
    from edgecls import cache as kept

    folder, limit_bytes = kept.folder(), kept.limit_bytes()
    if clear:
        kept.clear()
    sizes = kept.sizes_bytes()
    if as_json:
        entries = {kind: {"entries": count, "bytes": size} for kind, (count, size) in sizes.items()}
        where = {"folder": str(folder) if folder else None, "problem": kept.problem(), "limit_bytes": limit_bytes}
        print(json.dumps({**where, "kept": entries}))
        return
    if folder is None or kept.problem():
        console.print(f"nothing is kept: {kept.problem()}", soft_wrap=True)
        return
    if clear:
        messages.print("deleted")
    console.print(f"{shown(folder)}: {megabytes(sum(size for _, size in sizes.values()))} of at most "
                  f"{megabytes(limit_bytes)}", soft_wrap=True)  # fmt: skip
    for kind, (count, size) in sizes.items():
        what = KINDS.get(kind, f"compiled graphs of {kind}")
        console.print(f"  {count} {what}, {megabytes(size)}", soft_wrap=True)
