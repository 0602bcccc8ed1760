"""`python -m data_prep`: raw text to a tokenizer and shards, and tools to check and show them."""

import sys
from pathlib import Path
from typing import Literal

from bertds.cli import Command, run
from bertds.data.masked_ratio import MaskedRatio
from bertds.data.shards.reader import ShardSet
from bertds.errors import ShardError
from data_prep import train_tokenizer
from data_prep.executors.local import default_workers
from data_prep.extend_tokenizer import extend_tokenizer
from data_prep.output.manifest import MANIFEST_NAME, read_counts
from data_prep.output.storage import parse_output
from data_prep.readers.counts import format_counts
from data_prep.readers.encodings import UTF8
from data_prep.readers.jsonl import DEFAULT_COLUMN
from data_prep.readers.sources import Inputs
from data_prep.reproduction import MERGES, format_table, make_all_sets
from data_prep.sample.generator import write_sample
from data_prep.sharding.options import ShardOptions, parse_masking
from data_prep.sharding.pipeline import make_shards
from data_prep.tokenizer_file import ByteOptions
from data_prep.verify import find_shard_sets, verify_shard_set

DEFAULT_MIN_COUNT = 5
REFERENCE_MERGES = ",".join(map(str, MERGES))


def sample(out: Path, sentences: int = 20_000, seed: int = 0) -> None:
    """Generate a parallel Korean-English corpus that a small encoder learns in minutes.

    Args:
        out: Directory for ko.txt and en.txt. Existing files are kept if they have the same options.
        sentences: Number of lines of each file. Line N of one file translates line N of the other.
        seed: Seed of the sentences. The same seed always gives the same files.
    """
    write_sample(out, sentences, seed)


def tokenizer(
    out: Path,
    merges: int | None = None,
    input: str = "",
    from_hf: str = "",
    from_mds: str = "",
    column: str = DEFAULT_COLUMN,
    encoding: str = UTF8,
    lowercase: bool = False,
    min_count: int = DEFAULT_MIN_COUNT,
    byte_fallback: bool = False,
    byte_level: bool = False,
    keep_white_space: bool = False,
    extend: Path | None = None,
    add: int | None = None,
) -> None:
    """Train a BPE tokenizer, or extend a tokenizer, and write it as a Hugging Face tokenizer.json.

    The vocabulary holds 5 special tokens, the characters of the text, and the merges. Give text
    with at least one of --input, --from_hf and --from_mds. Training reads all of it, about
    80 MB/min.

    With --extend and --add, the tokenizer keeps its ids and settings, and gets the tokens that save
    most pieces of the text. Prints how much shorter the text becomes.

    Args:
        out: The tokenizer.json to write. A finished file with the same options is kept.
        merges: Number of BPE merges. If the text has fewer, the command fails and reports how many.
        input: Comma-separated text files. Each is a path, a URL, a glob, or - for standard input.
            Formats are .jsonl (also named .ndjson or .json), .csv, .tsv, .tar, .parquet, .arrow
            (also named .feather), and plain text with one document per line. All but .parquet and
            .arrow may be compressed (.gz, .zst).
        from_hf: Comma-separated directories of Hugging Face datasets, written by save_to_disk or
            with .parquet files.
        from_mds: Comma-separated directories of MosaicML Streaming (MDS), each with an index.json.
        column: Name of the text field in every format but plain text.
        encoding: Encoding of the files of --input, by its name in Python, such as cp949, shift_jis
            or gb18030. Valid UTF-8, and files with a byte order mark, are read as such.
        lowercase: Whether the tokenizer converts text to lower case.
        min_count: Minimum number of occurrences of a character. Rarer characters become [UNK], or
            bytes with --byte_fallback. Without effect with --byte_level.
        byte_fallback: Whether a character outside the vocabulary becomes its UTF-8 bytes, which
            add 256 ids. No text then becomes [UNK].
        byte_level: Whether the vocabulary is byte-level as in GPT-2, RoBERTa and ModernBERT: 256
            bytes instead of characters. Excludes --byte_fallback.
        keep_white_space: Whether to keep line breaks, tabs and runs of blanks, as in code. Needs
            --byte_level. The tokenizer.json records it, for shard, fill and export.
        extend: A Hugging Face tokenizer.json to extend, or a directory with one: BPE, WordPiece or
            Unigram. Needs --add; excludes --merges and the settings of a new vocabulary.
        add: Maximum number of new tokens, with --extend.
    """
    inputs = Inputs(
        input=input, from_hf=from_hf, from_mds=from_mds, column=column, encoding=encoding
    )
    if extend is not None and add is not None:
        settings = {
            "--merges": merges is not None,
            "--lowercase": lowercase,
            "--min_count": min_count != DEFAULT_MIN_COUNT,
            "--byte_fallback": byte_fallback,
            "--byte_level": byte_level,
            "--keep_white_space": keep_white_space,
        }
        if given := [flag for flag, is_set in settings.items() if is_set]:
            raise ValueError(
                f"--extend keeps the settings of the tokenizer: leave out {' and '.join(given)}"
            )
        extend_tokenizer(inputs, extend, add, out)
        return
    if extend is not None or add is not None:
        raise ValueError("--extend TOKENIZER and --add N need each other: give both, or neither")
    if merges is None:
        raise ValueError(
            "--merges is missing: give it, or extend a tokenizer with --extend and --add"
        )
    options = ByteOptions(
        byte_fallback=byte_fallback, byte_level=byte_level, keep_white_space=keep_white_space
    )
    train_tokenizer.make_tokenizer(inputs, merges, out, lowercase, min_count, options)


