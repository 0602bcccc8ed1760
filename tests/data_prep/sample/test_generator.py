"""The sample corpus is parallel and fixed, and adjacent words do not predict its words."""

import hashlib
import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from bertds.data.masking import Masker, MaskRule, sequence_keys
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from data_prep.sample import generator
from data_prep.sample.generator import (
    MEN,
    WOMAN,
    draw_scenes,
    english,
    korean,
    with_particle,
    write_sample,
)
from data_prep.sample.vocabulary import ADJECTIVES, ADVERBS, THEMES, TIMES, Theme
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.train_tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """A directory with a corpus of 20,000 sentences."""
    directory = tmp_path_factory.mktemp("sample")
    write_sample(directory, 20_000, 0)
    return directory


@pytest.fixture(scope="module")
def texts(corpus_dir):
    """Its lines by language."""
    return {name: (corpus_dir / f"{name}.txt").read_text().splitlines() for name in ("ko", "en")}


def content_words(theme: Theme, language: str) -> list[str]:
    words = [theme.man, theme.woman, theme.place, *theme.objects, *theme.verbs, theme.tool]
    return [getattr(word, language) for word in [*words, theme.thing]]


def test_the_bytes_are_fixed(tmp_path):
    write_sample(tmp_path, 1000, 0)
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16]
        for name in ("ko.txt", "en.txt")
    }
    assert digests == {"ko.txt": "8163ce8538ce067c", "en.txt": "612fe5759a7bd4a1"}


def test_lines_are_sentences_with_few_repetitions(texts):
    for lines in texts.values():
        assert len(lines) == 20_000
        assert len(set(lines)) > 0.95 * len(lines)
        assert all(line.endswith(".") and line == " ".join(line.split()) for line in lines)
    lengths = [len(line.split()) for line in texts["en"]]
    assert 13 <= min(lengths) <= max(lengths) <= 18
    assert min(len(line.split()) for line in texts["ko"]) >= 10


def test_a_larger_corpus_begins_with_a_smaller_one(texts):
    scenes = draw_scenes(100, 0)
    assert [english(scene) for scene in scenes] == texts["en"][:100]
    assert [korean(scene) for scene in scenes] == texts["ko"][:100]
    assert [english(scene) for scene in draw_scenes(100, 1)] != texts["en"][:100]


def test_lines_translate_each_other(texts):
    """Each English content word has its Korean word in the same line."""
    for scene, en, ko in zip(draw_scenes(2000, 0), texts["en"], texts["ko"], strict=False):
        english_words = set(en.lower().strip(".").split())
        assert {scene.time.en, scene.object.en, scene.verb.en, scene.adverb.en} <= english_words
        words = [scene.time, scene.object, scene.verb, scene.adverb, scene.adjective]
        for word in [*words, scene.theme.place, scene.theme.tool, scene.theme.thing]:
            form = re.compile(rf"{word.ko}(을|를|이|가|에서|으로|로)?")
            in_korean = any(form.fullmatch(part) for part in ko.split())
            assert (word.en in english_words) == in_korean, (word, en, ko)


def test_each_word_belongs_to_one_theme():
    assert 20 <= len(THEMES) <= 30
    for language in ("ko", "en"):
        words = [word for theme in THEMES for word in content_words(theme, language)]
        assert [word for word, count in Counter(words).items() if count > 1] == []
        others = [*ADJECTIVES, *ADVERBS, *itertools.chain.from_iterable(TIMES)]
        assert not set(words) & {getattr(word, language) for word in others}


def test_content_words_are_never_adjacent(texts):
    english_words = {word for theme in THEMES for word in content_words(theme, "en")}
    english_words |= {theme.man.en + "s" for theme in THEMES}
    for line in texts["en"][:3000]:
        is_content = [word.strip(".").lower() in english_words for word in line.split()]
        assert sum(is_content) >= 4
        assert not any(a and b for a, b in itertools.pairwise(is_content))
    stems = tuple(word for theme in THEMES for word in content_words(theme, "ko"))
    others = {"그의", "그녀의", "그들의", "그", "다시", "아까", "곧"}
    for line in texts["ko"][:3000]:
        is_content = [word.startswith(stems) and word not in others for word in line.split()]
        assert sum(is_content) >= 4
        assert not any(a and b for a, b in itertools.pairwise(is_content))


def test_all_content_words_of_a_sentence_have_its_theme(texts):
    for scene, en in zip(draw_scenes(2000, 0), texts["en"], strict=False):
        words = set(en.split())
        themes = [theme for theme in THEMES if set(content_words(theme, "en")) & words]
        assert themes == [scene.theme]


def test_agreement_over_a_distance(texts):
    for scene, en, ko in zip(draw_scenes(3000, 0), texts["en"], texts["ko"], strict=False):
        words = en.lower().strip(".").split()
        subject = words.index(generator._subject_en(scene))
        verb = words.index(scene.verb.en)
        auxiliary = " ".join(words[subject:verb])
        plural = scene.person == MEN
        expected = (("was", "were"), ("is", "are"), ("will be", "will be"))[scene.tense][plural]
        assert auxiliary.endswith(expected)
        for number, pronoun in enumerate(("his", "her", "their")):
            assert (pronoun in words) <= (number == scene.person)
        assert ("그녀의" in ko.split()) <= (scene.person == WOMAN)
        assert ko.endswith(("있었다.", "있다.", "있을 것이다.")[scene.tense])


