"""A look at a shard set: its counts, the lengths of its sequences (a PNG too), a few samples."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from bertds.data.shards.format import TOKENIZER_NAME, Block
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer

HISTOGRAM_NAME = "lengths.png"
_NUM_SAMPLES = 5
_NUM_BARS = 16
_BAR_WIDTH = 50  # characters


def describe(shards: ShardSet) -> str:
    """Counts, histogram and samples as text; writes the histogram beside the shards as well.

    Reads the whole set once.
    """
    lengths = _length_counts(shards)
    _draw(shards.directory / HISTOGRAM_NAME, lengths, str(shards.directory))
    parts = [
        _counts(shards),
        f"sequence lengths ({shards.directory / HISTOGRAM_NAME}):",
        _bars(lengths),
        "samples:",
        _samples(shards),
    ]
    return "\n".join(parts)


def _counts(shards: ShardSet) -> str:
    index = shards.index
    facts = {
        "sequences": f"{index.sequences:,}",
        "tokens": f"{index.tokens:,}",
        "lines": f"{index.lines:,}",
        "characters": f"{index.characters:,}",
        "mean length": f"{index.tokens / index.sequences:.2f} tokens",
        "longest": f"{index.max_length} of seq_len {index.seq_len}",
        "characters a token": f"{index.characters / index.tokens:.2f}",
        "bytes a token": f"{index.bytes_per_token:.3f}",
        "vocabulary": f"{index.vocab_size:,} ids, stored as {index.dtype}",
        "special tokens": "around each sequence" if index.special_tokens else "none",
        "shards": f"{len(index.shards)}, {shards.num_blocks:,} blocks",
        "masked copies": str(index.masking) if index.masking else "none",
        "set key": index.set_key,
        "dropped": ", ".join(f"{n:,} {why}" for why, n in index.dropped.items()) or "nothing",
    }
    return "\n".join(f"{name:>20}  {fact}" for name, fact in facts.items())


def _length_counts(shards: ShardSet) -> npt.NDArray[np.int64]:
    """How many sequences have each length, shape [seq_len + 1]."""
    counts: npt.NDArray[np.int64] = np.zeros(shards.index.seq_len + 1, dtype=np.int64)
    for block in range(shards.num_blocks):
        counts += np.bincount(shards.read_block(block).lengths, minlength=len(counts))
    return counts


def _bars(counts: npt.NDArray[np.int64]) -> str:
    """A bar for each range of lengths up to the longest."""
    longest = int(np.flatnonzero(counts)[-1])
    width = -(-longest // _NUM_BARS)
    starts = range(1, longest + 1, width)
    sums = [int(counts[start : start + width].sum()) for start in starts]
    return "\n".join(
        f"{start:>9} to {min(start + width - 1, longest):<5} {count:>12,}  "
        + "█" * round(_BAR_WIDTH * count / max(sums))
        for start, count in zip(starts, sums, strict=True)
    )


def _draw(path: Path, counts: npt.NDArray[np.int64], title: str) -> None:
    longest = int(np.flatnonzero(counts)[-1])
    lengths = np.arange(1, longest + 1)
    with mpl.rc_context({"svg.hashsalt": "bertds"}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.bar(lengths, counts[1 : longest + 1], width=1.0, color="#3b6ea5")
        mean = float((np.arange(len(counts)) * counts).sum() / counts.sum())
        axes.axvline(mean, color="#c44e52", linewidth=1.2, label=f"mean {mean:.1f}")
        axes.set(xlabel="tokens in a sequence", ylabel="sequences", title=title)
        axes.margins(x=0.01)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _samples(shards: ShardSet) -> str:
    """The first sequences of the first block, decoded; the first one also as tokens."""
    tokenizer = Tokenizer.load(shards.directory / TOKENIZER_NAME)
    block = shards.read_block(0)
    rows = _sequences(block)[:_NUM_SAMPLES]
    lines = [f"  {number}  {tokenizer.decode(row)}" for number, row in enumerate(rows)]
    lines.append("  0  as tokens: " + " ".join(tokenizer.tokens(rows[0])))
    for copy, inputs in enumerate(block.inputs):
        masked = inputs[: block.lengths[0]].tolist()
        lines.append(f"  0  as masked in copy {copy}: " + " ".join(tokenizer.tokens(masked)))
    return "\n".join(lines)


def _sequences(block: Block) -> list[list[int]]:
    ends = np.cumsum(block.lengths.astype(np.int64))
    return [row.tolist() for row in np.split(block.tokens, ends[:-1])]
