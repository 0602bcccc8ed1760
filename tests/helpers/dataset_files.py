"""Corpora in the formats of other programs, as small as a test wants them."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import zstandard

_PACK = {
    None: lambda data: data,
    "zstd:3": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
    "gz": lambda data: gzip.compress(data, mtime=0),
}
_ENDINGS = {None: "", "zstd:3": ".zstd", "gz": ".gz", "br": ".br"}
SIZES = {"str": None, "bytes": None, "pkl": None, "json": None, "int": 8}


def write_mds(directory, samples, columns, compression=None, per_shard=100):
    """What MDSWriter writes, field for field, without `mosaicml-streaming` and its dependencies.

    `samples` are lists of the encoded columns, `columns` says each one's encoding. Names are in
    alphabetical order, as MDSWriter lays columns out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = sorted(columns)
    facts = {
        "version": 2,
        "format": "mds",
        "compression": compression,
        "hashes": [],
        "size_limit": 67108864,
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [SIZES[columns[name]] for name in names],
    }
    shards = []
    for number, start in enumerate(range(0, len(samples), per_shard)):
        chosen = samples[start : start + per_shard]
        content = _mds_shard([[each[name] for name in names] for each in chosen], facts)
        shards.append(facts | _write(directory, number, content, compression, len(chosen)))
    index = {"version": 2, "shards": shards}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return directory


def _mds_shard(rows, facts):
    config = json.dumps(facts, sort_keys=True).encode()
    bodies = []
    for row in rows:
        sizes = [len(v) for v, size in zip(row, facts["column_sizes"], strict=True) if size is None]
        bodies.append(np.array(sizes, "<u4").tobytes() + b"".join(row))
    offsets = np.concatenate([[0], np.cumsum([len(body) for body in bodies])]).astype("<u4")
    offsets += 4 + offsets.nbytes + len(config)
    return b"".join([len(rows).to_bytes(4, "little"), offsets.tobytes(), config, *bodies])


def _write(directory, number, content, compression, samples):
    name = f"shard.{number:05d}.mds"
    packed = _PACK[compression](content)
    (directory / (name + _ENDINGS[compression])).write_bytes(packed)
    raw = {"basename": name, "bytes": len(content), "hashes": {}}
    zipped = {"basename": name + _ENDINGS[compression], "bytes": len(packed), "hashes": {}}
    return {
        "raw_data": raw,
        "zip_data": zipped if compression else None,
        "samples": samples,
    }


def write_tar(path: Path, members, mode="w", form=tarfile.PAX_FORMAT):
    """A tar of (name, content) pairs, or of ready TarInfos without content."""
    with tarfile.open(path, mode, format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # needs a pax header, as in what webdataset writes
            tar.addfile(info, io.BytesIO(content))
    return path
