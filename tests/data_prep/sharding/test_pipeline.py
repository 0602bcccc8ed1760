"""Text to shards: every line once, the same bytes however they come about, mistakes refused."""

import contextlib
import fcntl
import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.masking import sequence_keys
from bertds.data.shards.format import StoredMasking
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.errors import LostWorkersError
from data_prep import train_tokenizer
from data_prep.executors.local import executor, run_tasks
from data_prep.output.storage import RemoteOutput, output_of
from data_prep.readers import cleaning
from data_prep.sharding import pipeline as make_shards_module
from data_prep.sharding.options import SequenceFormat, ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.sharding.shuffle import frame
from data_prep.sharding.work_dir import work_dir_of, working
from data_prep.sharding.write import masker_of
from tests.helpers.shard_verify import faults_of

PLAIN = ShardOptions(special_tokens=False)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def text(lines):
    """800 lines, no two alike."""
    return [*lines["ko"], *lines["en"]]


@pytest.fixture(scope="module")
def tokenizer_path(text, tmp_path_factory):
    """A lower-cased tokenizer that knows every character of the text."""
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "text").write_text("\n".join(text))
    path = directory / "tokenizer.json"
    train_tokenizer.make_tokenizer(str(directory / "text"), 200, path, True, 1)
    return path


@pytest.fixture
def make(tmp_path, tokenizer_path):
    """Makes shards of lines in `tmp_path / name` and returns the directory."""

    def shards(lines, name="out", options=PLAIN, workers=1, tokenizer=tokenizer_path):
        source = tmp_path / f"{name}.txt"
        source.write_text("\n".join(lines))
        make_shards(str(source), tokenizer, tmp_path / name, options, workers)
        return tmp_path / name

    return shards


def rows_of(directory):
    shards = ShardSet.open(directory)
    rows = []
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        ends = np.cumsum(block.lengths.astype(int))[:-1]
        rows += [row.tolist() for row in np.split(block.tokens, ends)]
    return rows


def texts_of(directory):
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    return [tokenizer.decode(row) for row in rows_of(directory)]


def files_of(directory, *, without=()):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in without
    }


def splits_of(directory):
    """The bytes of both sets, without the note on what they were made from."""
    return files_of(directory, without=("made.json",))


def test_every_line_is_in_one_split_once(make, text):
    out = make(text)
    train, valid = texts_of(out / "train"), texts_of(out / "valid")
    assert sorted(train + valid) == sorted(line.lower() for line in text)
    assert 0.05 < len(valid) / len(text) < 0.15
    for name, rows in (("train", train), ("valid", valid)):
        index = ShardSet.open(out / name).index
        assert (index.sequences, index.lines) == (len(rows), len(rows))
        assert index.characters == sum(map(len, rows))
        assert faults_of(out / name) == []
    assert sorted(path.name for path in out.iterdir()) == ["made.json", "train", "valid"]


def test_the_order_is_shuffled(make, text):
    places = [text.index(line) for line in text if line.lower() == line]
    train = texts_of(make(text) / "train")
    order = [text.index(line) for line in train if line in text]
    assert len(places) > 300
    correlation = np.corrcoef(order, np.arange(len(order)))[0, 1]
    assert abs(correlation) < 0.15


def test_the_split_is_the_same_for_every_vocabulary(make, text, tmp_path):
    (tmp_path / "text").write_text("\n".join(text))
    train_tokenizer.make_tokenizer(str(tmp_path / "text"), 20, tmp_path / "t.json", True, 1)
    one, other = make(text, "a"), make(text, "b", tokenizer=tmp_path / "t.json")
    for split in ("train", "valid"):
        assert texts_of(one / split) == texts_of(other / split)
    set_keys = {ShardSet.open(out / "train").index.set_key for out in (one, other)}
    assert len(set_keys) == 2


def test_more_validation_keeps_the_lines_that_were_in_it(make, text):
    small = make(text, "a", ShardOptions(valid_fraction=0.1))
    large = make(text, "b", ShardOptions(valid_fraction=0.4))
    assert set(texts_of(small / "valid")) < set(texts_of(large / "valid"))
    none = make(text, "c", ShardOptions(valid_fraction=0))
    assert not (none / "valid").exists()
    assert len(rows_of(none / "train")) == len(text)