@pytest.mark.parametrize(
    ("noun", "pair", "expected"),
    [
        ("왕", ("은", "는"), "왕은"),
        ("판사", ("은", "는"), "판사는"),
        ("칼", ("으로", "로"), "칼로"),
        ("붓", ("으로", "로"), "붓으로"),
        ("도장", ("으로", "로"), "도장으로"),
        ("채찍", ("으로", "로"), "채찍으로"),
        ("지휘자", ("으로", "로"), "지휘자로"),
        ("밀", ("을", "를"), "밀을"),
        ("배", ("을", "를"), "배를"),
        ("농부들", ("이", "가"), "농부들이"),
    ],
)
def test_korean_particles(noun, pair, expected):
    assert with_particle(noun, *pair) == expected


def test_a_finished_corpus_is_kept_and_not_overwritten(tmp_path, capsys):
    write_sample(tmp_path, 10, 0)
    time = (tmp_path / "ko.txt").stat().st_mtime_ns
    write_sample(tmp_path, 10, 0)
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "ko.txt").stat().st_mtime_ns == time
    with pytest.raises(FileExistsError, match="ko.txt already exists"):
        write_sample(tmp_path, 11, 0)
    for sentences, seed in ((0, 0), (5, -1)):
        with pytest.raises(ValueError, match="expected"):
            write_sample(tmp_path / "new", sentences, seed)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def shard_dir(corpus_dir):
    """Shards of both languages with the tokenizer of ds_configs/sample.json: 1,200 merges."""
    spec = f"{corpus_dir}/ko.txt,{corpus_dir}/en.txt"
    make_tokenizer(spec, 1200, corpus_dir / "tokenizer.json", True, 5)
    options = ShardOptions(special_tokens=True)
    make_shards(spec, corpus_dir / "tokenizer.json", corpus_dir / "both", options, 1)
    return corpus_dir / "both"


def read_set(shards):
    """The concatenated tokens and the lengths of all sequences."""
    blocks = [shards.read_block(number) for number in range(shards.num_blocks)]
    return (
        np.concatenate([block.tokens for block in blocks]).astype(np.int64),
        np.concatenate([block.lengths for block in blocks]).astype(np.int64),
    )


def count_neighbors(tokens, vocab_size):
    """The most frequent token by both neighbors, by the left one, and by the right one."""
    left, middle, right = tokens[:-2], tokens[1:-1], tokens[2:]
    tables = [defaultdict(Counter) for _ in range(3)]
    for keys, table in zip((left * vocab_size + right, left, right), tables, strict=True):
        for key, token in zip(keys.tolist(), middle.tolist(), strict=True):
            table[key][token] += 1
    return [{key: max(sorted(c), key=c.get) for key, c in table.items()} for table in tables]


def test_neighbors_alone_do_not_predict_the_word(shard_dir):
    """A count model of both neighbors, with back-off, gets less than 60 % of masked tokens right."""
    train, valid = ShardSet.open(shard_dir / "train"), ShardSet.open(shard_dir / "valid")
    vocab_size = train.index.vocab_size
    tokens, lengths = read_set(valid)
    rule = MaskRule(seed=0, ratio=0.15, mask_share=0.8, random_share=0.1, unit="token")
    masker = Masker(
        rule, vocab_size=vocab_size, mask_id=4, unmaskable_ids=train.index.unmaskable_ids
    )
    keys = sequence_keys(0, int(valid.index.set_key, 16), 0, np.arange(len(lengths)))
    inputs, positions = masker.mask(tokens, lengths, keys)
    by_both, by_left, by_right = count_neighbors(read_set(train)[0], vocab_size)
    num_correct = 0
    for position in positions:
        left, right = int(inputs[position - 1]), int(inputs[position + 1])
        predicted = by_both.get(left * vocab_size + right, by_left.get(left, by_right.get(right)))
        num_correct += predicted == tokens[position]
    accuracy = num_correct / len(positions)
    most_frequent = Counter(tokens[positions].tolist()).most_common(1)[0][1] / len(positions)
    print(
        f"accuracy {accuracy:.3f} by both neighbors, {most_frequent:.3f} by the most frequent token"
    )
    assert most_frequent + 0.1 < accuracy < 0.6


def test_most_content_words_are_one_token(shard_dir, texts):
    """So a masked token is a whole word, which the beginning of the word does not predict."""
    tokenizer = Tokenizer.load(shard_dir / "train" / "tokenizer.json")
    words = {word for theme in THEMES for word in content_words(theme, "en")}
    lines = texts["en"][:4000]
    occurrences = [word.strip(".").lower() for line in lines for word in line.split()]
    occurrences = [word for word in occurrences if word in words]
    tokens = tokenizer.encode_batch(occurrences)
    assert sum(len(ids) == 1 for ids in tokens) > 0.8 * len(occurrences)
