"""Tokens a core-second from a shard set to packs, beside reading the same bytes and nothing else.

python benchmarks/loader.py DIR [--batch 256] [--row_length 0] [--seconds 5]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertds.case.config import DataConfig, MaskingConfig
from bertds.data.loader import Share, TrainLoader
from bertds.data.sets import MaskedSet, Part, Vocabulary


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--row_length", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    part = Part.open(options.directory.parent, options.directory.name, 1.0)
    loader = make_loader(part, options.batch, options.row_length)
    batches = loader.batches(0, 1 << 60)
    loaded = rate(lambda: sum(pack.num_tokens for pack in next(batches)), options.seconds)
    plain = rate(lambda: read_plainly(part), options.seconds / 5)
    print(
        f"{options.directory}: {loaded / 1e6:.1f} M tokens a core-second in packs of {options.batch} "
        f"sequences, {plain / 1e6:.0f} M by np.frombuffer"
    )


def make_loader(part: Part, batch_size: int, row_length: int) -> TrainLoader:
    """One process, one micro-batch a step, dynamic masking."""
    vocabulary, masking = Vocabulary.of([part]), MaskingConfig()
    share = Share(0, 1, batch_size, row_length, vocabulary.pad_id)
    data = DataConfig.model_validate({"train": [{"name": part.name}]})
    masked = MaskedSet(part, vocabulary.masker(masking), masking)
    return TrainLoader([masked], data, share, batch_size=batch_size, seed=0)


def read_plainly(part: Part) -> int:
    """All ids of the set, by nothing but numpy."""
    index = part.shards.index
    for shard in index.shards:
        content = (part.shards.directory / shard.name).read_bytes()
        int(np.frombuffer(content, dtype=index.dtype).max())
    return index.tokens


def rate(work: Callable[[], int], seconds: float) -> float:
    """Tokens a second of processor time; the work says how many it made and is begun once before."""
    work()
    began, tokens = time.process_time(), 0
    while time.process_time() < began + seconds:
        tokens += work()
    return tokens / (time.process_time() - began)


if __name__ == "__main__":
    main()
