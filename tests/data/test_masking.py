"""Masks: exact numbers, the 80/10/10 split, uniformity, and independence of everything else."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.masking import Masker, MaskRule, sequence_keys

VOCAB = 200
SPECIAL = (0, 1, 2, 3, 4)
PAD, UNK, CLS, SEP, MASK = SPECIAL
# Every third id begins a word, and every special one.
WORD_STARTS = (np.arange(VOCAB) % 3 == 0) | (np.arange(VOCAB) < 5)


def make_masker(
    ratio=0.15,
    mask_share=0.8,
    random_share=0.1,
    unit="token",
    seed=0,
    version=1,
) -> Masker:
    rule = MaskRule(
        seed=seed,
        ratio=ratio,
        mask_share=mask_share,
        random_share=random_share,
        unit=unit,
        version=version,
    )
    return Masker(
        rule, vocab_size=VOCAB, mask_id=MASK, unmaskable_ids=SPECIAL, word_starts=WORD_STARTS
    )


def keys_of(count: int, *, seed=0, set_key=9, dataset_epoch=0, first=0) -> np.ndarray:
    return sequence_keys(seed, set_key, dataset_epoch, first + np.arange(count))


def text(lengths, *, special_share=0.0, seed=0, dtype=np.uint16):
    """Draw random ids for sequences of these lengths, some of them special."""
    generator = np.random.default_rng(seed)
    total = int(np.sum(lengths))
    tokens = generator.integers(5, VOCAB, total)
    special = generator.random(total) < special_share
    tokens[special] = generator.choice([UNK, CLS, SEP], int(special.sum()))
    return tokens.astype(dtype), np.asarray(lengths, np.uint16)


def per_sequence(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1])


def masked_flags(positions: np.ndarray, size: int) -> np.ndarray:
    flags = np.zeros(size, bool)
    flags[positions] = True
    return flags


lengths_lists = st.lists(st.integers(1, 70), min_size=1, max_size=40)
units = st.sampled_from(["token", "word"])


@given(
    lengths_lists,
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.sampled_from([np.uint16, np.uint32, np.int64]),
)
def test_the_number_of_chosen_tokens_is_exact(lengths, ratio, special_share, dtype):
    tokens, lengths = text(lengths, special_share=special_share, dtype=dtype)
    inputs, positions = make_masker(ratio).mask(tokens, lengths, keys_of(lengths.size))
    assert inputs.dtype == tokens.dtype and inputs.shape == tokens.shape
    assert (np.diff(positions) > 0).all()
    flags = masked_flags(positions, tokens.size)
    assert not np.isin(tokens[flags], SPECIAL).any()
    assert np.array_equal(inputs[~flags], tokens[~flags])
    ids, chosen = per_sequence(tokens, lengths), per_sequence(flags, lengths)
    for row, row_flags in zip(ids, chosen, strict=True):
        maskable = int((~np.isin(row, SPECIAL)).sum())
        expected = max(1, math.floor(ratio * maskable + 0.5)) if maskable else 0
        assert row_flags.sum() == expected


@given(lengths_lists, units, st.integers(0, 40), st.data())
def test_a_mask_depends_only_on_its_sequence(lengths, unit, first, data):
    tokens, lengths = text(lengths, special_share=0.1)
    masker = make_masker(unit=unit)
    keys = keys_of(lengths.size, first=first)
    inputs, positions = masker.mask(tokens, lengths, keys)
    whole = per_sequence(inputs, lengths)
    flags = per_sequence(masked_flags(positions, tokens.size), lengths)
    order = np.array(data.draw(st.permutations(range(lengths.size))))[: lengths.size // 2 + 1]
    picked = np.concatenate([per_sequence(tokens, lengths)[i] for i in order]).astype(np.uint32)
    inputs, positions = masker.mask(picked, lengths[order].astype(np.int64), keys[order])
    parts = per_sequence(inputs, lengths[order])
    part_flags = per_sequence(masked_flags(positions, picked.size), lengths[order])
    for number, part, part_flag in zip(order, parts, part_flags, strict=True):
        assert np.array_equal(part, whole[number])
        assert np.array_equal(part_flag, flags[number])


@pytest.mark.parametrize("unit", ["token", "word"])
def test_sequences_without_a_maskable_token_are_unchanged(unit):
    masker = make_masker(unit=unit)
    special = np.array([CLS, UNK, SEP], np.uint16)
    row, _ = text([7])
    for parts in (special, row), (row, special), (special, special), (special, row, special):
        tokens = np.concatenate(parts)
        lengths = np.array([part.size for part in parts])
        inputs, positions = masker.mask(tokens, lengths, keys_of(lengths.size))
        counts = [
            int(flags.sum())
            for flags in per_sequence(masked_flags(positions, tokens.size), lengths)
        ]
        assert [count > 0 for count in counts] == [part is row for part in parts]
        assert np.array_equal(inputs[np.isin(tokens, SPECIAL)], tokens[np.isin(tokens, SPECIAL)])


@pytest.mark.parametrize("unit", ["token", "word"])
def test_no_sequences(unit):
    nothing = np.empty(0, np.uint16)
    inputs, positions = make_masker(unit=unit).mask(nothing, nothing, keys_of(0))
    assert inputs.dtype == np.uint16 and inputs.size == positions.size == 0


@pytest.mark.parametrize("unit", ["token", "word"])
def test_eighty_ten_ten(unit):
    tokens, lengths = text(np.full(20_000, 50))
    inputs, positions = make_masker(unit=unit).mask(tokens, lengths, keys_of(lengths.size))
    count = positions.size
    masked = np.mean(inputs[positions] == MASK)
    same = np.mean(inputs[positions] == tokens[positions])
    drawable = VOCAB - len(SPECIAL)
    for share, expected in [(masked, 0.8), (same, 0.1 + 0.1 / drawable)]:
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    changed = inputs[positions][(inputs[positions] != MASK)]
    assert not np.isin(changed, SPECIAL).any()


def test_random_ids_are_uniform_and_independent_of_position_and_token():
    tokens, lengths = text(np.full(20_000, 50))
    masker = make_masker(mask_share=0.0, random_share=1.0)
    inputs, positions = masker.mask(tokens, lengths, keys_of(lengths.size))
    drawn = inputs[positions].astype(int)
    counts = np.bincount(drawn, minlength=VOCAB)
    assert counts[list(SPECIAL)].sum() == 0
    expected = drawn.size / (VOCAB - len(SPECIAL))
    chi_square = ((counts[5:] - expected) ** 2 / expected).sum()
    degrees = VOCAB - len(SPECIAL) - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)
    bound = 5 / np.sqrt(drawn.size)
    assert abs(np.corrcoef(drawn, tokens[positions])[0, 1]) < bound
    assert abs(np.corrcoef(drawn, positions % 50)[0, 1]) < bound
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < bound


@pytest.mark.parametrize(("length", "ratio"), [(2, 0.15), (7, 0.3), (30, 0.15), (64, 0.5)])
def test_every_position_and_every_pair_of_positions_is_equally_likely(length, ratio):
    tries = 40_000
    tokens, lengths = text(np.full(tries, length))
    _, positions = make_masker(ratio).mask(tokens, lengths, keys_of(tries))
    flags = masked_flags(positions, tokens.size).reshape(tries, length).astype(float)
    chosen = max(1, math.floor(ratio * length + 0.5))
    share = chosen / length
    assert np.abs(flags.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / tries)
    pairs = flags.T @ flags / tries
    both = share * (chosen - 1) / (length - 1)
    off_diagonal = pairs[~np.eye(length, dtype=bool)]
    assert np.abs(off_diagonal - both).max() < 6 * np.sqrt(max(both, 1e-4) / tries)


def test_the_replacement_does_not_depend_on_the_position():
    tokens, lengths = text(np.full(40_000, 10))
    inputs, positions = make_masker(0.3, 0.5, 0.0).mask(tokens, lengths, keys_of(lengths.size))
    hidden = inputs[positions] == MASK
    for position in range(10):
        at_position = hidden[positions % 10 == position]
        assert abs(at_position.mean() - 0.5) < 5 * 0.5 / np.sqrt(at_position.size)


def test_masks_differ_between_epochs_sets_seeds_and_sequences():
    tokens, lengths = text(np.full(2000, 40))
    base = {"seed": 1, "set_key": 2, "dataset_epoch": 3, "first": 4}
    masker = make_masker()

    def flags(**changed):
        keys = keys_of(lengths.size, **{**base, **changed})
        return masked_flags(masker.mask(tokens, lengths, keys)[1], tokens.size)

    first = flags()
    assert np.array_equal(first, flags())
    for changed in ({"seed": 2}, {"set_key": 3}, {"dataset_epoch": 4}, {"first": 5}):
        both = np.mean(first & flags(**changed))
        assert abs(both - 0.15**2) < 5 * 0.15 / np.sqrt(tokens.size)


def words_of(row: np.ndarray) -> list[range]:
    """Find the runs of maskable tokens from one word start to the next."""
    words, start = [], None
    for position, token in enumerate(row):
        if start is not None and (WORD_STARTS[token] or token in SPECIAL):
            words.append(range(start, position))
            start = None
        if start is None and token not in SPECIAL:
            start = position
    return words if start is None else [*words, range(start, len(row))]


@given(lengths_lists, st.floats(0.01, 0.9), st.sampled_from([0.0, 0.2, 0.9]))
def test_a_word_is_masked_whole_or_not_at_all(lengths, ratio, special_share):
    tokens, lengths = text(lengths, special_share=special_share)
    _, positions = make_masker(ratio, unit="word").mask(tokens, lengths, keys_of(lengths.size))
    flags = per_sequence(masked_flags(positions, tokens.size), lengths)
    for row, chosen in zip(per_sequence(tokens, lengths), flags, strict=True):
        words = words_of(row)
        taken = [word for word in words if chosen[word.start]]
        for word in words:
            assert chosen[list(word)].all() or not chosen[list(word)].any()
        assert chosen.sum() == sum(map(len, taken))
        assert bool(taken) == bool(words)
        if words:
            budget = max(1, math.floor(ratio * sum(map(len, words)) + 0.5))
            longest = max(map(len, words))
            assert len(taken) == 1 or abs(int(chosen.sum()) - budget) <= longest / 2


def test_whole_words_keep_the_ratio():
    tokens, lengths = text(np.full(20_000, 60))
    _, positions = make_masker(unit="word").mask(tokens, lengths, keys_of(lengths.size))
    assert abs(positions.size / tokens.size - 0.15) < 0.003


def sequences_of_words(words: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Build tokens and lengths of sequences whose words have these numbers of tokens."""
    sizes = np.concatenate(words)
    starts = np.concatenate([np.arange(size) == 0 for size in sizes])
    tokens = 6 + 3 * np.random.default_rng(0).integers(0, 60, starts.size)
    return (tokens + ~starts).astype(np.uint16), np.array([sum(row) for row in words])


