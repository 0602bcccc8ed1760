"""The encoding of blocks: what is encoded is decoded, and impossible values are rejected."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.data.shards.format import Block, decode_block, encode_block, id_dtype, length_dtype
from tests.data.shards.small_sets import Evil, object_array


@dataclasses.dataclass
class FakeIndex:
    """The fields of an index that decoding reads."""

    vocab_size: int = 100
    dtype: str = "uint16"
    seq_len: int = 64
    copies: int = 0


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    key=st.integers(0, 10**12 - 1),
    vocab_size=st.sampled_from([10, 65_536, 65_537, 200_000]),
    seq_len=st.sampled_from([300, 70_000]),
)
@settings(max_examples=50)
def test_a_block_of_any_shape_is_decoded(lengths, key, vocab_size, seq_len):
    generator = np.random.default_rng(key)
    dtype = id_dtype(vocab_size)
    block = Block(
        tokens=generator.integers(0, vocab_size, sum(lengths)).astype(dtype),
        lengths=np.array(lengths, dtype=length_dtype(seq_len)),
    )
    index = FakeIndex(vocab_size=vocab_size, dtype=dtype, seq_len=seq_len)
    decoded = decode_block(encode_block(key, block), key, index)
    assert decoded.tokens.dtype == np.dtype(dtype)
    assert np.array_equal(decoded.tokens, block.tokens)
    assert np.array_equal(decoded.lengths, block.lengths)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([1, 2, 3], [3, 0], "a sequence without a token"),
        ([1, 2, 3], [], "a sequence without a token"),
        ([1, 2, 3], [2], "do not sum to its 3 tokens"),
        ([1] * 65, [65], "65 tokens, but seq_len is 64"),
        ([1, 100, 3], [3], "token 1 has id 100, but the vocabulary has 100 ids"),
    ],
)
def test_impossible_blocks_are_rejected(tokens, lengths, message):
    block = Block(tokens=np.array(tokens, np.uint16), lengths=np.array(lengths, np.uint16))
    with pytest.raises(ValueError, match=message):
        decode_block(encode_block(0, block), 0, FakeIndex())


@pytest.mark.parametrize(
    ("inputs", "positions", "message"),
    [
        ([1, 2], [0], "a masked copy has 2 tokens, but the block has 3"),
        ([1, 2, 100], [0], "has id 100"),
        ([1, 2, 3], [3], "do not ascend inside the block"),
        ([1, 2, 3], [1, 1], "do not ascend inside the block"),
        ([1, 2, 3], [2, 1], "do not ascend inside the block"),
    ],
)
def test_impossible_copies_are_rejected(inputs, positions, message):
    block = Block(
        tokens=np.array([1, 2, 3], np.uint16),
        lengths=np.array([3], np.uint16),
        inputs=(np.array(inputs, np.uint16),),
        positions=(np.array(positions, np.uint32),),
    )
    with pytest.raises(ValueError, match=message):
        decode_block(encode_block(0, block), 0, FakeIndex(copies=1))


@pytest.mark.parametrize(
    "payload", [object_array(), pickle.dumps(Evil()), b"\x93NUMPY\x03\x00" + bytes(120)]
)
def test_a_pickle_in_a_member_is_not_loaded(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    block = Block(tokens=np.ones(4, np.uint16), lengths=np.array([4], np.uint16))
    content = encode_block(0, block)
    size = int(content[124:135], 8)
    damaged = content[:512] + payload[:size].ljust(size, b"\0") + content[512 + size :]
    with pytest.raises(ValueError):
        decode_block(damaged, 0, FakeIndex())
    assert not (tmp_path / "executed").exists()
