"""Every vocabulary and shard set that the eleven cases of the training record name.

    DIR/{50k,30k,20k,10k,5k}/tokenizer.json     joint, lower-cased, of so many merges
    DIR/50k/{ko,en}/{train,valid}               and en/{train,valid} of each smaller one

One training at the most merges gives all vocabularies: the first M merges of a greedy BPE are the
BPE of M merges. What is finished is kept, so the same command continues. Two cores take some
minutes for a million sentences.
"""

from dataclasses import dataclass
from pathlib import Path

from bertds.data.shards.format import Index
from data_prep import train_tokenizer
from data_prep.output.manifest import MADE_NAME, is_up_to_date, write_manifest
from data_prep.readers.sources import Source, open_sources
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards

MERGES = (50_000, 30_000, 20_000, 10_000, 5_000)
MIN_COUNT = 5
OPTIONS = ShardOptions(valid_fraction=0.1, seq_len=256, special_tokens=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSet:
    """One line of the table."""

    name: str
    index: Index


def make_record(ko: str, en: str, out: Path, merges: list[int], workers: int) -> list[RecordSet]:
    """Make all vocabularies and sets.

    Args:
        ko: The Korean text, `F[,F…]`.
        en: The English text.
        out: Where to.
        merges: The vocabularies, the largest first: it gets both languages, the others English.
        workers: Processes.

    Raises:
        ValueError: A text is missing, or has fewer merges than the largest vocabulary wants.
    """
    if "-" in f"{ko},{en}".split(","):
        raise ValueError("`record` reads its text several times: give files, not standard input")
    out.mkdir(parents=True, exist_ok=True)
    with open_sources(f"{ko},{en}", out) as sources:
        make_vocabularies(sources, out, merges)
    made = []
    for number, count in enumerate(merges):
        texts = {"ko": ko, "en": en} if number == 0 else {"en": en}
        directory = out / vocabulary_name(count)
        for language, spec in texts.items():
            sets = make_shards(
                spec, directory / "tokenizer.json", directory / language, OPTIONS, workers
            )
            made += [
                RecordSet(name=f"{directory.name}/{language}/{split}", index=index)
                for split, index in sets.items()
            ]
    return made


def make_vocabularies(sources: list[Source], out: Path, merges: list[int]) -> None:
    """Write `DIR/<merges>/tokenizer.json` of each size, unless they are there.

    Raises:
        ValueError: The text has fewer merges than the largest wants.
    """
    paths = {count: out / vocabulary_name(count) / "tokenizer.json" for count in merges}
    recipe = train_tokenizer.recipe_of(sources, max(merges), lowercase=True, min_count=MIN_COUNT)
    recipe["merges"] = merges
    if is_up_to_date(out / MADE_NAME, [*paths.values()], recipe):
        return
    vocabulary = train_tokenizer.learn(sources, max(merges), lowercase=True, min_count=MIN_COUNT)
    contents = {
        paths[count]: train_tokenizer.build(vocabulary, count, lowercase=True) for count in merges
    }
    write_manifest(out / MADE_NAME, recipe, {"characters": len(vocabulary.characters)})
    for path, content in contents.items():
        train_tokenizer.write(path, content)


def vocabulary_name(num_merges: int) -> str:
    """The directory of a vocabulary: 50k for 50,000 merges."""
    return f"{num_merges // 1000}k" if num_merges % 1000 == 0 else str(num_merges)


def table(sets: list[RecordSet]) -> str:
    """Sentences, tokens, mean length and bytes a token of every set."""
    head = f"{'set':<16}{'sentences':>12}{'tokens':>14}{'mean length':>13}{'bytes a token':>15}"
    rows = [
        f"{each.name:<16}{each.index.lines:>12,}{each.index.tokens:>14,}"
        f"{each.index.tokens / each.index.lines:>13.2f}{each.index.bytes_per_token:>15.3f}"
        for each in sets
    ]
    return "\n".join([head, *rows])
