"""`python -m data_prep`: raw text to a tokenizer and shards, and a look at them."""

import sys
from pathlib import Path
from typing import Literal

from bertds.cli import Command, run
from bertds.data.shards.reader import ShardSet
from bertds.errors import ShardError
from data_prep import train_tokenizer
from data_prep.executors.local import default_workers
from data_prep.output.manifest import MADE_NAME, counts_of
from data_prep.output.storage import output_of
from data_prep.readers.jsonl import COLUMN
from data_prep.readers.sources import Inputs
from data_prep.reproduction import MERGES, make_record, table
from data_prep.sample.generator import write_sample
from data_prep.sharding.options import ShardOptions, masking_of
from data_prep.sharding.pipeline import make_shards
from data_prep.verify import _faults, _sets_below

RECORD_MERGES = ",".join(map(str, MERGES))


def sample(out: Path, sentences: int = 20_000, seed: int = 0) -> None:
    """Write a generated Korean-English parallel corpus that a small encoder can learn.

    Args:
        out: Directory for ko.txt and en.txt.
        sentences: Lines of each; line i of one is the translation of line i of the other.
        seed: Another seed, other sentences.
    """
    write_sample(out, sentences, seed)


def tokenizer(
    merges: int,
    out: Path,
    input: str = "",
    from_hf: str = "",
    from_mds: str = "",
    column: str = COLUMN,
    lowercase: bool = False,
    min_count: int = 5,
) -> None:
    """Train a BPE tokenizer: special tokens, characters, then so many merges.

    Args:
        merges: The vocabulary's merges; its size is known only when the characters are.
        out: The tokenizer.json to write.
        input: Text: F[,F...], each a path, URL, glob or - (.gz, .zst, .jsonl, .tar, .parquet too).
        from_hf: Directories of datasets: written by save_to_disk, or with parquet files.
        from_mds: Directories of MosaicML Streaming, with index.json.
        column: The field of the text, of all but plain text.
        lowercase: Whether the tokenizer lower-cases.
        min_count: Characters seen less often are left to [UNK].
    """
    inputs = Inputs(input=input, from_hf=from_hf, from_mds=from_mds, column=column)
    train_tokenizer.make_tokenizer(inputs, merges, out, lowercase, min_count)


def shard(
    tokenizer: Path,
    out: str,
    input: str = "",
    from_hf: str = "",
    from_mds: str = "",
    column: str = COLUMN,
    valid_fraction: float = 0.1,
    seq_len: int = 256,
    special_tokens: bool = True,
    join: Literal["none", "documents"] = "none",
    masking: Literal["none", "static"] = "none",
    copies: int = 1,
    mask_ratio: float = 0.15,
    mask_unit: Literal["token", "word"] = "token",
    mask_seed: int = 0,
    dedup: bool = True,
    workers: int | None = None,
    scheduler: str = "",
    scratch: Path | None = None,
    seed: int = 0,
) -> None:
    """Turn text into shard sets: OUT/train and OUT/valid.

    Args:
        tokenizer: A tokenizer.json with a mask and a pad token.
        out: The directory or URL to write; an interrupted run is continued.
        input: Text: F[,F...], each a path, URL, glob or - (.gz, .zst, .jsonl, .tar, .parquet too).
        from_hf: Directories of datasets: written by save_to_disk, or with parquet files.
        from_mds: Directories of MosaicML Streaming, with index.json.
        column: The field of the text, of all but plain text.
        valid_fraction: Share of the lines that goes to OUT/valid; 0 for none.
        seq_len: The most tokens of a sequence; longer lines are cut into pieces.
        special_tokens: Whether [CLS] and [SEP] frame each sequence.
        join: With documents, short lines share a sequence, [SEP] between them.
        masking: With static, masked copies are stored beside the tokens.
        copies: How many of them.
        mask_ratio: Share of the tokens to predict in a copy.
        mask_unit: What is chosen to be masked.
        mask_seed: The masking's own seed.
        dedup: Whether a line that came before, but for case, is dropped.
        workers: Processes; all cores if not given. The bytes do not depend on it.
        scheduler: Of a Dask cluster that does the work instead, such as tcp://10.0.0.1:8786.
        scratch: Directory for the unfinished work, which all workers see; OUT/.work if not given.
        seed: Of the order of the sequences.
    """
    options = ShardOptions(
        valid_fraction=valid_fraction,
        seq_len=seq_len,
        special_tokens=special_tokens,
        join=join,
        masking=masking_of(masking, copies, mask_ratio, mask_unit, mask_seed),
        dedup=dedup,
        seed=seed,
    )
    if scheduler and workers is not None:
        raise ValueError("--workers are processes here, --scheduler has its own: give one of them")
    made = make_shards(
        Inputs(input=input, from_hf=from_hf, from_mds=from_mds, column=column),
        tokenizer,
        out,
        options,
        _workers(workers),
        scheduler=scheduler,
        scratch=scratch,
    )
    counts = counts_of(output_of(out).at(MADE_NAME))
    print(f"{out}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
    for split, index in made.items():
        print(
            f"{out}/{split}: {index.sequences:,} sequences of {index.lines:,} lines, "
            f"{index.tokens:,} tokens, {len(index.shards)} shards"
        )


def record(
    ko: str, en: str, out: Path, workers: int | None = None, merges: str = RECORD_MERGES
) -> None:
    """Make every vocabulary and shard set that the eleven cases name.

    Args:
        ko: The Korean text, one sentence a line: F[,F...].
        en: The English text.
        out: The directory to write, the --data of the training.
        workers: Processes; all cores if not given.
        merges: Other vocabularies, the largest first, for texts too small for 50,000 merges.
    """
    print(table(make_record(ko, en, out, _merge_counts(merges), _workers(workers))))


def verify(directory: Path) -> int:
    """Check every byte of a shard set, or of all the sets below a directory.

    Args:
        directory: Where to look.

    Returns:
        0, or 3 after naming each fault.
    """
    faults: list[str] = []
    sets = _sets_below(directory)
    for each in sets:
        faults += _faults(each)
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{directory}: {len(sets)} shard sets, no fault")
    return ShardError.code if faults else 0


def show(directory: Path) -> None:
    """Print counts, lengths and first sequences of a set, or of all below a directory, and draw.

    Args:
        directory: Where to look.
    """
    from data_prep.preview import describe  # the drawing takes a while to import, here alone

    for each in _sets_below(directory):
        print(f"{each}\n{describe(ShardSet.open(each))}\n")


def _workers(workers: int | None) -> int:
    return default_workers() if workers is None else workers


def _merge_counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"--merges is {text!r}, wanted are whole numbers: {RECORD_MERGES}")
    counts = [int(word) for word in words]
    if counts != sorted(set(counts), reverse=True):
        raise ValueError(f"--merges is {text!r}, wanted is the largest number first, each once")
    return counts


COMMANDS: dict[str, Command] = {
    "sample": sample,
    "tokenizer": tokenizer,
    "shard": shard,
    "record": record,
    "verify": verify,
    "show": show,
}


def main(name: str = "data_prep") -> int:
    """Run what the command line asks; `data_prep` is the installed script."""
    return run(name, COMMANDS)


if __name__ == "__main__":
    sys.exit(main("python -m data_prep"))
