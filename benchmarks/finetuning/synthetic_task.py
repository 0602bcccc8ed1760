"""Makes a classification task for `finetune.py` from plain text: was this sentence altered?

python -m benchmarks.finetuning.synthetic_task --input F[,F…] --out DIR [--task swapped]
    [--train 8000] [--test 4000] [--seed 0] [--without F[,F…]]

Writes `train.tsv` and `test.tsv`: per line a text, a tab and a label, `1` for an altered text. Half of the
texts are altered. `swapped` exchanges two neighbouring words. `replaced` replaces a word by a word of
another sentence. No single word reveals the label: it takes word order, or context. Each sentence is in one
file only, once, either altered or not. Only words inside the sentence change, and only words of letters,
because capitals and full stops would reveal the change. The output depends only on the lines, the task, the
counts and the seed.
"""

import argparse
import gzip
import random
import re
from collections.abc import Iterator
from pathlib import Path

TASKS = ("swapped", "replaced")
MIN_WORDS, MAX_WORDS = 6, 40
Sentence = list[str]


def read_lines(paths: list[Path]) -> Iterator[str]:
    """Yield the lines of texts, plain or gzipped."""
    for path in paths:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as text
        ):
            yield from text


def alterable_positions(sentence: Sentence) -> list[int]:
    """Return where two neighbouring words inside the sentence are of letters only and differ."""
    return [
        at
        for at in range(1, len(sentence) - 2)
        if all(re.fullmatch(r"[^\W\d_]+", word) for word in sentence[at : at + 2])
        and sentence[at].lower() != sentence[at + 1].lower()
    ]


def select_sentences(paths: list[Path], without: list[Path]) -> list[Sentence]:
    """Return distinct sentences that both tasks can alter, without those of the texts `without`."""
    seen = {line.strip() for line in read_lines(without)}
    selected = []
    for line in read_lines(paths):
        text, sentence = line.strip(), line.split()
        if text in seen or not MIN_WORDS <= len(sentence) <= MAX_WORDS:
            continue
        if alterable_positions(sentence):
            seen.add(text)
            selected.append(sentence)
    return selected


def alter(sentence: Sentence, other: Sentence, task: str, generator: random.Random) -> Sentence:
    """Exchange two neighbouring words, or replace a word by a random word of another sentence.

    Replacements are drawn from running text, so frequent words are as frequent as in the original.
    """
    at = generator.choice(alterable_positions(sentence))
    if task == "swapped":
        return [*sentence[:at], sentence[at + 1], sentence[at], *sentence[at + 2 :]]
    words = [other[position] for position in alterable_positions(other)]
    foreign = [word for word in words if word.lower() != sentence[at].lower()]
    # If the other sentence has no different word, the right neighbour differs by construction.
    word = generator.choice(foreign or [sentence[at + 1]])
    return [*sentence[:at], word, *sentence[at + 1 :]]


def make_examples(
    sentences: list[Sentence], task: str, count: int, generator: random.Random
) -> list[tuple[str, int]]:
    """Return texts and labels, half of them altered, in random order.

    Args:
        sentences: The sentences to draw from, each at most once.
        task: One of `TASKS`.
        count: Number of examples; even.
        generator: Source of randomness.

    Raises:
        ValueError: There are too few sentences, the count is odd, or the task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"--task is {task!r}: expected {' or '.join(TASKS)}")
    if count % 2 or count > len(sentences):
        raise ValueError(
            f"the number of examples is {count}: expected an even number of at most "
            f"{len(sentences)} usable sentences; change --train and --test, or give more text"
        )
    chosen = generator.sample(sentences, count)
    examples = []
    for number, sentence in enumerate(chosen):
        words, is_altered = sentence, number % 2
        if is_altered:
            words = alter(sentence, chosen[number - 1], task, generator)
        examples.append((" ".join(words), is_altered))
    generator.shuffle(examples)
    return examples


def write_task(options: argparse.Namespace) -> None:
    """Select sentences, make the examples and write both files."""
    paths = [Path(name) for name in options.input.split(",")]
    without = [Path(name) for name in options.without.split(",") if name]
    generator = random.Random(options.seed)
    sentences = select_sentences(paths, without)
    generator.shuffle(sentences)
    test = make_examples(sentences[: options.test], options.task, options.test, generator)
    train = make_examples(sentences[options.test :], options.task, options.train, generator)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, examples in (("train", train), ("test", test)):
        lines = "".join(f"{text}\t{label}\n" for text, label in examples)
        (options.out / f"{name}.tsv").write_text(lines, encoding="utf-8")
    print(f"{options.out}: {len(train)} and {len(test)} of {len(sentences)} usable sentences")


def main() -> None:
    """Parse the options and write the task. Exit with code 2 on an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="texts, comma-separated")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default=TASKS[0], help=" or ".join(TASKS))
    parser.add_argument("--train", type=int, default=8000, help="number of training examples")
    parser.add_argument("--test", type=int, default=4000, help="number of test examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", default="", help="texts whose sentences are left out")
    options = parser.parse_args()
    try:
        write_task(options)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
