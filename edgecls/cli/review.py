"""`edgecls review`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecls.cli.common import console, messages, shown, working
from edgecls.cli.options import NAMES, Option, configured
from edgecls.cli.serving import TOKEN_VARIABLE, announced, stopping_on_signals
from edgecls.errors import UsageError
from edgecls.reviewing.config import ReviewConfig
from edgecls.reviewing.items import Item

PICTURES, PAGE = "Pictures", "Page"


@configured(
    panels={
        PICTURES: ("pool", "data", "model", "classes", "group", "move"),
        PAGE: ("web", "web_token", "web_token_file"),
    },
    pool=Option(argument="POOL"),
    classes=NAMES,
    web_token=Option(variable=TOKEN_VARIABLE),
)
def review(
    config: ReviewConfig,
    suspects: Annotated[
        bool, typer.Option("--suspects", help="Look again at labelled images that may be labelled wrong.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Serve no page; do what stands in the log and is not done yet.")
    ] = False,
) -> None:
    """Label the pictures of a pool by keyboard, in groups of those that look alike, the most useful first."""
    from edgecls.reviewing.run import review as run

    config.check()
    doubted: list[Item] | None = None
    if suspects:
        if config.pool is not None:
            raise UsageError("--suspects looks at the images in --data; leave the pool out")
        doubted = [] if replay else _doubted(config)
    with stopping_on_signals() as (stop, received):
        done = run(
            config, doubted, stop, lambda server, url: announced(server, "page")(url), messages.print, replay=replay
        )
    decided = ", ".join(f"{count} {label}" for label, count in done.counts.items())
    console.print(f"decided: {decided or 'nothing'}; {done.left} left", soft_wrap=True)
    if done.gone:
        messages.print(f"{done.gone} pictures were gone before they could be copied")
    if done.moved:
        console.print(f"{done.moved} pictures taken out of the pool")
    console.print(f"log: {shown(done.log)}", soft_wrap=True)
    if received:
        raise typer.Exit(128 + received[0])


def _doubted(config: ReviewConfig) -> list[Item]:
    """What `edgecls data suspects` lists."""
    from edgecls.evaluation.config import SuspectsConfig
    from edgecls.evaluation.suspects import find_suspects

    with working("searching for suspects") as spinner:
        found = find_suspects(SuspectsConfig(data=str(config.data), model=config.model), spinner.update)
    return [
        Item(each.key, label=each.label, suggested=each.suggested, reason=each.reason, other=each.other)
        for each in found.ranked
    ]
