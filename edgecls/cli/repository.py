"""`edgecls repository`."""

from __future__ import annotations

from edgecls.cli.common import console, shown
from edgecls.cli.options import Option, configured
from edgecls.serving.repository import RepositoryConfig


@configured(models=Option(argument="MODEL"))
def repository(config: RepositoryConfig) -> None:
    """Write bundles as another server's model repository: Triton's, or OpenVINO Model Server's."""
    from edgecls.serving.repository import write_repository

    for each in write_repository(config):
        also = f", and as {each.images} for encoded images" if each.images else ""
        console.print(f"{each.name} version {each.version}: {shown(each.bundle)}{also}", soft_wrap=True)
    console.print(f"repository: {shown(config.out)}", soft_wrap=True)
