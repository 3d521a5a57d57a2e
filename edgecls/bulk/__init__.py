"""Images by the million, from folders, lists, archives and stores to parts of a table: on one machine or many.

`listing.py` says which images the arguments mean, `shards.py` gathers them into units of work, `worker.py` makes the
part of a shard, an engine (`engine.py`, `cluster.py`) hands shards to workers, and `run.py` puts these together.
"""
