"""Tags survive the way through tokens and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.downstream.encoding import IGNORED, encode, unit_tags
from bertds.downstream.examples import Example, TaskData
from bertds.downstream.tasks import task_of_files

transformers = pytest.importorskip("transformers")
NAMES = ("O", "B-X", "I-X", "B-Y", "I-Y")
SYLLABLES = ["가", "나", "ba", "der", "x", "\u1112\u1161", "é", "e\u0301", "😀"]


@pytest.fixture(scope="module")
def hf_tokenizer(tokenizer):
    settings = {"pad_token": "[PAD]", "sep_token": "[SEP]"}
    path = {"tokenizer_object": tokenizer._backend}
    return transformers.PreTrainedTokenizerFast(**path, **settings)


def tagged(words, separator):
    """One example of words or letters, in which each unit that begins a word may begin an entity."""
    units, start, tags = [], 0, []
    for unit, tag in words:
        units.append((start, start + len(unit)))
        start += len(unit) + len(separator)
        tags.append(tag)
    text = separator.join(unit for unit, _ in words)
    example = Example(texts=(text,), label=tags, units=tuple(units))
    task = task_of_files("tokens", "", "", "", "")
    return TaskData(task=task, names=NAMES, train=[example], valid={})


def round_trip(data, tokenizer, max_length=10**6):
    """The tags that a perfect model predicts."""
    encoded = encode(data, tokenizer, data.train, max_length)
    (feature,) = encoded.features
    predicted = np.array([max(label, 0) for label in feature["labels"]])
    assert len(feature["labels"]) == len(feature["input_ids"])
    return unit_tags(predicted, encoded.places[0], NAMES), feature["labels"], encoded


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(SYLLABLES), min_size=1, max_size=4).map("".join),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_each_word_gets_its_tag_back(hf_tokenizer, words):
    data = tagged(words, " ")
    tags, labels, _ = round_trip(data, hf_tokenizer)
    assert tags == [NAMES[tag] for _, tag in words]
    assert sum(label != IGNORED for label in labels) == len(words)


@given(
    st.lists(
        st.tuples(st.sampled_from(["가나", "달", "ba"]), st.sampled_from([0, 1, 3])), max_size=6
    )
)
def test_letters_inside_a_token_continue_its_entity(hf_tokenizer, entities):
    """Whatever tokens the tokenizer makes of a text whose words are entities or not."""
    letters = [(" ", 0)]
    for word, tag in entities:
        inner = 0 if tag == 0 else tag + 1
        letters += [(word[0], tag), *((letter, inner) for letter in word[1:]), (" ", 0)]
    tags, _, _ = round_trip(tagged(letters, ""), hf_tokenizer)
    kept = [place for place, (letter, _) in enumerate(letters) if letter != " "]
    assert [tags[place] for place in kept] == [NAMES[letters[place][1]] for place in kept]


def test_what_is_cut_off_is_counted_and_predicted_as_o(hf_tokenizer):
    data = tagged([("ba", 1)] * 20, " ")
    tags, labels, encoded = round_trip(data, hf_tokenizer, max_length=5)
    assert encoded.num_cut == 1
    assert len(labels) == 5
    assert tags[0] == "B-X"
    assert tags[-1] == "O"


def test_a_pair_is_separated_also_if_the_tokenizer_does_not(hf_tokenizer):
    task = task_of_files("pair", "", "", "", "")
    examples = [Example(texts=("가 나", "달 [SEP]"), label=0), Example(texts=("ba", "co"), label=1)]
    data = TaskData(task=task, names=("0", "1"), train=examples, valid={})
    encoded = encode(data, hf_tokenizer, examples, 100)
    for feature, example in zip(encoded.features, examples, strict=True):
        text = hf_tokenizer.decode(feature["input_ids"])
        assert text.count("[SEP]") == 1 + example.texts[1].count("[SEP]")
        assert feature["labels"] == example.label