def shard(
    tokenizer: Path,
    out: str,
    input: str = "",
    from_hf: str = "",
    from_mds: str = "",
    column: str = DEFAULT_COLUMN,
    encoding: str = UTF8,
    valid: str = "",
    valid_fraction: float | None = None,
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
    keep_white_space: bool = False,
) -> None:
    """Tokenize, shuffle and split text into the shard sets OUT/train and OUT/valid.

    Give text with at least one of --input, --from_hf and --from_mds. Run the same command again to
    resume an interrupted run. The shards do not depend on --workers, --scheduler, --scratch or the
    names and the order of the files.

    Args:
        tokenizer: A Hugging Face tokenizer.json with a mask and a pad token, or a directory with
            one.
        out: The directory or URL to write. A finished output with the same options is kept.
        input: Comma-separated text files. Each is a path, a URL, a glob, or - for standard input.
            Formats are .jsonl (also named .ndjson or .json), .csv, .tsv, .tar, .parquet, .arrow
            (also named .feather), and plain text with one document per line. All but .parquet and
            .arrow may be compressed (.gz, .zst).
        from_hf: Comma-separated directories of Hugging Face datasets, written by save_to_disk or
            with .parquet files.
        from_mds: Comma-separated directories of MosaicML Streaming (MDS), each with an index.json.
        column: Name of the text field in every format but plain text.
        encoding: Encoding of the files of --input, by its name in Python, such as cp949, shift_jis
            or gb18030. Valid UTF-8, and files with a byte order mark, are read as such.
        valid: Comma-separated files of the validation text, as for --input. They become OUT/valid,
            and training lines that equal one of their lines are dropped. Excludes --valid_fraction.
        valid_fraction: Fraction of the lines that goes to OUT/valid, from 0 to below 1. With 0
            there is no OUT/valid. The default is 0.1, or 0 with --valid.
        seq_len: Maximum length of a sequence in tokens, special tokens included, from 4 to 65,536.
            Longer lines are cut into several sequences.
        special_tokens: Whether a sequence starts with [CLS] and ends with [SEP].
        join: With documents, short lines share a sequence up to --seq_len, separated by [SEP], and
            attention covers all of it. With none, each line is a sequence.
        masking: With static, pre-masked copies of each sequence are stored in the shards. With
            none, training masks dynamically.
        copies: Number of pre-masked copies of each sequence, from 1 to 1,000. Needs --masking
            static.
        mask_ratio: Fraction of the tokens to predict in a copy, between 0 and 1. Needs --masking
            static.
        mask_unit: Whether single tokens or whole words are chosen for masking. Needs --masking
            static. With word, set masking.version 2 in the case file.
        mask_seed: Seed of the masks. Needs --masking static.
        dedup: Whether to drop a line that equals an earlier line, ignoring case and white space.
        workers: Number of local processes. The default is the number of available cores.
        scheduler: Address of the scheduler of a Dask cluster, such as tcp://10.0.0.1:8786. The
            cluster then does the work instead of local processes. Excludes --workers.
        scratch: Directory for the unfinished work, with room for three times the size of the
            shards. The default is OUT/.work. All workers must see it. Required if OUT is a URL.
        seed: Seed of the shuffle.
        keep_white_space: Whether to keep line breaks, tabs and runs of blanks, as in code. Not needed
            for a tokenizer trained with --keep_white_space. The copy of any other tokenizer beside
            the shards is changed, so that it keeps white space too.
    """
    options = ShardOptions(
        valid_fraction=_valid_fraction(valid, valid_fraction),
        seq_len=seq_len,
        special_tokens=special_tokens,
        join=join,
        masking=parse_masking(masking, copies, mask_ratio, mask_unit, mask_seed),
        dedup=dedup,
        seed=seed,
    )
    if scheduler and workers is not None:
        raise ValueError(
            "--workers (local processes) and --scheduler (a Dask cluster) exclude each other: set "
            "only one of them"
        )
    indexes = make_shards(
        Inputs(input=input, from_hf=from_hf, from_mds=from_mds, column=column, encoding=encoding),
        tokenizer,
        out,
        options,
        default_workers() if workers is None else workers,
        valid=Inputs(input=valid, column=column, encoding=encoding),
        scheduler=scheduler,
        scratch=scratch,
        keep_white_space=keep_white_space,
    )
    manifest = parse_output(out).joinpath(MANIFEST_NAME)
    counts, masked = read_counts(manifest), read_counts(manifest, "masked")
    print(f"{out}:\n{format_counts(counts)}")
    for split, index in indexes.items():
        print(
            f"{out}/{split}: {index.sequences:,} sequences of {index.lines:,} lines, "
            f"{index.tokens:,} tokens, {len(index.shards)} shard{'s' * (len(index.shards) > 1)}"
        )
        if index.masking is not None and masked.get(split):
            ratio = MaskedRatio.of(index.masking, **masked[split])
            print(f"{'warning: ' if ratio.is_off else ''}{out}/{split}: {ratio}")


