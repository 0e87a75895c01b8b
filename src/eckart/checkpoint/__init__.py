"""Names and bytes on disk, never mathematics: what a checkpoint holds.

The only room that reads or writes safetensors files itself.
"""

from eckart.checkpoint.caching import cache_dir
from eckart.checkpoint.digests import digest, json_digest, sha256, sha256_of
from eckart.checkpoint.plain import read_plain
from eckart.checkpoint.reading import (
    DTYPES,
    INDEX,
    SINGLE,
    Checkpoint,
    Stored,
    open_checkpoint,
    read_file,
    weight_digests,
)
from eckart.checkpoint.shards import read_shard, shard_name, write_index, write_shard
from eckart.checkpoint.spilling import Spill
from eckart.checkpoint.tensors import read_tensors, write_tensors

__all__ = [
    "DTYPES",
    "INDEX",
    "SINGLE",
    "Checkpoint",
    "Spill",
    "Stored",
    "cache_dir",
    "digest",
    "json_digest",
    "open_checkpoint",
    "read_file",
    "read_plain",
    "read_shard",
    "read_tensors",
    "sha256",
    "sha256_of",
    "shard_name",
    "weight_digests",
    "write_index",
    "write_shard",
    "write_tensors",
]
