"""Makes a task for `finetune.py` out of plain text: is this sentence as it was written?

python benchmarks/finetune_task.py --input F[,F…] --out DIR [--task swapped] [--train 8000]
    [--test 4000] [--seed 0] [--without F[,F…]]

Writes `train.tsv` and `test.tsv`: a text, a tab, a label; `1` where the text was altered, which half
of them are. `swapped` exchanges two neighbouring words, `replaced` puts a word of another sentence
in the place of one. No word of a sentence gives its label away by itself: it takes its order, or its
company. A sentence is in one of the files, once, either altered or not; only words within it are
touched, letters alone, since capitals and full stops would tell. What is written depends on the
lines, the task, the numbers and the seed alone.
"""

import argparse
import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path

TASKS = ("swapped", "replaced")
SHORTEST, LONGEST = 6, 40  # words
Sentence = list[str]


def lines_of(paths: list[Path]) -> Iterator[str]:
    """The lines of texts, plain or gzipped."""
    for path in paths:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as text
        ):
            yield from text


def places(sentence: Sentence) -> list[int]:
    """Where a word and the next one are of letters alone, differ, and are within the sentence."""
    return [
        at
        for at in range(1, len(sentence) - 2)
        if all(re.fullmatch(r"[^\W\d_]+", word) for word in sentence[at : at + 2])
        and sentence[at].lower() != sentence[at + 1].lower()
    ]


def usable(paths: list[Path], without: list[Path]) -> list[Sentence]:
    """Sentences that either task can alter, each once, those of the texts `without` left out."""
    seen = {line.strip() for line in lines_of(without)}
    found = []
    for line in lines_of(paths):
        text, sentence = line.strip(), line.split()
        if text in seen or not SHORTEST <= len(sentence) <= LONGEST or not places(sentence):
            continue
        seen.add(text)
        found.append(sentence)
    return found


def swapped(sentence: Sentence, generator: random.Random) -> Sentence:
    """Two neighbouring words exchanged."""
    at = generator.choice(places(sentence))
    return [*sentence[:at], sentence[at + 1], sentence[at], *sentence[at + 2 :]]


def replaced(sentence: Sentence, other: Sentence, generator: random.Random) -> Sentence:
    """One word replaced by one of another sentence, so as often by a frequent one as it was one."""
    at = generator.choice(places(sentence))
    words = [other[place] for place in places(other)]
    foreign = [word for word in words if word.lower() != sentence[at].lower()]
    # A sentence that has no other word gives the neighbour, which the place makes another one.
    word = generator.choice(foreign or [sentence[at + 1]])
    return [*sentence[:at], word, *sentence[at + 1 :]]


def examples(
    sentences: list[Sentence], task: str, count: int, generator: random.Random
) -> list[tuple[str, int]]:
    """Texts and labels, half of them altered, in random order.

    Args:
        sentences: What is drawn from, each at most once.
        task: One of `TASKS`.
        count: Of examples; even.
        generator: Draws.

    Raises:
        ValueError: There are too few sentences, the count is odd, or there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"--task is {task!r}: give {' or '.join(TASKS)}")
    if count % 2 or count > len(sentences):
        raise ValueError(
            f"{count} examples are asked for, but they are to be an even number of at most "
            f"{len(sentences)} sentences: give other --train and --test, or more text"
        )
    chosen = generator.sample(sentences, count)
    made = []
    for number, sentence in enumerate(chosen):
        words = sentence
        if number % 2 and task == "swapped":
            words = swapped(sentence, generator)
        elif number % 2:
            words = replaced(sentence, chosen[number - 1], generator)
        made.append((" ".join(words), number % 2))
    generator.shuffle(made)
    return made


def write(path: Path, rows: list[tuple[str, int]]) -> None:
    """Write a tab-separated file."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")


def make(options: argparse.Namespace) -> None:
    """Both files."""
    paths = [Path(name) for name in options.input.split(",")]
    without = [Path(name) for name in options.without.split(",") if name]
    generator = random.Random(options.seed)
    sentences = usable(paths, without)
    generator.shuffle(sentences)
    test = examples(sentences[: options.test], options.task, options.test, generator)
    train = examples(sentences[options.test :], options.task, options.train, generator)
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "train.tsv", train)
    write(options.out / "test.tsv", test)
    print(f"{options.out}: {len(train)} and {len(test)} of {len(sentences)} usable sentences")


def main() -> None:
    """What the options say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default=TASKS[0])
    parser.add_argument("--train", type=int, default=8000)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", default="")
    options = parser.parse_args()
    try:
        make(options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
