"""Where frames come from."""

from edgecls.streaming.sources.base import Source
from edgecls.streaming.sources.choose import open_source
from edgecls.streaming.sources.live import LiveSource

__all__ = ["LiveSource", "Source", "open_source"]
