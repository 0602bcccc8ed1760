"""The task of `benchmarks/finetuning/synthetic_task.py`: balanced, disjoint, and reproducible."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.finetuning.synthetic_task import TASKS, alterable_positions, make_examples
from tests.helpers.launching import ROOT

COUNTS = {"train": 120, "test": 60}


def make_task(text: Path, out: Path, *flags: str) -> dict[str, list[tuple[str, str]]]:
    program = [sys.executable, "-m", "benchmarks.finetuning.synthetic_task"]
    sizes = [f"--{name}={count}" for name, count in COUNTS.items()]
    subprocess.run(
        [*program, f"--input={text}", f"--out={out}", *sizes, *flags], check=True, cwd=ROOT
    )
    files = {name: (out / f"{name}.tsv").read_text(encoding="utf-8") for name in COUNTS}
    return {
        name: [tuple(line.split("\t")) for line in content.splitlines()]
        for name, content in files.items()
    }


@pytest.mark.parametrize("language", ["ko", "en"])
@pytest.mark.parametrize("task", TASKS)
def test_half_is_altered_and_no_sentence_is_used_twice(tmp_path, lines, task, language):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines[language] * 2), encoding="utf-8")
    made = make_task(text, tmp_path / "a", f"--task={task}")
    # Each line begins with a number that identifies it.
    origins = {line.split()[0]: line.split() for line in lines[language]}
    used = Counter(words.split()[0] for rows in made.values() for words, _ in rows)
    assert used.most_common(1)[0][1] == 1
    for name, rows in made.items():
        assert len(rows) == COUNTS[name]
        assert Counter(label for _, label in rows) == {"0": len(rows) // 2, "1": len(rows) // 2}
        for changed, label in rows:
            words = changed.split()
            before = origins[words[0]]
            differ = [at for at, word in enumerate(words) if word != before[at]]
            assert len(differ) == (0 if label == "0" else 2 if task == "swapped" else 1)
            assert not {0, len(words) - 1} & set(differ)
            if task == "swapped":
                assert sorted(words) == sorted(before)
    assert make_task(text, tmp_path / "b", f"--task={task}") == made
    assert make_task(text, tmp_path / "c", f"--task={task}", "--seed=1") != made


def test_sentences_of_another_text_are_left_out(tmp_path, lines):
    text, known = tmp_path / "text.txt", tmp_path / "known.txt"
    text.write_text("\n".join(lines["en"]), encoding="utf-8")
    known.write_text("\n".join(lines["en"][:100]), encoding="utf-8")
    made = make_task(text, tmp_path / "a", f"--without={known}")
    assert all(int(words.split()[0]) >= 100 for rows in made.values() for words, _ in rows)


def test_only_words_inside_a_sentence_are_altered():
    sentence = ["Now", "the", "cat,", "the", "old", "cat", "sleeps."]
    assert alterable_positions(sentence) == [3, 4]
    assert alterable_positions(["One", "one", "one", "one."]) == []


@pytest.mark.parametrize("count", [3, 4])
def test_an_impossible_number_of_examples_is_an_error(count):
    with pytest.raises(ValueError, match="an even number of at most 2"):
        make_examples([["a", "b", "c", "d"]] * 2, "swapped", count, random.Random(0))