def test_duplicates_but_for_case_and_blanks_are_dropped(make, text):
    twice = [*text, *(f"  {line.upper()}  " for line in text[:50]), *text[100:120]]
    out, plain = make(twice, "twice"), make(text, "once")
    for split in ("train", "valid"):
        assert rows_of(out / split) == rows_of(plain / split)
    dropped = [ShardSet.open(out / split).index.dropped for split in ("train", "valid")]
    assert sum(each.get("duplicate lines", 0) for each in dropped) == 70
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts == {"lines": 870, "lines kept": 800, "duplicate lines": 70}
    kept = make(twice, "kept", ShardOptions(special_tokens=False, dedup=False))
    lines = [*texts_of(kept / "train"), *texts_of(kept / "valid")]
    assert Counter(lines) == Counter(" ".join(line.lower().split()) for line in twice)


@pytest.mark.parametrize("seq_len", [4, 5, 9])
@pytest.mark.parametrize("special", [True, False])
def test_long_lines_are_cut_into_pieces(make, text, tokenizer_path, seq_len, special):
    options = ShardOptions(valid_fraction=0, seq_len=seq_len, special_tokens=special)
    rows = rows_of(make(text[:60], options=options) / "train")
    assert max(map(len, rows)) == seq_len
    room = seq_len - 2 if special else seq_len
    if special:
        assert all((row[0], row[-1]) == (2, 3) for row in rows)
        rows = [row[1:-1] for row in rows]
    lines = Tokenizer.load(tokenizer_path).encode_batch(text[:60])
    pieces = [line[start : start + room] for line in lines for start in range(0, len(line), room)]
    assert Counter(map(tuple, rows)) == Counter(map(tuple, pieces))


def test_rows_without_a_maskable_token_are_dropped_and_counted(make, text):
    options = ShardOptions(valid_fraction=0, special_tokens=False, seq_len=8)
    out = make([*text, "漢" * 40, "漢" * 20 + "가" + "漢" * 20], options=options)
    unmaskable = set(Tokenizer.load(out / "train" / "tokenizer.json").unmaskable_ids)
    assert all(set(row) - unmaskable for row in rows_of(out / "train"))
    index = ShardSet.open(out / "train").index
    # A word mark and 40 unknown characters: pieces 1 to 5 of 6 are of them alone; then two more.
    assert index.dropped == {"sequences without a maskable token": 5 + 4}
    assert index.lines == len(text) + 2
    assert index.characters == sum(map(len, text)) + 40 + 41


def test_lines_without_a_token_are_dropped_and_counted(make, text, tmp_path, tokenizer_path):
    """A tokenizer may strip a line to nothing, or to unknown tokens."""
    content = json.loads(tokenizer_path.read_text())
    strip = {"type": "Replace", "pattern": {"String": "-"}, "content": ""}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], strip]}
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    (tmp_path / "t.json").write_text(json.dumps(content))
    out = make([*text, "--", "漢"], options=PLAIN, tokenizer=tmp_path / "t.json")
    counts = json.loads((out / "made.json").read_text())["counts"]
    assert counts["lines"] == len(text) + 2
    assert counts["lines kept"] == len(text)
    assert counts["lines dropped whole"] == 2


def test_masked_copies_are_the_bits_of_static_masking(make, text):
    masking = StoredMasking(
        seed=3, ratio=0.2, mask_share=0.8, random_share=0.1, unit="word", copies=3
    )
    out = make(text, options=ShardOptions(masking=masking))
    plain = make(text, "plain", options=ShardOptions())
    shards = ShardSet.open(out / "train")
    tokenizer = Tokenizer.load(out / "train" / "tokenizer.json")
    masker = masker_of(masking, tokenizer)
    assert shards.index.masking == masking
    assert shards.index.set_key == ShardSet.open(plain / "train").index.set_key
    assert rows_of(out / "train") == rows_of(plain / "train")
    for number in range(shards.num_blocks):
        block = shards.read_block(number)
        ordinals = shards.first_sequence(number) + np.arange(len(block.lengths))
        for copy in range(3):
            keys = sequence_keys(3, int(shards.index.set_key, 16), copy, ordinals)
            inputs, positions = masker.mask(block.tokens, block.lengths, keys)
            assert np.array_equal(block.inputs[copy], inputs)
            assert np.array_equal(block.positions[copy], positions)
    assert faults_of(out / "train") == []