word_sizes = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=20
)


@given(word_sizes, st.floats(0.01, 0.9))
def test_version_2_cuts_words_that_are_longer_than_the_tokens_to_predict(words, ratio):
    tokens, lengths = sequences_of_words(words)
    keys = keys_of(lengths.size)
    cut = make_masker(ratio, unit="word", version=2).mask(tokens, lengths, keys)[1]
    whole = make_masker(ratio, unit="word").mask(tokens, lengths, keys)[1]
    cut_flags = per_sequence(masked_flags(cut, tokens.size), lengths)
    whole_flags = per_sequence(masked_flags(whole, tokens.size), lengths)
    for sizes, flags, flags_of_1 in zip(words, cut_flags, whole_flags, strict=True):
        budget = max(1, math.floor(ratio * sum(sizes) + 0.5))
        assert flags.sum() >= 1 and abs(int(flags.sum()) - budget) <= budget / 2
        if max(sizes) <= budget:
            assert np.array_equal(flags, flags_of_1)
        for size, word in zip(sizes, np.split(flags, np.cumsum(sizes)[:-1]), strict=True):
            assert size > budget or word.all() or not word.any()


def test_version_2_keeps_the_ratio_without_blanks_and_masks_every_token_alike():
    tries = 20_000
    tokens, lengths = sequences_of_words([[40]] * tries)
    keys = keys_of(tries)
    whole = make_masker(unit="word").mask(tokens, lengths, keys)[1]
    assert whole.size == tokens.size  # version 1 masks the only word of each sequence
    positions = make_masker(unit="word", version=2).mask(tokens, lengths, keys)[1]
    share = positions.size / tokens.size
    assert abs(share - 0.15) < 0.015
    each = np.bincount(positions % 40, minlength=40) / tries
    assert np.abs(each - share).max() < 5 * np.sqrt(share / tries)


