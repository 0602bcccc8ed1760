"""Text from URLs, shards to URLs: the bytes of local files."""

import gzip

import fsspec
import pytest

from bertds.cli import run
from bertds.errors import RemoteError
from bertds.io import remote
from data_prep import train_tokenizer
from data_prep.__main__ import COMMANDS
from data_prep.executors.local import run_tasks
from data_prep.output.storage import LocalOutput, output_of
from data_prep.readers import cleaning
from data_prep.readers import text as sources_module
from data_prep.readers.sources import open_sources
from data_prep.readers.text import cut_chunks, read_chunks
from data_prep.sharding import pipeline as make_shards_module
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from tests.helpers.http_server import serving

OPTIONS = ShardOptions(special_tokens=False, shard_bytes=1)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 5)


@pytest.fixture(scope="module")
def directory(lines, tmp_path_factory):
    """A plain and a packed text, their tokenizer, and `out`, the shards of both."""
    made = tmp_path_factory.mktemp("text")
    (made / "ko.txt").write_text("\n".join(lines["ko"]))
    (made / "en.txt.gz").write_bytes(gzip.compress("\n".join(lines["en"]).encode()))
    spec = f"{made}/ko.txt,{made}/en.txt.gz"
    train_tokenizer.make_tokenizer(spec, 200, made / "tokenizer.json", True, 1)
    make_shards(spec, made / "tokenizer.json", made / "out", OPTIONS, 1)
    return made


def local(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


def stored(url):
    system, path = remote.file_system(url)
    found = {name: system.cat_file(name) for name in system.find(path)}
    return {name.split("/out/")[1]: content for name, content in found.items()}


@pytest.mark.parametrize("size", [100, 997, 4000])
@pytest.mark.parametrize("tail", [10, 64 << 10])
def test_chunks_by_place_are_those_by_content(tmp_path, monkeypatch, size, tail):
    """Lines longer than a chunk as well, and characters of several bytes at the cuts."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", size)
    monkeypatch.setattr(sources_module, "_TAIL_BYTES", tail)
    lines = ["가나다" * (7 * number % 90) for number in range(200)]
    (tmp_path / "text").write_text("\n".join(lines))
    with open_sources(str(tmp_path / "text"), tmp_path) as (source,):
        by_place = [(stretch.read(), end) for stretch, end in cut_chunks(source)]
        by_content = [chunk for chunk, _ in read_chunks(source)]
    assert [chunk for chunk, _ in by_place] == by_content
    assert by_place[-1][1] == source.size


def test_text_over_http(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 5000)
    with serving(directory) as server:
        server.faults["ko.txt"] = ["500", "reset", "", "cut"]
        server.faults["en.txt.gz"] = ["reset", "", "503"]
        spec = f"{server.url}/en.txt.gz,{server.url}/ko.txt"
        make_shards(spec, directory / "tokenizer.json", tmp_path / "out", OPTIONS, 1)
    assert local(tmp_path / "out") == local(directory / "out")


def test_a_server_that_goes_costs_nothing_that_is_done(directory, tmp_path, monkeypatch):
    """The run ends with code 3 and the URL; the same command continues."""
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 2000)
    out = tmp_path / "out"
    with serving(directory) as server:
        spec = f"{server.url}/en.txt.gz,{server.url}/ko.txt"

        def failing(pool, workers, function, tasks):
            for number, each in enumerate(run_tasks(pool, workers, function, tasks)):
                if number == 10:
                    server.faults["ko.txt"] = ["500"] * 20
                yield each

        with monkeypatch.context() as patch, pytest.raises(RemoteError) as raised:
            patch.setattr(make_shards_module, "run_tasks", failing)
            make_shards(spec, directory / "tokenizer.json", out, OPTIONS, 1)
        assert f"{server.url}/ko.txt could not be read in 6 tries" in str(raised.value)
        assert len(list((out / ".work/parts").glob("*.bin"))) >= 10
        server.faults.clear()
        make_shards(spec, directory / "tokenizer.json", out, OPTIONS, 1)
    assert local(out) == local(directory / "out")


class StoppedError(Exception):
    pass


def test_shards_to_a_url(directory, tmp_path, monkeypatch, capsys):
    url = "memory://to_a_url/out"
    spec = f"memory://to_a_url/*.gz,file://{directory}/ko.txt"
    fsspec.filesystem("memory").pipe_file(
        "/to_a_url/en.txt.gz", (directory / "en.txt.gz").read_bytes()
    )
    place = (spec, directory / "tokenizer.json", url, OPTIONS, 1)

    def stopped(pool, workers, function, tasks):
        for number, each in enumerate(run_tasks(pool, workers, function, tasks)):
            if function.__name__ == "merge" and number == 0:
                raise StoppedError
            yield each

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(make_shards_module, "run_tasks", stopped)
        make_shards(*place, scratch=tmp_path / "scratch")
    begun = stored(url)
    assert begun
    assert not any(name.endswith(".json") for name in begun)
    made = make_shards(*place, scratch=tmp_path / "scratch")
    assert stored(url) == local(directory / "out")
    assert not (tmp_path / "scratch").exists()
    assert make_shards(*place, scratch=tmp_path / "scratch") == made
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="memory://to_a_url/out/train is there already"):
        make_shards(f"{directory}/ko.txt", *place[1:], scratch=tmp_path / "scratch")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out=http://127.0.0.1:9/x"], 2, "can only be read"),
        (["--out=memory://nowhere"], 2, "give --scratch, a directory"),
        (["--out=ftp://127.0.0.1/x"], 2, "ftp:// is not read, wanted is one of file"),
        (["--scheduler=tcp://127.0.0.1:9", "--workers=2"], 2, "give one of them"),
        (["--input=http://127.0.0.1:9/text"], 3, "could not be read in 6 tries"),
        (["--input=memory://none/*.txt"], 2, "where nothing is found"),
        (["--input=memory://none/a.txt"], 3, "memory://none/a.txt does not exist"),
    ],
)
def test_mistakes_are_one_sentence(directory, tmp_path, capsys, arguments, code, words):
    flags = {"input": f"{directory}/ko.txt", "out": f"{tmp_path}/new"}
    flags |= dict(argument.lstrip("-").split("=") for argument in arguments)
    given = [f"--{flag}={value}" for flag, value in flags.items()]
    given += [f"--tokenizer={directory}/tokenizer.json"]
    assert run("data_prep", COMMANDS, ["shard", *given]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data_prep")]
    assert len(errors) == 1
    assert words in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_url_is_a_directory(tmp_path):
    assert output_of(f"file://{tmp_path}/x") == LocalOutput(tmp_path / "x", f"{tmp_path}/x")
