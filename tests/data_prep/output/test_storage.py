"""Text from URLs and shards to URLs give the same bytes as local files."""

import gzip

import fsspec
import pytest

from bertds.cli import run
from bertds.errors import RemoteError
from bertds.io import remote
from data_prep.__main__ import COMMANDS
from data_prep.executors.local import run_tasks
from data_prep.output.storage import LocalOutput, parse_output
from data_prep.readers import cleaning
from data_prep.sharding import stages
from data_prep.sharding.options import ShardOptions
from data_prep.sharding.pipeline import make_shards
from data_prep.train_tokenizer import make_tokenizer
from tests.helpers.http_server import serving

OPTIONS = ShardOptions(special_tokens=False, shard_bytes=1)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Retries wait only briefly."""
    monkeypatch.setattr(remote, "WAITS_S", (0.01,) * 5)


@pytest.fixture(scope="module")
def directory(lines, tmp_path_factory):
    """A plain and a compressed text, their tokenizer, and their shards in `out`."""
    path = tmp_path_factory.mktemp("text")
    (path / "ko.txt").write_text("\n".join(lines["ko"]))
    (path / "en.txt.gz").write_bytes(gzip.compress("\n".join(lines["en"]).encode()))
    spec = f"{path}/ko.txt,{path}/en.txt.gz"
    make_tokenizer(spec, 200, path / "tokenizer.json", True, 1)
    make_shards(spec, path / "tokenizer.json", path / "out", OPTIONS, 1)
    return path


def read_local(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


def read_remote(url):
    system, path = remote.file_system(url)
    return {name.split("/out/")[1]: system.cat_file(name) for name in system.find(path)}


def test_text_over_http_with_faults(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "CHUNK_BYTES", 5000)
    with serving(directory) as server:
        server.faults["ko.txt"] = ["500", "reset", "", "cut"]
        server.faults["en.txt.gz"] = ["reset", "", "503"]
        spec = f"{server.url}/en.txt.gz,{server.url}/ko.txt"
        make_shards(spec, directory / "tokenizer.json", tmp_path / "out", OPTIONS, 1)
    assert read_local(tmp_path / "out") == read_local(directory / "out")


def test_a_run_is_resumed_after_a_server_failure(directory, tmp_path, monkeypatch):
    """The error names the URL, and finished parts are kept."""
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
            patch.setattr(stages, "run_tasks", failing)
            make_shards(spec, directory / "tokenizer.json", out, OPTIONS, 1)
        assert f"{server.url}/ko.txt" in str(raised.value)
        assert len(list((out / ".work/parts").glob("*.bin"))) >= 10
        server.faults.clear()
        make_shards(spec, directory / "tokenizer.json", out, OPTIONS, 1)
    assert read_local(out) == read_local(directory / "out")


class StoppedError(Exception):
    pass


def test_shards_to_a_url(directory, tmp_path, monkeypatch, capsys):
    url = "memory://to_a_url/out"
    spec = f"memory://to_a_url/*.gz,file://{directory}/ko.txt"
    fsspec.filesystem("memory").pipe_file(
        "/to_a_url/en.txt.gz", (directory / "en.txt.gz").read_bytes()
    )
    arguments = (spec, directory / "tokenizer.json", url, OPTIONS, 1)

    def stop(pool, workers, function, tasks):
        for number, each in enumerate(run_tasks(pool, workers, function, tasks)):
            if function.__name__ == "write_planned_shard" and number == 0:
                raise StoppedError
            yield each

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stages, "run_tasks", stop)
        make_shards(*arguments, scratch=tmp_path / "scratch")
    partial = read_remote(url)
    assert partial
    assert not any(name.endswith(".json") for name in partial)
    indexes = make_shards(*arguments, scratch=tmp_path / "scratch")
    assert read_remote(url) == read_local(directory / "out")
    assert not (tmp_path / "scratch").exists()
    assert make_shards(*arguments, scratch=tmp_path / "scratch") == indexes
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="memory://to_a_url/out/train already exists"):
        make_shards(f"{directory}/ko.txt", *arguments[1:], scratch=tmp_path / "scratch")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out=http://127.0.0.1:9/x"], 2, "http://127.0.0.1:9/x, which is read-only"),
        (["--out=memory://nowhere"], 2, "set --scratch to a directory"),
        (["--out=ftp://127.0.0.1/x"], 2, "ftp://127.0.0.1/x"),
        (["--scheduler=tcp://127.0.0.1:9", "--workers=2"], 2, "set only one of them"),
        (["--input=http://127.0.0.1:9/text"], 3, "http://127.0.0.1:9/text"),
        (["--input=memory://none/*.txt"], 2, "matches nothing"),
        (["--input=memory://none/a.txt"], 3, "memory://none/a.txt"),
    ],
)
def test_mistakes_are_one_error_message(directory, tmp_path, capsys, arguments, code, message):
    flags = {"input": f"{directory}/ko.txt", "out": f"{tmp_path}/new"}
    flags |= dict(argument.lstrip("-").split("=") for argument in arguments)
    given = [f"--{flag}={value}" for flag, value in flags.items()]
    given += [f"--tokenizer={directory}/tokenizer.json"]
    assert run("data_prep", COMMANDS, ["shard", *given]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data_prep")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_url_is_a_local_directory(tmp_path):
    assert parse_output(f"file://{tmp_path}/x") == LocalOutput(tmp_path / "x", f"{tmp_path}/x")
