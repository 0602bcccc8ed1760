"""Makes every vocabulary and shard set of the reference experiments.

    DIR/{50k,30k,20k,10k,5k}/tokenizer.json     joint Korean and English, lower-cased
    DIR/50k/{ko,en}/{train,valid}               both languages with the largest vocabulary
    DIR/{30k,20k,10k,5k}/en/{train,valid}       English with the others

All vocabularies come from one BPE training with the largest number of merges: BPE is greedy, so
the first M merges of a vocabulary are the vocabulary of M merges. Finished outputs are kept, so the
same command resumes an interrupted run. A million sentences take a few minutes on 2 cores.
"""

from dataclasses import dataclass
from pathlib import Path

from bertds.data.shards.format import Index
from data_prep import tokenizer_file, train_tokenizer
from data_prep.output.manifest import MANIFEST_NAME, is_up_to_date, write_manifest
from data_prep.readers.sources import Source, open_sources
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards

MERGES = (50_000, 30_000, 20_000, 10_000, 5_000)
MIN_COUNT = 5
OPTIONS = ShardOptions(valid_fraction=0.1, seq_len=256, special_tokens=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedSet:
    """A shard set; `name` is its path below the output directory."""

    name: str
    index: Index


def make_all_sets(ko: str, en: str, out: Path, merges: list[int], workers: int) -> list[NamedSet]:
    """Make all vocabularies and shard sets.

    Args:
        ko: The Korean text, `F[,F...]`.
        en: The English text, `F[,F...]`.
        out: The output directory.
        merges: Number of merges of each vocabulary, the largest first. It gets shards of both
            languages, the others of English.
        workers: Number of processes.

    Raises:
        ValueError: A text is missing, or has fewer merges than the largest vocabulary needs.
    """
    if "-" in f"{ko},{en}".split(","):
        raise ValueError(
            "--ko and --en cannot be - (standard input), since the text is read several times: "
            "name files"
        )
    out.mkdir(parents=True, exist_ok=True)
    with open_sources(f"{ko},{en}", out) as sources:
        make_vocabularies(sources, out, merges)
    sets = []
    for number, num_merges in enumerate(merges):
        texts = {"ko": ko, "en": en} if number == 0 else {"en": en}
        directory = out / vocabulary_name(num_merges)
        for language, text in texts.items():
            indexes = make_shards(
                text, directory / "tokenizer.json", directory / language, OPTIONS, workers
            )
            sets += [
                NamedSet(name=f"{directory.name}/{language}/{split}", index=index)
                for split, index in indexes.items()
            ]
    return sets


def make_vocabularies(sources: list[Source], out: Path, merges: list[int]) -> None:
    """Write `DIR/<merges>/tokenizer.json` of each vocabulary, unless they are finished.

    Raises:
        ValueError: The text has fewer merges than the largest vocabulary needs.
    """
    paths = {
        num_merges: out / vocabulary_name(num_merges) / "tokenizer.json" for num_merges in merges
    }
    recipe = train_tokenizer.tokenizer_recipe(
        sources, max(merges), lowercase=True, min_count=MIN_COUNT
    )
    recipe["merges"] = merges
    if is_up_to_date(out / MANIFEST_NAME, [*paths.values()], recipe):
        return
    vocabulary = train_tokenizer.learn(sources, max(merges), lowercase=True, min_count=MIN_COUNT)
    # All are built before the first is written, so an error leaves nothing.
    contents = {
        path: tokenizer_file.build(vocabulary, num_merges, lowercase=True)
        for num_merges, path in paths.items()
    }
    write_manifest(out / MANIFEST_NAME, recipe, {"characters": len(vocabulary.characters)})
    for path, content in contents.items():
        tokenizer_file.write(path, content)


def vocabulary_name(num_merges: int) -> str:
    """The directory of a vocabulary, such as 50k for 50,000 merges."""
    return f"{num_merges // 1000}k" if num_merges % 1000 == 0 else str(num_merges)


def format_table(sets: list[NamedSet]) -> str:
    """A table with the sentences, tokens, mean length and bytes per token of every set."""
    head = f"{'set':<16}{'sentences':>12}{'tokens':>14}{'mean length':>13}{'bytes per token':>17}"
    rows = [
        f"{each.name:<16}{each.index.lines:>12,}{each.index.tokens:>14,}"
        f"{each.index.tokens / each.index.lines:>13.2f}{each.index.bytes_per_token:>17.3f}"
        for each in sets
    ]
    return "\n".join([head, *rows])
