"""Where frames come from."""

from edgecls.stream.sources.base import Source
from edgecls.stream.sources.choose import CameraOptions, open_source
from edgecls.stream.sources.live import LiveSource

__all__ = ["CameraOptions", "LiveSource", "Source", "open_source"]