def test_joined_documents_fill_their_sequences(make, text):
    options = ShardOptions(valid_fraction=0, seq_len=64, join="documents")
    rows = rows_of(make(text, options=options) / "train")
    documents = []
    for row in rows:
        assert row[0] == 2
        assert row[-1] == 3
        assert len(row) <= 64
        parts = [
            list(group) for sep, group in itertools.groupby(row[1:], lambda x: x == 3) if not sep
        ]
        documents += parts
    alone = rows_of(make(text, "alone", ShardOptions(valid_fraction=0, seq_len=64)) / "train")
    assert Counter(map(tuple, documents)) == Counter(tuple(row[1:-1]) for row in alone)
    assert len(rows) < len(alone)


@given(
    lengths=st.lists(st.integers(1, 8), max_size=30),
    special=st.booleans(),
    join=st.sampled_from(["none", "documents"]),
)
def test_frames(lengths, special, join):
    """Against the same written out row by row."""
    framing = SequenceFormat(cls_id=2 if special else None, sep_id=3, join=join, seq_len=10)
    numbers = iter(range(10, 10_000))
    rows = [[next(numbers) for _ in range(length)] for length in lengths]
    sequences: list[list[int]] = []
    for row in rows:
        ended = [*row, 3] if special else row
        joined = [*sequences[-1], *([] if special else [3]), *ended] if sequences else []
        if join == "documents" and sequences and len(joined) <= 10:
            sequences[-1] = joined
        else:
            sequences.append([2, *ended] if special else ended)
    flat = np.array([number for row in rows for number in row], dtype=np.uint16)
    tokens, found = frame(flat, np.array(lengths, dtype=np.int64), framing)
    assert found.tolist() == [len(sequence) for sequence in sequences]
    assert tokens.tolist() == [number for sequence in sequences for number in sequence]


@pytest.fixture(scope="module")
def expected(text, tokenizer_path, tmp_path_factory):
    """The bytes of an undisturbed run on one core."""
    directory = tmp_path_factory.mktemp("expected")
    (directory / "text").write_text("\n".join(text))
    make_shards(str(directory / "text"), tokenizer_path, directory / "out", SMALL_SHARDS, 1)
    return splits_of(directory / "out")


SMALL_SHARDS = ShardOptions(special_tokens=False, shard_bytes=1)  # a shard for each block