def test_whole_words_require_a_vocabulary_with_word_starts():
    rule = MaskRule(seed=0, ratio=0.15, mask_share=0.8, random_share=0.1, unit="word")
    with pytest.raises(ValueError, match="does not mark where a word starts"):
        Masker(rule, vocab_size=VOCAB, mask_id=MASK, unmaskable_ids=SPECIAL)


def test_more_than_a_million_sequences_in_one_call():
    lengths = np.tile(np.array([1, 2, 3], np.uint16), 400_000)
    tokens, _ = text(lengths)
    keys = keys_of(lengths.size)
    masker = make_masker()
    inputs, positions = masker.mask(tokens, lengths, keys)
    assert positions.size == lengths.size  # one token each
    owner = np.searchsorted(np.cumsum(lengths), positions, side="right")
    assert np.array_equal(owner, np.arange(lengths.size))
    tail, last = int(lengths[:-9].sum()), slice(lengths.size - 9, None)
    tail_inputs, tail_positions = masker.mask(tokens[tail:], lengths[last], keys[last])
    assert np.array_equal(tail_inputs, inputs[tail:])
    assert np.array_equal(tail_positions + tail, positions[-9:])


def test_long_sequences():
    tokens, lengths = text([60_000])
    _, positions = make_masker().mask(tokens, lengths, keys_of(1))
    assert positions.size == 9000
    assert abs(np.mean(positions) - 30_000) < 5 * 60_000 / np.sqrt(12 * 9000)


