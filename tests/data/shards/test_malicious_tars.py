"""Tars and indexes made to harm: refused by name, nothing is executed, nothing lands elsewhere."""

import hashlib
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

from bertds.data.shards.format import INDEX_NAME, MAX_INDEX_BYTES
from bertds.data.shards.reader import ShardSet
from bertds.errors import ShardError
from tests.helpers.shard_verify import faults_of

# A tar's first header is replaced by one of these, its check sum made right.
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


def rewrite(directory: Path, content: bytes) -> None:
    """Let the first shard hold this, and the index confirm it."""
    shard = directory / "shard-000000.tar"
    assert len(content) == shard.stat().st_size
    shard.write_bytes(content)
    index = json.loads((directory / INDEX_NAME).read_text())
    index["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (directory / INDEX_NAME).write_text(json.dumps(index))


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_crafted_member_is_refused_and_harms_nobody(
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
    rewrite(directory, bytes(content))
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(ShardError, match=r"shard-000000\.tar: block 0 is damaged .*tokens\.npy"):
        ShardSet.open(directory).read_block(0)
    assert any("shard-000000.tar: block 0 is damaged" in fault for fault in faults_of(directory))
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert not touched.exists()


def test_a_giant_index_is_not_read(directory: Path) -> None:
    with (directory / INDEX_NAME).open("r+b") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    with pytest.raises(ShardError, match="it is not a shard index"):
        ShardSet.open(directory)