@pytest.fixture
def small_pieces(monkeypatch):
    """Many chunks, groups and blocks of a small text."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(make_shards_module, "GROUP_BYTES", 2000)


@pytest.mark.usefixtures("small_pieces")
def test_chunks_and_groups_do_not_matter(make, text, expected):
    assert splits_of(make(text, options=SMALL_SHARDS)) == expected


def test_two_workers_do_not_matter(make, text, expected):
    assert splits_of(make(text, options=SMALL_SHARDS, workers=2)) == expected


def test_the_order_of_lines_does_not_matter(make, text, expected):
    shuffled = random.Random(1).sample(text, len(text))
    assert splits_of(make(shuffled, options=SMALL_SHARDS)) == expected


def test_files_and_compression_do_not_matter(tmp_path, text, tokenizer_path, expected):
    (tmp_path / "a.txt").write_text("\n".join(text[:300]))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(text[300:500]).encode()))
    objects = [json.dumps({"text": line}) for line in text[500:]]
    (tmp_path / "c.jsonl").write_text("\n".join(objects))
    for number, order in enumerate(("abc", "cab")):
        spec = ",".join(f"{tmp_path}/{letter}.*" for letter in order)
        make_shards(spec, tokenizer_path, tmp_path / str(number), SMALL_SHARDS, 1)
        assert splits_of(tmp_path / str(number)) == expected
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1")


def test_how_many_files_joined_documents_come_from_does_not_matter(
    tmp_path, text, tokenizer_path, monkeypatch
):
    """Where each file of few lines has a header as long as its rows."""
    monkeypatch.setattr(make_shards_module, "GROUP_BYTES", 16_000)
    options = ShardOptions(join="documents", shard_bytes=1)
    (tmp_path / "all").write_text("\n".join(text))
    for number in range(0, len(text), 10):
        (tmp_path / f"some-{number}").write_text("\n".join(text[number : number + 10]))
    for spec in ("all", "some-*"):
        make_shards(str(tmp_path / spec), tokenizer_path, tmp_path / f"of-{spec[:4]}", options, 1)
    assert splits_of(tmp_path / "of-all") == splits_of(tmp_path / "of-some")


def test_the_work_elsewhere_belongs_to_a_place_and_not_to_its_spelling(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    places = set()
    for directory in ("one", "two"):
        monkeypatch.chdir(tmp_path / directory)
        for out in ("data", "./data", str(tmp_path / directory / "data")):
            places.add(work_dir_of(output_of(out), tmp_path / "scratch"))
    assert len(places) == 2


def test_the_seed_and_the_text_do(make, text, expected):
    other = make(text, "a", ShardOptions(special_tokens=False, shard_bytes=1, seed=1))
    changed = make([*text[:-2], "one other line", "and one more"], "b", SMALL_SHARDS)
    same = make(text, "d", SMALL_SHARDS)
    assert splits_of(other) != expected
    assert splits_of(same) == expected
    assert sorted(texts_of(other / "valid")) == sorted(texts_of(make(text, "c") / "valid"))
    keys = [ShardSet.open(out / "train").index.set_key for out in (other, changed, same)]
    assert len(set(keys)) == 3


class StoppedError(Exception):
    pass


@pytest.mark.usefixtures("small_pieces")
def test_an_interruption_anywhere_does_not_matter(
    tmp_path, text, tokenizer_path, expected, monkeypatch
):
    """Stopped before the 1st, 2nd, … task, then continued, until it is done."""
    source, out = tmp_path / "text", tmp_path / "out"
    source.write_text("\n".join(text))
    budget = 0

    def limited(pool, workers, function, tasks):
        nonlocal budget
        for task in tasks:
            if budget == 0:
                raise StoppedError
            budget -= 1
            yield from run_tasks(pool, workers, function, [task])

    monkeypatch.setattr(make_shards_module, "run_tasks", limited)
    for runs in itertools.count(1):
        budget = 7
        with contextlib.suppress(StoppedError):
            make_shards(str(source), tokenizer_path, out, SMALL_SHARDS, 1)
            break
        assert not (out / "made.json").exists()
        assert not any(out.glob("*/index.json")) or runs > 2
    assert runs > 5
    assert splits_of(out) == expected
    assert not (out / ".work").exists()


# The command with chunks of 100 kB, so that there are many tasks to be killed in.
COMMAND = """
import sys
from bertds.cli import run
from data_prep import __main__
from data_prep.readers import cleaning
from data_prep.sharding import pipeline

