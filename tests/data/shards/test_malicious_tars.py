"""Malicious tars and indexes: rejected by name, nothing is executed or written elsewhere."""

import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

from bertds.data.shards.format import INDEX_NAME, MAX_INDEX_BYTES
from bertds.data.shards.reader import ShardSet
from bertds.errors import ShardError
from tests.data.shards.small_sets import replace_shard
from tests.helpers.shard_verify import faults_of

# The first header of a tar is replaced by one of these, with the right checksum.
MEMBERS = {
    "above": ("../../escaped.npy", tarfile.REGTYPE, ""),
    "absolute": ("/tmp/bertds-escaped.npy", tarfile.REGTYPE, ""),
    "symbolic link": ("000000000000.tokens.npy", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": ("000000000000.tokens.npy", tarfile.LNKTYPE, "000000000001.tokens.npy"),
    "device": ("000000000000.tokens.npy", tarfile.CHRTYPE, ""),
    "fifo": ("000000000000.tokens.npy", tarfile.FIFOTYPE, ""),
    "directory": ("000000000000.tokens.npy", tarfile.DIRTYPE, ""),
    "pickle": ("000000000000.tokens.pickle", tarfile.REGTYPE, ""),
    "pyd": ("000000000000.tokens.pyd", tarfile.REGTYPE, ""),
    "pth": ("000000000000.tokens.pth", tarfile.REGTYPE, ""),
}


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.fixture
def directory(data_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(data_root / "ko", tmp_path / "sets" / "ko")
    return tmp_path / "sets" / "ko"


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_crafted_member_is_rejected_without_harm(
    kind: str, directory: Path, tmp_path: Path
) -> None:
    name, member_type, target = MEMBERS[kind]
    touched = tmp_path / "touched"
    content = bytearray((directory / "shard-000000.tar").read_bytes())
    header = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    payload = pickle.dumps(Evil(touched))
    crafted = tarfile.TarInfo(name)
    crafted.type, crafted.linkname, crafted.size = member_type, target, header.size
    content[:512] = crafted.tobuf(tarfile.USTAR_FORMAT)
    if kind in ("pickle", "pyd", "pth"):
        content[512 : 512 + len(payload)] = payload
    replace_shard(directory, bytes(content))
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(ShardError, match=r"shard-000000\.tar: block 0 is damaged .*tokens\.npy"):
        ShardSet.open(directory).read_block(0)
    assert any("shard-000000.tar: block 0 is damaged" in fault for fault in faults_of(directory))
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert not touched.exists()


def test_a_huge_index_is_not_read(directory: Path) -> None:
    with (directory / INDEX_NAME).open("r+b") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    with pytest.raises(ShardError, match="it is not a shard index"):
        ShardSet.open(directory)
