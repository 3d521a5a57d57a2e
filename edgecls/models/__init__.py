"""The architectures: a name gives a torch module, its ImageNet weights and settings that suit it."""

from edgecls.models.architectures import (
    ARCHITECTURES,
    TIMM,
    Architecture,
    create,
    find,
    published_preprocess,
    require_torch,
    timm_settings,
    usual_preprocess,
    usual_size_px,
)
from edgecls.models.deploy import channels_last, deployable, visit_batch_norms
from edgecls.models.weights import (
    imagenet_weights,
    load_weights,
    packaged_weights,
    read_weights,
    restore,
    write_weights,
)

__all__ = [
    "ARCHITECTURES", "TIMM", "Architecture", "channels_last", "create", "deployable", "find",
    "imagenet_weights", "load_weights", "packaged_weights", "published_preprocess", "read_weights", "require_torch",
    "restore", "timm_settings", "usual_preprocess", "usual_size_px", "visit_batch_norms", "write_weights",
]  # fmt: skip
