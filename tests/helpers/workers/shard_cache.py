"""Worker: reads random blocks through a shared cache and compares them with the local ones."""

import os
import random
import sys
from pathlib import Path

from bertds.data.data_root import DataRoot
from bertds.data.shards.cache import Cache
from bertds.data.shards.reader import ShardSet
from tests.helpers.gloo import emit


def main(url: str, local: str, cache_dir: str, max_bytes: str, reads: str) -> None:
    root = DataRoot(url, Cache(Path(cache_dir), int(max_bytes)))
    names = ["ko", "en"]
    cached = {name: ShardSet.open(root.files(name)) for name in names}
    local_sets = {name: ShardSet.open(Path(local) / name) for name in names}
    generator = random.Random(int(os.environ["RANK"]))
    emit(ready=True)
    wrong = 0
    for _ in range(int(reads)):
        name = generator.choice(names)
        block = generator.randrange(cached[name].num_blocks)
        found, expected = cached[name].read_block(block), local_sets[name].read_block(block)
        wrong += found.tokens.tolist() != expected.tokens.tolist()
    emit(wrong=wrong)


if __name__ == "__main__":
    main(*sys.argv[1:])
