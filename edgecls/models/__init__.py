"""The architectures: a name gives a torch module, its ImageNet weights and settings that suit it."""

from edgecls.models.architectures import (
    ARCHITECTURES,
    PRUNED,
    SIMPLE_CNN,
    TIMM,
    Architecture,
    create,
    family_of,
    find,
    published_preprocess,
    require_torch,
    timm_settings,
    unpruned,
    usual_preprocess,
    usual_size_px,
)
from edgecls.models.deploy import channels_last, deployable, visit_batch_norms
from edgecls.models.layers import SimpleCnn
from edgecls.models.pruned import fit_layers
from edgecls.models.weights import (
    imagenet_weights,
    load_weights,
    packaged_weights,
    read_weights,
    read_weights_for,
    restore,
    write_weights,
)

__all__ = [
    "ARCHITECTURES", "PRUNED", "SIMPLE_CNN", "TIMM", "Architecture", "SimpleCnn", "channels_last", "create",
    "deployable", "family_of", "find", "fit_layers", "imagenet_weights", "load_weights", "packaged_weights",
    "published_preprocess", "read_weights", "read_weights_for", "require_torch", "restore", "timm_settings", "unpruned",
    "usual_preprocess", "usual_size_px", "visit_batch_norms", "write_weights",
]  # fmt: skip
