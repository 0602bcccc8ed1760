"""Worker: from sequences to masked, padded tensors, by a peer's dataset and transformers' collator.

python -m benchmarks.performance.dataloader_peers datasets|streaming ARRAYS [torch]

ARRAYS is a directory of plain arrays. The dataset is first written in the peer's own format. With
`torch`, `datasets` returns tensors instead of lists.
"""

import itertools
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from benchmarks.common.harness import Stopwatch, Turn, serve
from benchmarks.common.peer_tokenizer import load_tokenizer

BATCH, SECONDS, ROWS = 256, 2.0, 50_000


def main() -> tuple[dict[str, str], Turn]:
    """Write the dataset and open it with a torch DataLoader in this process."""
    kind, arrays = sys.argv[1], Path(sys.argv[2])
    tokens, lengths = (np.load(arrays / f"{name}.npy") for name in ("tokens", "lengths"))
    ends = np.cumsum(lengths, dtype=np.int64)[:ROWS]
    rows = np.split(tokens[: ends[-1]], ends[:-1])
    collate = DataCollatorForLanguageModeling(load_tokenizer(arrays))
    if kind == "datasets":
        dataset = make_arrow_dataset(rows, sys.argv[3:])
    else:
        dataset, collate = make_streaming_dataset(rows), widen_ids(collate)
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=kind == "datasets", collate_fn=collate, drop_last=True
    )
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())

    def run_turn() -> dict[str, float]:
        watch, num_tokens = Stopwatch(), 0
        while watch.seconds < SECONDS:
            with watch:
                batch = next(batches)
            num_tokens += int(batch["attention_mask"].sum())
        return watch.answer(num_tokens)

    return {}, run_turn


def make_arrow_dataset(rows: list[np.ndarray], formats: list[str]) -> torch.utils.data.Dataset:
    """Write an Arrow table to disk and memory-map it."""
    import datasets

    path = tempfile.mkdtemp()
    datasets.Dataset.from_dict({"input_ids": [row.tolist() for row in rows]}).save_to_disk(path)
    dataset = datasets.load_from_disk(path)
    return dataset.with_format(formats[0]) if formats else dataset


def make_streaming_dataset(rows: list[np.ndarray]) -> torch.utils.data.IterableDataset:
    """Write MDS shards with the ids as arrays, and open them."""
    stub_torchvision()
    import streaming

    path = tempfile.mkdtemp()
    with streaming.MDSWriter(out=path, columns={"input_ids": "ndarray:uint16"}) as out:
        for row in rows:
            out.write({"input_ids": row.astype(np.uint16)})
    return streaming.StreamingDataset(local=path, shuffle=True, batch_size=BATCH)


def stub_torchvision() -> None:
    """Register stubs for torchvision, which Streaming imports and which needs CUDA to load."""
    datasets = types.ModuleType("torchvision.datasets")
    datasets.VisionDataset = object
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = None
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.datasets"] = datasets
    sys.modules["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision.transforms.functional"] = functional


def widen_ids(collate: Callable[[list[dict]], dict]) -> Callable[[list[dict]], dict]:
    """Convert ids to int64, which torch requires, before the collator sees them."""
    return lambda rows: collate([{"input_ids": row["input_ids"].astype(np.int64)} for row in rows])


if __name__ == "__main__":
    serve(main)
