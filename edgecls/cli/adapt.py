"""`edgecls adapt`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.adapting.config import AdaptConfig
from edgecls.cli.common import console, messages, print_verdict, shown
from edgecls.cli.options import Option, configured

if TYPE_CHECKING:
    from rich.status import Status

    from edgecls.adapting.adapt import AdaptCallbacks
    from edgecls.adapting.verdict import Verdict


@configured(bundle=Option(argument="BUNDLE"), rename=Option(metavar="OLD=NEW"), remove=Option(metavar="CLASS"))
def adapt(config: AdaptConfig) -> None:
    """Fit the last layer of an ONNX bundle to new images, on the device; what is worse is not written."""
    from edgecls.adapting.adapt import adapt as learn_again

    with messages.status("adapting") as status:
        adapted = learn_again(config, _callbacks(status))
    console.print(f"bundle: {shown(adapted.artifact.path)}", soft_wrap=True)


def _callbacks(status: Status) -> AdaptCallbacks:
    from edgecls.adapting.adapt import AdaptCallbacks

    class Printing(AdaptCallbacks):
        """Shows the running step, prints remarks and the verdict."""

        def step(self, line: str) -> None:
            status.update(line)

        def remark(self, line: str) -> None:
            console.print(line, soft_wrap=True)

        def judged(self, verdict: Verdict) -> None:
            print_verdict(verdict)

    return Printing()
