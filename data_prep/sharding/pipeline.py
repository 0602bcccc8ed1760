"""Turns text into the shard sets `DIR/train` and `DIR/valid`: tokenize, shuffle and split, write.

    text                       files, URLs, standard input
      |    tokenize            one task per chunk of about 4 MiB
    .work/parts/*.bin          rows of token ids, grouped by bucket (leading bits of the line hash)
      |    shuffle_and_split   one task per group of buckets
    .work/groups/*.{train,valid}     the sequences of each split, in their final order
      |    write_shards        one task per shard
    {train,valid}/shard-*.tar, index.json

The tasks of a stage are independent and write their files atomically, in `DIR/.work` or in the
scratch directory. The same command therefore resumes an interrupted run. The split and the order
follow from a hash of each line, so the bytes depend only on the text, the tokenizer and the
options. They do not depend on what runs the tasks: this process, local workers or a Dask cluster.
During the run, the disk usage is about three times the size of the shards.

Memory per worker is about 400 MiB, or 80 MiB plus ten times the rows of a group if that is more.
Text whose words hardly repeat needs 200 MiB more, for the word table. A row takes 28 bytes plus 2
or 4 bytes per token, and the rows of a group are limited to 32 MiB. There are no more groups than
buckets, so with more than 32 GiB of rows (about 10 billion tokens) a group grows: memory is then
80 MiB + 10 / 1,024 of all rows, which is 10 GiB for 1 TiB. All copies of a line are in one group.
"""

import contextlib
from pathlib import Path
from typing import Any

from bertds.data.shards.format import INDEX_NAME, Index, parse_index
from bertds.data.tokenizer import Tokenizer
from data_prep.executors.dask import cluster_executor
from data_prep.executors.local import local_executor
from data_prep.output.full_disk import explain_full_disk
from data_prep.output.manifest import MANIFEST_NAME, write_manifest
from data_prep.output.storage import parse_output
from data_prep.readers.counts import warn_of_losses
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.sharding.options import ShardOptions, shard_recipe, with_masking_of
from data_prep.sharding.rows import SPLITS, Split
from data_prep.sharding.stages import Stages
from data_prep.sharding.work_dir import (
    lock_work_dir,
    read_begun_recipe,
    remove_work_dir,
    start_or_resume,
    work_dir_path,
)
from data_prep.sharding.write import build_masker

_FULL_DISK = (
    "free some space, then run the same command again to resume. The unfinished work takes about "
    "three times the size of the shards; --scratch DIR puts it elsewhere"
)


def make_shards(
    inputs: Inputs | str,
    tokenizer_path: Path,
    out: Path | str,
    options: ShardOptions,
    workers: int,
    *,
    valid: Inputs | str = "",
    scheduler: str = "",
    scratch: Path | None = None,
    keep_white_space: bool = False,
) -> dict[Split, Index]:
    """Write `out/train` and, unless the validation fraction is 0, `out/valid`; return the indexes.

    A finished output is kept, and an interrupted run is resumed.

    Args:
        inputs: The text, see `open_sources`.
        tokenizer_path: Path of a tokenizer.json.
        out: Directory or URL of the output.
        options: The options that the bytes depend on.
        workers: Number of local processes; ignored with a scheduler.
        valid: The validation text. None is then split off `inputs`.
        scheduler: Address of a Dask cluster that runs the tasks, or empty.
        scratch: Directory for the unfinished work, `out/.work` if None. All workers must see it.
        keep_white_space: Whether to keep white space, also if the tokenizer is not made for it.

    Raises:
        ValueError: An option or a file is invalid, or the text leaves a split empty.
        FileExistsError: `out` holds something else.
        RemoteError: A remote file cannot be read or written; the same command resumes.
        LostWorkersError: Workers were lost; the same command resumes.
    """
    tokenizer = Tokenizer.load(tokenizer_path)
    if keep_white_space:
        tokenizer = tokenizer.keeping_white_space()
    sequence_format = options.sequence_format(tokenizer)
    if options.masking is not None:
        build_masker(options.masking, tokenizer)  # rejects invalid options before the work starts
    splits = SPLITS if options.valid_fraction or str(valid) else SPLITS[:1]
    output = parse_output(out)
    work_dir = work_dir_path(output, scratch)
    executor = cluster_executor(scheduler, work_dir) if scheduler else local_executor(workers)
    with (
        explain_full_disk(_FULL_DISK),
        lock_work_dir(output, work_dir),
        executor as (pool, num_parallel),
        open_sources(inputs, work_dir, pool.map if scheduler else map) as sources,
        _open_valid(valid, work_dir) as valid_sources,
    ):
        options = with_masking_of(options, read_begun_recipe(output, work_dir))
        recipe = shard_recipe(tokenizer, options, sources, valid_sources)
        if start_or_resume(output, work_dir, recipe, splits):
            run = Stages(output, work_dir, tokenizer, options, pool, num_parallel)
            max_tokens = sequence_format.max_row_tokens
            run.tokenize(sources, max_tokens, options.valid_fraction)
            run.num_split_parts = len(run.parts)
            run.tokenize(valid_sources, max_tokens, valid_fraction=1)
            run.shuffle_and_split(sequence_format)
            metadata = {split: run.set_metadata(split) for split in splits}
            masked = {split: run.write_shards(split, metadata[split]) for split in splits}
            counts = run.counts(splits)
            with output.open_directory("") as directory:
                manifest = directory / MANIFEST_NAME
                more: dict[str, dict[Any, Any]] = {"masked": masked} if options.masking else {}
                write_manifest(manifest, recipe, counts, **more)
            warn_of_losses(str(output), counts)
            remove_work_dir(work_dir)
    indexes: dict[Split, Index] = {}
    for split in splits:
        name = f"{split}/{INDEX_NAME}"
        indexes[split] = parse_index(output.joinpath(name).read_bytes(), f"{output}/{name}")
    return indexes


def _open_valid(
    valid: Inputs | str, spool_dir: Path
) -> contextlib.AbstractContextManager[list[Source]]:
    """The sources of the validation text, if there is one."""
    return open_sources(valid, spool_dir) if str(valid) else contextlib.nullcontext([])
