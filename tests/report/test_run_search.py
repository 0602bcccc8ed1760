"""Run directories are found in any tree, and get the shortest names that differ."""

from pathlib import Path

import pytest

from bertds.report.run_search import find_runs, short_names
from tests.helpers.fake_runs import write_run


def test_runs_are_found_at_and_below_each_path_once(tmp_path):
    tree = tmp_path / "tree"
    for arm in ("lr10", "lr2"):
        write_run(tree / "deep/place", "sweep", arm, [])
    main = write_run(tree, "case1", "main", [])
    write_run(main / "checkpoints", "step_1", "copy", [])  # in a run: not searched
    write_run(tree, ".trash", "old", [])
    (tmp_path / "link").symlink_to(main)
    (tree / "case1/loop").symlink_to(tree)
    runs, lines = find_runs([tmp_path / "link", tree])
    places = [str(run.relative_to(tmp_path)) for run in runs]
    assert places == ["link", "tree/deep/place/sweep/lr2", "tree/deep/place/sweep/lr10"]
    assert lines == ["runs given more than once, and shown once: 1"]


def test_a_path_without_runs_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    runs, lines = find_runs([tmp_path / name for name in ("empty", "file", "nothing")])
    assert runs == []
    assert lines == [
        f"{tmp_path}/empty: no run in it (expected case.json there or in a directory below)",
        f"{tmp_path}/file: not a directory",
        f"{tmp_path}/nothing: does not exist",
    ]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("/a/case1/main", "/a/case1/other"), ["main", "other"]),
        (("/a/case1/main", "/b/case1/main", "/b/lr"), ["a/case1/main", "b/case1/main", "lr"]),
        (("/main", "/x/main"), ["/main", "x/main"]),
        (("/a/../b/c/main", "/b/d/main"), ["c/main", "d/main"]),
    ],
)
def test_names_are_the_shortest_ends_that_differ(paths, names):
    assert short_names([Path(path) for path in paths]) == names