def _valid_fraction(valid: str, fraction: float | None) -> float:
    """The fraction of the lines for validation."""
    if valid and fraction:
        raise ValueError(
            f"--valid {valid} and --valid_fraction {fraction} exclude each other: set only one"
        )
    return (0.0 if valid else 0.1) if fraction is None else fraction


def record(
    ko: str, en: str, out: Path, workers: int | None = None, merges: str = REFERENCE_MERGES
) -> None:
    """Make every vocabulary and shard set of the reference experiments, ds_configs/case*.json.

    Run the same command again to resume an interrupted run.

    Args:
        ko: Comma-separated files of the Korean text, one sentence per line.
        en: Comma-separated files of the English text, one sentence per line.
        out: The directory to write, which training gets as --data.
        workers: Number of local processes. The default is the number of available cores.
        merges: Comma-separated numbers of BPE merges, one per vocabulary, the largest first. The
            default is 50000,30000,20000,10000,5000. Use less for a text with fewer merges.
    """
    numbers = merges.split(",")
    if not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise ValueError(
            f"--merges is {merges!r}, expected whole numbers such as {REFERENCE_MERGES}"
        )
    merge_counts = [int(number) for number in numbers]
    if merge_counts != sorted(set(merge_counts), reverse=True):
        raise ValueError(
            f"--merges is {merges!r}, expected different numbers with the largest first"
        )
    num_workers = default_workers() if workers is None else workers
    print(format_table(make_all_sets(ko, en, out, merge_counts, num_workers)))


def verify(directory: Path) -> int:
    """Verify every byte of a shard set: checksums, counts and token ids.

    Prints each fault to standard error, and exits with code 3 if there are any.

    Args:
        directory: A shard set, or a directory with shard sets at any depth.

    Returns:
        0, or 3 if there are faults.
    """
    sets = find_shard_sets(directory)
    faults = [fault for each in sets for fault in verify_shard_set(each)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{directory}: {len(sets)} shard sets, no faults")
    return ShardError.code if faults else 0


def show(directory: Path) -> None:
    """Print the counts, a histogram of the lengths and the first sequences of a shard set.

    Also writes the histogram as lengths.png to the directory of the set.

    Args:
        directory: A shard set, or a directory with shard sets at any depth.
    """
    from data_prep.preview import describe  # only this command needs matplotlib, slow to import

    for each in find_shard_sets(directory):
        print(f"{each}\n{describe(ShardSet.open(each))}\n")


COMMANDS: dict[str, Command] = {
    "sample": sample,
    "tokenizer": tokenizer,
    "shard": shard,
    "record": record,
    "verify": verify,
    "show": show,
}


def main(name: str = "data_prep") -> int:
    """Run the command that the command line names."""
    return run(name, COMMANDS)


if __name__ == "__main__":
    sys.exit(main("python -m data_prep"))
