"""Names and bytes on disk, never mathematics: what a checkpoint holds, and writing one whole or not at all.

The only room that reads or writes safetensors files itself.
"""

from eckart.checkpoint.caching import cache_dir
from eckart.checkpoint.digests import digest, json_digest, sha256, sha256_of
from eckart.checkpoint.giving_way import (
    EXPORTED,
    give_way,
    overwriting,
    refuse_existing,
    require_giving_way,
)
from eckart.checkpoint.owning import owned
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
from eckart.checkpoint.writing import (
    appearing,
    copy_companions,
    refuse_full,
    replace_file,
    settle,
)

__all__ = [
    "DTYPES",
    "EXPORTED",
    "INDEX",
    "SINGLE",
    "Checkpoint",
    "Spill",
    "Stored",
    "appearing",
    "cache_dir",
    "copy_companions",
    "digest",
    "give_way",
    "json_digest",
    "open_checkpoint",
    "overwriting",
    "owned",
    "read_file",
    "read_plain",
    "read_shard",
    "read_tensors",
    "refuse_existing",
    "refuse_full",
    "replace_file",
    "require_giving_way",
    "settle",
    "sha256",
    "sha256_of",
    "shard_name",
    "weight_digests",
    "write_index",
    "write_shard",
    "write_tensors",
]