cleaning.CHUNK_BYTES = 100_000
pipeline.GROUP_BYTES = 50_000
if __name__ == "__main__":
    sys.exit(run("data_prep", __main__.COMMANDS))
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_kill_does_not_matter(tmp_path, text, tokenizer_path, workers):
    """SIGKILL at whatever instant, again and again; the last run is left alone."""
    many = [f"{line} {number}" for line in text for number in range(30)]
    (tmp_path / "text").write_text("\n".join(many))
    (tmp_path / "command.py").write_text(COMMAND)
    arguments = [
        sys.executable, str(tmp_path / "command.py"), "shard", f"--input={tmp_path}/text",
        f"--tokenizer={tokenizer_path}", f"--workers={workers}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*arguments, f"--out={tmp_path}/whole"], check=True, **quiet)
    stopped = []
    # Each when it has written something there that was not left by the one before.
    for place, wait in (("parts", 0.0), ("parts", 0.1), ("groups", 0.0), ("shards", 0.0)):
        work = tmp_path / "out" / ".work" / place
        left = set(work.glob("*"))
        process = subprocess.Popen([*arguments, f"--out={tmp_path}/out"], **quiet)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if set(work.glob("*")) - left:
                break
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            stopped.append(place)
    assert stopped.count("parts") > 0
    assert len(stopped) > 2, stopped
    subprocess.run([*arguments, f"--out={tmp_path}/out"], check=True, **quiet)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_finished_output_is_left_alone(make, text, capsys):
    out = make(text)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    make(text)
    assert "finished already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps


@pytest.mark.parametrize(
    "change",
    [
        {"lines": ["other text"] * 9},
        {"options": ShardOptions()},
        {"options": ShardOptions(special_tokens=False, seed=1)},
        {"options": ShardOptions(special_tokens=False, valid_fraction=0)},
    ],
)
def test_another_content_in_the_way_is_refused(make, text, change):
    before = files_of(make(text))
    with pytest.raises(FileExistsError, match="is there already, made of other text"):
        make(**({"lines": text} | change))
    assert files_of(make(text)) == before


def test_files_of_unknown_origin_are_not_overwritten(make, text, tmp_path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        make(text)
    assert list(files_of(tmp_path / "out").values()) == [b"mine"]


def test_an_unfinished_run_of_another_kind_is_refused(make, text, monkeypatch):
    def stop(*_):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(make_shards_module, "run_tasks", stop)
        with pytest.raises(StoppedError):
            make(text)
    with pytest.raises(FileExistsError, match="is of an unfinished run on other text"):
        make(text[:-1])
    make(text)


def test_two_runs_at_once_are_refused(make, text, tmp_path):
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with (tmp_path / "out" / ".work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="is being written by another process"):
            make(text)
    make(text)


@pytest.mark.parametrize("empty", [[""], ["\n\n\n"], ["   ", "\t"], ["\0"], ["\ufeff"]])
def test_a_text_without_a_sequence_leaves_nothing(make, tmp_path, empty):
    with pytest.raises(ValueError, match="has no bytes|the text is too small"):
        make(empty)
    assert not (tmp_path / "out").exists()


def test_a_text_too_small_for_validation_says_so(make, text, tmp_path):
    with pytest.raises(ValueError, match=r"no sequence falls into .*out/valid"):
        make(text[:1], options=ShardOptions(valid_fraction=1e-9))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("there", [(), ("out",), ("scratch",), ("out", "scratch")])
def test_empty_directories_of_the_user_stay(
    tmp_path, text, tokenizer_path, monkeypatch, there, fails, interrupted
):
    """What is there without a file afterwards was there before; of a continued run as well."""
    (tmp_path / "text").write_text("\n".join(text[: 1 if fails else 50]))
    (tmp_path / "here").mkdir()
    for name in there:
        (tmp_path / "here" / name).mkdir()

    def make(options):
        place = tmp_path / "here" / "out"
        scratch = tmp_path / "here" / "scratch"
        make_shards(f"{tmp_path}/text", tokenizer_path, place, options, 1, scratch=scratch)

    def stop(*_):
        raise StoppedError

    options = ShardOptions(valid_fraction=1e-9 if fails else 0)
    if interrupted:
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(make_shards_module, "run_tasks", stop)
            make(options)
    with pytest.raises(ValueError) if fails else contextlib.nullcontext():
        make(options)
    found = {path.name for path in (tmp_path / "here").iterdir()}
    made = {"scratch"} if fails and interrupted else set() if fails else {"out"}
    assert found == {*there, *made}


def test_an_empty_out_of_the_user_stays_after_an_error(make, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="has no bytes"):
        make([""])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_is_the_users_also_while_workers_of_a_cluster_write_on(tmp_path):
    """They are not waited for; nothing of theirs is in the way of the next run."""
    work = tmp_path / "out" / ".work"
    ended = []

    def write_on():
        for number in itertools.count():
            try:
                (work / "parts" / f"{number}.bin").touch()
            except FileNotFoundError:
                break
        ended.append(number)

    for _ in range(10):
        threads = [threading.Thread(target=write_on) for _ in range(2)]
        with (
            pytest.raises(ValueError, match="of the user"),
            working(RemoteOutput("s3://a/b"), work),
        ):
            (work / "parts").mkdir()
            for thread in threads:
                thread.start()
            while len(list((work / "parts").iterdir())) < 200:
                time.sleep(0.001)
            raise ValueError("of the user")
        for thread in threads:
            thread.join()
        assert not work.exists()
    assert len(ended) == 20


def test_what_a_killed_run_was_removing_goes_with_the_next(make, text, tmp_path):
    gone = tmp_path / "out" / ".work.gone-0123"
    (gone / "parts").mkdir(parents=True)
    make(text)
    assert not gone.exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"valid_fraction": 1.0}, "--valid_fraction is 1.0"),
        ({"valid_fraction": -0.1}, "--valid_fraction is -0.1"),
        ({"seq_len": 3}, "--seq_len is 3"),
        ({"seq_len": 70_000}, "--seq_len is 70000"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, part):
    with pytest.raises(ValueError, match=part):
        ShardOptions(**options)


def test_a_tokenizer_without_the_tokens_that_are_asked_for_is_refused(make, text, tmp_path):
    content = json.loads((make(text) / "train" / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["content"] = token["content"].replace("[SEP]", "[END]")
    content["model"]["vocab"]["[END]"] = content["model"]["vocab"].pop("[SEP]")
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no \[CLS\] and \[SEP\]"):
        make(text, "a", ShardOptions(), tokenizer=tmp_path / "t.json")
    with pytest.raises(ValueError, match=r"no \[SEP\] to put between"):
        make(text, "a", ShardOptions(special_tokens=False, join="documents"),
             tokenizer=tmp_path / "t.json")  # fmt: skip
    make(text, "a", PLAIN, tokenizer=tmp_path / "t.json")


def test_a_killed_worker_is_one_sentence():
    words = "a worker process was killed"
    with pytest.raises(LostWorkersError, match=words) as caught, executor(2) as pool:
        list(run_tasks(pool, 2, os._exit, [1]))
    assert caught.value.code == 70


def test_no_worker_outlives_a_killed_parent(tmp_path):
    script = (
        "import time, os\nfrom data_prep.executors.local import executor, run_tasks\n"
        "if __name__ == '__main__':\n"
        "    with executor(2) as pool:\n"
        "        list(run_tasks(pool, 2, time.sleep, [0.01] * 4))\n"
        "        print(*(p for p in pool._processes), flush=True)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, env=environment, text=True
    )
    children = [Path("/proc", number) for number in process.stdout.readline().split()]
    assert len(children) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(_runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(child) for child in children)


def _runs(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_dirty_text_passes_and_is_counted(tmp_path, corpus, tokenizer_path):
    source = corpus / "dirty.txt"
    make_shards(str(source), tokenizer_path, tmp_path / "out", PLAIN, 1)
    counts = json.loads((tmp_path / "out" / "made.json").read_text())["counts"]
    indexes = [ShardSet.open(tmp_path / "out" / split).index for split in ("train", "valid")]
    assert counts["lines"] == len(source.read_bytes().split(b"\n"))
    assert counts["lines"] == (
        sum(index.lines for index in indexes)
        + counts["blank lines"]
        + counts["duplicate lines"]
        + counts.get("lines dropped whole", 0)
    )
    for what in ("lines with invalid UTF-8", "NUL characters", "byte order marks", "lines not NFC"):
        assert counts[what] > 0
    for split in ("train", "valid"):
        assert faults_of(tmp_path / "out" / split) == []
        special = {0, 2, 3, 4}
        assert not any(special & set(row) for row in rows_of(tmp_path / "out" / split))
