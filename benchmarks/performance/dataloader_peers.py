"""A worker: sequences to masked, padded tensors by a peer's data set and transformers' collator.

python benchmarks/loader_peer.py datasets|streaming DIR [torch], with the plain arrays. The data set
is written first, in the peer's own form; `torch` asks `datasets` for tensors instead of lists.
"""

import itertools
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from peer_tokenizer import tokenizer_of
from transformers import DataCollatorForLanguageModeling
from turns import Stopwatch, figures, serve

BATCH, SECONDS, ROWS = 256, 2.0, 50_000


def main() -> tuple[dict[str, str], Callable[[], dict[str, float]]]:
    """A torch DataLoader in this process over the peer's data set."""
    kind, directory = sys.argv[1], Path(sys.argv[2])
    rows = rows_of(directory)
    made = of_datasets(rows, sys.argv[3:]) if kind == "datasets" else of_streaming(rows)
    tokenizer = tokenizer_of(directory)
    collate = DataCollatorForLanguageModeling(tokenizer)
    if kind == "streaming":
        collate = plain_first(collate)
    loader = torch.utils.data.DataLoader(
        made, BATCH, shuffle=kind == "datasets", collate_fn=collate, drop_last=True
    )
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    return {}, lambda: turn(batches)


def rows_of(directory: Path) -> list[np.ndarray]:
    """The first sequences."""
    tokens, lengths = (np.load(directory / f"{name}.npy") for name in ("tokens", "lengths"))
    ends = np.cumsum(lengths, dtype=np.int64)[:ROWS]
    return np.split(tokens[: ends[-1]], ends[:-1])


def of_datasets(rows: list[np.ndarray], formats: list[str]) -> torch.utils.data.Dataset:
    """An arrow table on disk, read back by memory map."""
    import datasets

    path = tempfile.mkdtemp()
    datasets.Dataset.from_dict({"input_ids": [row.tolist() for row in rows]}).save_to_disk(path)
    made = datasets.load_from_disk(path)
    return made.with_format(formats[0]) if formats else made


def of_streaming(rows: list[np.ndarray]) -> torch.utils.data.IterableDataset:
    """MDS shards with the ids as an array."""
    stand_in_for_torchvision()
    import streaming

    path = tempfile.mkdtemp()
    with streaming.MDSWriter(out=path, columns={"input_ids": "ndarray:uint16"}) as out:
        for row in rows:
            out.write({"input_ids": row.astype(np.uint16)})
    return streaming.StreamingDataset(local=path, shuffle=True, batch_size=BATCH)


def stand_in_for_torchvision() -> None:
    """Streaming imports it for pictures; the published one needs CUDA's libraries to load."""
    datasets = types.ModuleType("torchvision.datasets")
    datasets.VisionDataset = object
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = None
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.datasets"] = datasets
    sys.modules["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision.transforms.functional"] = functional


def plain_first(collate: Callable[[list], dict]) -> Callable[[list], dict]:
    """Ids wide enough for torch, then the collator."""
    return lambda rows: collate([{"input_ids": row["input_ids"].astype(np.int64)} for row in rows])


def turn(batches: Iterator[dict]) -> dict[str, float]:
    """Some seconds of batches."""
    watch, tokens = Stopwatch(), 0
    while watch.seconds < SECONDS:
        with watch:
            batch = next(batches)
        tokens += int(batch["attention_mask"].sum())
    return figures(tokens, watch)


if __name__ == "__main__":
    serve(main)
