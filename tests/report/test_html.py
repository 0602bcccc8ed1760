"""TODO."""

import json
import math
import re

import numpy as np
import pytest

from bertds.report.case_report import CaseRecord, write_report
from bertds.report.chart_data import MOST_POINTS, _kept
from bertds.report.curves import running_mean, smoothing_window
from bertds.report.html import page
from bertds.report.index import case_directories, write_index
from tests.helpers.browser import opened
from tests.helpers.fake_runs import config, lines_of, write_run, write_same

EVIL = "a</script><script>alert(1)</script><img src=x onerror=alert(2)> `b`"


def page_of(case_dir):
    case = CaseRecord.load(case_dir)
    return page(case.title, [case.section()]).decode()


def data_of(text):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text).group(1))


@pytest.fixture
def two_arms(tmp_path):
    write_run(tmp_path, "case2", "layers4", lines_of(40), config=config(layers=4))
    write_run(tmp_path, "case2", "layers6", lines_of(60, loss=3), config=config(layers=6))
    return tmp_path / "case2"


def test_the_page_needs_nothing_from_elsewhere_and_is_small(two_arms):
    text = page_of(two_arms)
    assert len(text) < 3e6
    rest = re.sub(r'<script type="text/plain">.*?</script>', "", text)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?:""", rest)
    assert "default-src 'none'" in rest


def test_the_page_has_the_figures_of_the_run(two_arms):
    case = data_of(page_of(two_arms))["case2"]
    assert [arm["name"] for arm in case["arms"]] == ["layers4", "layers6"]
    by_key = {panel["key"]: panel for panel in case["panels"]}
    assert list(by_key) == [
        "loss/train",
        "loss/valid",
        "acc/train",
        "acc/valid",
        "lr",
        "tokens_per_s",
    ]
    (_, curve) = by_key["loss/valid"]["curves"]
    lines = [line for line in lines_of(60, loss=3) if "loss/valid" in line]
    assert curve["step"] == [line["step"] for line in lines]
    assert curve["tokens"] == [line["tokens"] for line in lines]
    assert curve["y"] == pytest.approx([line["loss/valid"] for line in lines], rel=1e-5)
    assert curve["best"] == len(lines) - 1


def test_text_of_a_run_is_no_markup(tmp_path):
    status = {"state": "failed", "code": 71, "message": EVIL, "step": 3}
    write_run(tmp_path, "case1", "arm <b>", lines_of(5), config=config(EVIL), status=status)
    (tmp_path / "case1" / "record.md").write_text(f"**Verdict:** {EVIL}\n\n{EVIL}")
    text = page_of(tmp_path / "case1")
    assert len(re.findall("<script", text)) == 3
    assert "<img" not in text
    assert "<b>" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("&lt;script&gt;") >= 4


def test_a_link_of_a_text_leads_to_pages_only(tmp_path):
    links = {
        "[a](https://huggingface.co/docs)": 'href="https://huggingface.co/docs"',
        "[b](case2/record.md#x)": 'href="case2/record.md#x"',
        "[c](javascript:alert(1))": 'href="#"',
        "[d](java&#115;cript&colon;alert(1))": 'href="#"',
        "![e](data:text/html,x)": 'src="#"',
    }
    write_run(tmp_path, "case1", "arm", lines_of(5))
    (tmp_path / "case1" / "record.md").write_text("**Verdict:** " + "\n\n".join(links))
    text = page_of(tmp_path / "case1")
    for link, expected in links.items():
        assert expected in text, link
    assert "cript:" not in text.partition("<script")[0]


def test_numbers_that_are_not_numbers_are_gaps(tmp_path):
    lines = lines_of(20)
    lines[4]["loss/train"] = math.nan
    lines[5]["grad_norm"] = math.inf
    write_run(tmp_path, "case1", "arm", lines)
    (case,) = data_of(page_of(tmp_path / "case1")).values()
    assert case["panels"][0]["curves"][0]["y"].count(None) == 1
    assert "grad_norm" not in {panel["key"] for panel in case["panels"]}


def test_a_long_curve_keeps_its_extremes_and_its_means(tmp_path):
    values = np.sin(np.arange(50_000) / 900)
    values[12_345], values[40_000], values[7] = 5, -5, np.nan
    kept = _kept(values)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(set(kept))
    assert {0, 12_345, 40_000, 49_999} <= set(kept)

    lines = lines_of(5000, loss=1)
    for line in lines:
        line["loss/train"] = line.get("loss/train", 0) + math.sin(line["step"])
    write_run(tmp_path, "case1", "arm", lines)
    case = CaseRecord.load(tmp_path / "case1")
    curve = case.section().charts["panels"][0]["curves"][0]
    assert len(curve["step"]) <= MOST_POINTS
    series = case.arms[0].series("loss/train")
    means = running_mean(series.values, smoothing_window(len(series.values)))
    places = np.searchsorted(series.at["step"], curve["step"])
    assert curve["mean"] == pytest.approx(means[places].tolist(), rel=1e-5)


def test_a_verdict_that_is_written_is_shown_and_a_blank_one_is_not(two_arms):
    assert 'class="verdict"' not in page_of(two_arms)
    (two_arms / "record.md").write_text("**Verdict:** 6 layers overfit; `layers4` is *better*.\n")
    assert "<p><strong>Verdict:</strong> 6 layers overfit;" in page_of(two_arms)


def test_all_cases_of_a_directory(two_arms):
    root = two_arms.parent
    write_run(root, "case10", "lr5e-4", lines_of(20), config=config("rates"))
    write_same(root, "case10", "lr5e-5", "case2/layers4")
    (root / "notes").mkdir()
    (two_arms / "record.md").write_text("**Verdict:** both | alike.\n\nMore of it.\n")
    assert case_directories(two_arms) == []
    assert [path.name for path in case_directories(root)] == ["case2", "case10"]
    written = write_index(root)
    record = written.record.read_text()
    assert "| [case2](case2/record.md) | depth | 2 |" in record
    assert "both \\| alike. |" in record
    assert "| [case10](case10/record.md) | rates | 2 |" in record
    assert record.index("[case2]") < record.index("[case10]")
    text = written.page.read_text()
    assert list(data_of(text)) == ["case2", "case10"]
    assert 'href="#case10"' in text
    for case in written.cases:
        assert case.page.exists()
        assert f'href="{case.page.parent.name}/record.html"' in text


def test_a_directory_without_cases_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no case"):
        write_index(tmp_path)


def figure(page, number):
    """The layout and the traces that plotly holds for a panel."""
    return page.evaluate(
        "number => { const div = document.querySelectorAll('.panel')[number];"
        " return { x: div.layout.xaxis.title.text, range: div.layout.xaxis.range,"
        " y: div.layout.yaxis.range, names: div.data.map(trace => trace.name).filter(Boolean) } }",
        number,
    )


def drag(page, number, start, end):
    box = page.locator(".panel .nsewdrag").nth(number).bounding_box()
    page.mouse.move(box["x"] + start * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + 0.8 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)


@pytest.mark.slow
def test_curves_are_switched_zoomed_hidden_and_read_in_a_browser(two_arms):
    report = write_report(two_arms)
    with opened(report.page.as_uri()) as (page, asked, faults):
        page.wait_for_selector(".panel:nth-child(6) .main-svg")
        assert figure(page, 0)["names"] == ["layers4", "layers6"]
        for name, title in (
            ("epochs", "epochs"),
            ("tokens", "real tokens"),
            ("time", "time since the start (s)"),
            ("steps", "optimizer steps"),
        ):
            page.get_by_role("button", name=name, exact=True).click()
            assert {figure(page, number)["x"] for number in range(6)} == {title}
        whole = figure(page, 1)["range"]
        drag(page, 0, 0.5, 0.75)
        zoomed = figure(page, 0)["range"]
        assert 25 < zoomed[0] < 35
        assert 40 < zoomed[1] < 50
        assert figure(page, 1)["range"] == figure(page, 5)["range"] == zoomed
        page.locator(".panel .nsewdrag").nth(0).dblclick()
        page.wait_for_timeout(300)
        assert figure(page, 0)["range"] == figure(page, 3)["range"] == whole
        page.get_by_role("button", name="layers4").click()
        assert figure(page, 0)["names"] == figure(page, 4)["names"] == ["layers6"]
        page.locator(".panel .nsewdrag").nth(1).hover()
        assert "layers6" in page.locator(".hoverlayer").nth(1).text_content()
        assert asked == [report.page.as_uri()]
        assert faults == []


@pytest.mark.slow
def test_the_full_record_draws_what_is_on_the_screen(two_arms):
    root = two_arms.parent
    for case in ("case3", "case4", "case5"):
        write_run(root, case, "arm", lines_of(20), config=config("rates"))
    with opened(write_index(root).page.as_uri()) as (page, asked, faults):
        page.wait_for_selector("#case2 .panel .main-svg")
        assert page.locator("#case5 .main-svg").count() == 0
        page.get_by_role("link", name="case5").click()
        page.wait_for_selector("#case5 .panel .main-svg")
        page.get_by_role("button", name="tokens").click()
        assert "real tokens" in page.locator("#case5 .panel").first.text_content()
        page.get_by_role("link", name="page of its own").last.click()
        page.wait_for_selector(".panel .main-svg")
        assert page.url.endswith("case5/record.html")
        assert {url.partition("#")[0].partition(":")[0] for url in asked} == {"file"}
        assert faults == []