@pytest.mark.parametrize(("unit", "version"), [("token", 1), ("token", 2), ("word", 1)])
def test_golden_masks(unit, version):
    tokens = np.arange(10, 50, dtype=np.uint16)
    lengths = np.array([4, 25, 1, 10])
    masker = make_masker(0.3, unit=unit, version=version)
    inputs, positions = masker.mask(tokens, lengths, keys_of(4, first=100))
    assert (positions.tolist(), inputs[positions].tolist()) == GOLDEN[unit]


def test_golden_masks_of_cut_words():
    tokens, lengths = sequences_of_words([[13], [1, 9, 2, 1], [3, 3]])
    masker = make_masker(0.3, unit="word", version=2)
    inputs, positions = masker.mask(tokens, lengths, keys_of(3, first=100))
    assert (positions.tolist(), inputs[positions].tolist()) == GOLDEN_CUT_WORDS


GOLDEN = {
    "token": (
        [0, 5, 6, 13, 14, 17, 18, 23, 28, 29, 35, 36, 37],
        [4, 4, 4, 4, 4, 4, 4, 33, 20, 4, 45, 4, 4],
    ),
    "word": (
        [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 29, 35, 36, 37],
        [4, 4, 4, 4, 7, 4, 4, 4, 4, 97, 4, 4, 45, 4, 4],
    ),
}
GOLDEN_CUT_WORDS = (
    [0, 1, 2, 17, 18, 19, 26, 29],
    [4, 4, 4, 4, 4, 4, 4, 4],
)
