"""Writes small corpora in the formats of other programs: MDS shards and webdataset tars."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import zstandard

_COMPRESS = {
    None: lambda data: data,
    "zstd:3": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
    "gz": lambda data: gzip.compress(data, mtime=0),
}
_EXTENSIONS = {None: "", "zstd:3": ".zstd", "gz": ".gz"}
COLUMN_SIZES = {"str": None, "bytes": None, "pkl": None, "json": None, "int": 8}


def write_mds(directory, samples, columns, compression=None, per_shard=100):
    """Write what MDSWriter writes, field for field, without the package mosaicml-streaming.

    Args:
        directory: The directory to create.
        samples: The encoded columns of each sample, by name.
        columns: The encoding of each column, by name. MDSWriter sorts columns by name.
        compression: `zstd:3`, `gz` or None.
        per_shard: Number of samples per shard.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = sorted(columns)
    settings = {
        "version": 2,
        "format": "mds",
        "compression": compression,
        "hashes": [],
        "size_limit": 67108864,
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [COLUMN_SIZES[columns[name]] for name in names],
    }
    shards = []
    for number, start in enumerate(range(0, len(samples), per_shard)):
        part = samples[start : start + per_shard]
        content = _mds_shard([[sample[name] for name in names] for sample in part], settings)
        shards.append(settings | _write(directory, number, content, compression, len(part)))
    index = {"version": 2, "shards": shards}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return directory


def _mds_shard(rows, settings):
    config = json.dumps(settings, sort_keys=True).encode()
    bodies = []
    for row in rows:
        columns = zip(row, settings["column_sizes"], strict=True)
        sizes = [len(value) for value, size in columns if size is None]
        bodies.append(np.array(sizes, "<u4").tobytes() + b"".join(row))
    offsets = np.concatenate([[0], np.cumsum([len(body) for body in bodies])]).astype("<u4")
    offsets += 4 + offsets.nbytes + len(config)
    return b"".join([len(rows).to_bytes(4, "little"), offsets.tobytes(), config, *bodies])


def _write(directory, number, content, compression, samples):
    name = f"shard.{number:05d}.mds"
    compressed = _COMPRESS[compression](content)
    compressed_name = name + _EXTENSIONS[compression]
    (directory / compressed_name).write_bytes(compressed)
    raw_data = {"basename": name, "bytes": len(content), "hashes": {}}
    zip_data = {"basename": compressed_name, "bytes": len(compressed), "hashes": {}}
    return {
        "raw_data": raw_data,
        "zip_data": zip_data if compression else None,
        "samples": samples,
    }


def write_tar(path: Path, members, mode="w", form=tarfile.PAX_FORMAT):
    """Write a tar of (name, content) pairs, or of TarInfos without content."""
    with tarfile.open(path, mode, format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # needs a pax header, like the tars of webdataset
            tar.addfile(info, io.BytesIO(content))
    return path
