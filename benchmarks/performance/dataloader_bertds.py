"""A worker: shards to masked packs, by the loader that training uses.

python benchmarks/loader_ours.py DIR [LONGEST_ROW], with the shards and 0 for sequences end to end.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from turns import Stopwatch, figures, serve

from bertds.config.schema import DataConfig, MaskingConfig
from bertds.data.dataset import DatasetSubset
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.vocabulary import Vocabulary

BATCH, SECONDS = 256, 2.0


def main() -> tuple[dict[str, str], Callable[[], dict[str, float]]]:
    """One process, one micro-batch a step, dynamic masking."""
    directory, row_length = Path(sys.argv[1]), int(sys.argv[2])
    part = DatasetSubset.open(directory.parent, directory.name, 1.0)
    vocabulary, masking = Vocabulary.of([part]), MaskingConfig()
    share = RankBatchSpec(0, 1, BATCH, row_length, vocabulary.pad_id)
    data = DataConfig.model_validate({"train": [{"name": part.name}]})
    masked = MaskedDataset(part, vocabulary.masker(masking), masking)
    batches = TrainLoader([masked], data, share, batch_size=BATCH, seed=0).batches(0, 1 << 40)

    def turn() -> dict[str, float]:
        watch, tokens = Stopwatch(), 0
        while watch.seconds < SECONDS:
            with watch:
                tokens += sum(pack.num_tokens for pack in next(batches))
        return figures(tokens, watch)

    return {}, turn


if __name__ == "__main__":
    serve(main)
