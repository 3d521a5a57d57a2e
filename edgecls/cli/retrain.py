"""`edgecls retrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.cli.common import console, messages, percent, print_verdict, shown
from edgecls.cli.options import Option, configured
from edgecls.retraining.config import RetrainConfig

if TYPE_CHECKING:
    from rich.status import Status

    from edgecls.adapting.verdict import Verdict
    from edgecls.retraining.retrain import RetrainCallbacks
    from edgecls.training.history import Epoch


@configured(run=Option(argument="RUN"), rename=Option(metavar="OLD=NEW"), remove=Option(metavar="CLASS"))
def retrain(config: RetrainConfig) -> None:
    """Let a run learn from new images beside its own; what is worse on old or new ones is not written."""
    from edgecls.retraining.retrain import retrain as learn_again

    with messages.status("learning again") as status:
        retrained = learn_again(config, _callbacks(status))
    console.print(f"run: {shown(retrained.artifact.path)}", soft_wrap=True)


def _callbacks(status: Status) -> RetrainCallbacks:
    from edgecls.retraining.retrain import RetrainCallbacks

    class Printing(RetrainCallbacks):
        """Shows the running step, prints remarks, epochs and the verdict."""

        def step(self, line: str) -> None:
            status.update(line)

        def remark(self, line: str) -> None:
            console.print(line, soft_wrap=True)

        def epoch(self, epochs: int, epoch: Epoch) -> None:
            console.print(f"epoch {epoch.epoch:3d} of {epochs}  val top-1 {percent(epoch.val_top1)}")

        def judged(self, verdict: Verdict) -> None:
            print_verdict(verdict)

    return Printing()
