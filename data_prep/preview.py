"""Describes a shard set: its counts, a histogram of the sequence lengths, and a few samples."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from bertds import cli
from bertds.data.masked_ratio import MaskedRatio
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.data.white_space import on_one_line
from bertds.io.atomic import atomic_write

HISTOGRAM_NAME = "lengths.png"
_NUM_SAMPLES = 5
_NUM_BARS = 16
_BAR_WIDTH = 50  # characters


def describe(shards: ShardSet) -> str:
    """The counts, the histogram and the samples as text.

    Reads the whole set once, and writes the histogram as `lengths.png` next to the shards.
    """
    length_counts: npt.NDArray[np.int64] = np.zeros(shards.index.seq_len + 1, dtype=np.int64)
    counts: Counter[str] = Counter()
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        length_counts += np.bincount(block.lengths, minlength=len(length_counts))
        if block.positions:
            is_unmaskable = np.isin(block.tokens, shards.index.unmaskable_ids)
            counts["maskable"] += len(block.positions) * int(np.count_nonzero(~is_unmaskable))
            counts["masked"] += sum(len(positions) for positions in block.positions)
    picture = shards.directory / HISTOGRAM_NAME
    name = str(shards.directory)
    # matplotlib's font has few other letters, and warns of each.
    _plot_histogram(picture, length_counts, title=name if name.isascii() else "")
    parts = [
        _format_counts(shards, counts),
        f"sequence lengths ({picture}):",
        _format_histogram(length_counts),
        "samples:",
        _format_samples(shards),
    ]
    return "\n".join(parts)


def _format_counts(shards: ShardSet, counts: Mapping[str, int]) -> str:
    index = shards.index
    masked = "none"
    if index.masking is not None:
        rule = ", ".join(f"{name} {value}" for name, value in asdict(index.masking).items())
        masked = f"{rule}\n{'masked':>20}  {MaskedRatio.of(index.masking, **counts)}"
    rows = {
        "sequences": f"{index.sequences:,}",
        "tokens": f"{index.tokens:,}",
        "lines": f"{index.lines:,}",
        "characters": f"{index.characters:,}",
        "mean length": f"{index.tokens / index.sequences:.2f} tokens",
        "longest": f"{index.max_length} of seq_len {index.seq_len}",
        "characters per token": f"{index.characters / index.tokens:.2f}",
        "bytes per token": f"{index.bytes_per_token:.3f}",
        "vocabulary": f"{index.vocab_size:,} ids, stored as {index.dtype}",
        "special tokens": "around each sequence" if index.special_tokens else "none",
        "shards": f"{len(index.shards)}, {shards.num_blocks:,} blocks",
        "masked copies": masked,
        "set key": index.set_key,
        "dropped": ", ".join(f"{n:,} {reason}" for reason, n in index.dropped.items()) or "nothing",
    }
    return "\n".join(f"{name:>20}  {value}" for name, value in rows.items())


def _format_histogram(length_counts: npt.NDArray[np.int64]) -> str:
    """One bar of characters per range of lengths, up to the longest."""
    longest = int(np.flatnonzero(length_counts)[-1])
    width = -(-longest // _NUM_BARS)
    starts = range(1, longest + 1, width)
    sums = [int(length_counts[start : start + width].sum()) for start in starts]
    bar = "█" if cli.can_print("█") else "#"
    return "\n".join(
        f"{start:>9} to {min(start + width - 1, longest):<5} {count:>12,}  "
        + bar * round(_BAR_WIDTH * count / max(sums))
        for start, count in zip(starts, sums, strict=True)
    )


def _plot_histogram(path: Path, length_counts: npt.NDArray[np.int64], title: str) -> None:
    """Plot the number of sequences of each length; `length_counts` has shape [seq_len + 1]."""
    longest = int(np.flatnonzero(length_counts)[-1])
    lengths = np.arange(1, longest + 1)
    with mpl.rc_context({"svg.hashsalt": "bertds"}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.bar(lengths, length_counts[1 : longest + 1], width=1.0, color="#3b6ea5")
        mean = float((np.arange(len(length_counts)) * length_counts).sum() / length_counts.sum())
        axes.axvline(mean, color="#c44e52", linewidth=1.2, label=f"mean {mean:.1f}")
        axes.set(xlabel="tokens in a sequence", ylabel="sequences", title=title)
        axes.margins(x=0.01)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def _format_samples(shards: ShardSet) -> str:
    """The first sequences, decoded; the first one also as tokens, and as masked in each copy."""
    tokenizer = Tokenizer.load(shards.directory / TOKENIZER_NAME)
    block = shards.read_block(0)
    ends = np.cumsum(block.lengths.astype(np.int64))
    sequences = [ids.tolist() for ids in np.split(block.tokens, ends[:-1])]
    lines = [
        f"  {number}  {on_one_line(tokenizer.decode(ids))}"
        for number, ids in enumerate(sequences[:_NUM_SAMPLES])
    ]
    lines.append("  0  as tokens: " + " ".join(tokenizer.tokens(sequences[0])))
    for copy, inputs in enumerate(block.inputs):
        masked = inputs[: block.lengths[0]].tolist()
        lines.append(f"  0  as masked in copy {copy}: " + " ".join(tokenizer.tokens(masked)))
    return "\n".join(lines)
