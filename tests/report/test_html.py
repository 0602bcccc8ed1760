"""The HTML page: offline, safe against markup in run files, and interactive in a browser."""

import math
import re

import numpy as np
import pytest

from bertds.report.case_report import CaseReport, write_report
from bertds.report.chart_data import MAX_POINTS
from bertds.report.curves import running_mean, smoothing_window
from bertds.report.html import page
from bertds.report.index import write_index
from tests.helpers.browser import opened
from tests.helpers.fake_runs import config, lines_of, write_run

EVIL = "a</script><script>alert(1)</script><img src=x onerror=alert(2)> `b`"


def page_of(case_dir):
    case = CaseReport.load(case_dir)
    return page(case.title, [case.section()]).decode()


def charts_of(case_dir):
    return CaseReport.load(case_dir).section().charts


def curves_of(charts):
    """The traces of each subplot by its title and arm, marks and faint raw curves left out."""
    notes = [one["text"] for one in charts["layout"]["annotations"] if "<b>" in one["text"]]
    titles = [re.sub("</?b>|  <.*", "", note) for note in notes]
    return {
        (titles[int(trace["xaxis"][1:] or 1) - 1], trace["name"]): trace
        for trace in charts["data"]
        if "hovertemplate" in trace
    }


@pytest.fixture
def two_arms(tmp_path):
    write_run(tmp_path, "case2", "layers4", lines_of(40), config=config(layers=4))
    write_run(tmp_path, "case2", "layers6", lines_of(60, loss=3), config=config(layers=6))
    return tmp_path / "case2"


def test_the_page_works_offline_and_is_small(two_arms):
    text = page_of(two_arms)
    assert len(text) < 3e6
    rest = re.sub(r'<script type="text/plain">.*?</script>', "", text)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?:""", rest)
    assert "default-src 'none'" in rest


def test_the_figure_has_the_metrics_of_the_runs(two_arms):
    charts = charts_of(two_arms)
    titles = ["training loss", "validation loss", "training accuracy", "validation accuracy"]
    titles += ["learning rate", "throughput"]
    curves = curves_of(charts)
    assert list(curves) == [(title, arm) for title in titles for arm in ("layers4", "layers6")]
    lines = [line for line in lines_of(60, loss=3) if "loss/valid" in line]
    curve = curves["validation loss", "layers6"]
    (index,) = curve["meta"]
    assert charts["x"]["step"][index] == [line["step"] for line in lines]
    assert charts["x"]["tokens"][index] == [line["tokens"] for line in lines]
    assert charts["x"]["seconds"][index] == [line["seconds"] for line in lines]
    assert curve["y"] == pytest.approx([line["loss/valid"] for line in lines], rel=1e-5)
    (best,) = (trace for trace in charts["data"] if trace.get("meta") == [index, len(lines) - 1])
    assert best["y"] == curve["y"][-1:]
    entries = [trace["name"] for trace in charts["data"] if trace.get("showlegend", True)]
    assert entries == [
        "layers4 (best loss 2.252, best acc 0.4495)",
        "layers6 (best loss 3.250, best acc 0.3000)",
    ]
    notes = {note["text"]: note for note in charts["layout"]["annotations"]}
    assert notes["unigram baseline 0.0400"]["yref"] == "y4"
    values = [(shape["yref"], shape["y0"]) for shape in charts["layout"]["shapes"]]
    assert values == [("y2", 5.5), ("y4", 0.04)]


def test_text_of_a_run_is_not_markup(tmp_path):
    status = {"state": "failed", "code": 71, "message": EVIL, "step": 3}
    write_run(tmp_path, "case1", "arm <b>", lines_of(5), config=config(EVIL), status=status)
    (tmp_path / "case1" / "record.md").write_text(f"**Verdict:** {EVIL}\n\n{EVIL}")
    text = page_of(tmp_path / "case1")
    assert len(re.findall("<script", text)) == 3
    assert "<img" not in text
    assert "<b>" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("&lt;script&gt;") >= 4
    names = set(re.findall(r'"name":"(.*?)"', text))
    assert names == {
        "arm &lt;b&gt;",
        "arm &lt;b&gt; (best loss 4.457, best acc 0.2139, failed (71))",
    }


def test_links_lead_only_to_web_pages_and_relative_paths(tmp_path):
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


def test_non_finite_values_are_gaps(tmp_path):
    lines = lines_of(20)
    lines[4]["loss/train"] = math.nan
    lines[5]["grad_norm"] = math.inf
    write_run(tmp_path, "case1", "arm", lines)
    curves = curves_of(charts_of(tmp_path / "case1"))
    assert curves["training loss", "arm"]["y"].count(None) == 1
    assert "gradient norm" not in {title for title, _ in curves}


def test_a_long_curve_is_smoothed_before_it_is_thinned(tmp_path):
    lines = lines_of(5000, loss=1)
    for line in lines:
        line["loss/train"] = line.get("loss/train", 0) + math.sin(line["step"])
    write_run(tmp_path, "case1", "arm", lines)
    case = CaseReport.load(tmp_path / "case1")
    charts = case.section().charts
    curve = curves_of(charts)["training loss", "arm"]
    steps = charts["x"]["step"][curve["meta"][0]]
    assert len(steps) == len(curve["y"]) <= MAX_POINTS
    series = case.arms[0].series("loss/train")
    means = running_mean(series.values, smoothing_window(len(series.values)))
    kept = np.searchsorted(series.at["step"], steps)
    assert curve["y"] == pytest.approx(means[kept].tolist(), rel=1e-5)
    assert curve["customdata"] == pytest.approx(series.values[kept].tolist(), rel=1e-5)


def test_only_a_written_verdict_is_shown(two_arms):
    assert 'class="verdict"' not in page_of(two_arms)
    (two_arms / "record.md").write_text("**Verdict:** 6 layers overfit; `layers4` is *better*.\n")
    assert "<p><strong>Verdict:</strong> 6 layers overfit;" in page_of(two_arms)


def axes_of(page, number=1):
    """Title and range of an x axis, and the range of its y axis, as plotly.js holds them."""
    return page.evaluate(
        "number => { const { _fullLayout: layout } = document.querySelector('.chart');"
        " const [x, y] = ['x', 'y'].map(axis => layout[axis + 'axis' + (number > 1 ? number : '')]);"
        " return { title: x.title.text, x: x.range, y: y.range } }",
        number,
    )


def drawn_names(page, number):
    """The arms that are drawn in a subplot."""
    return page.evaluate(
        "number => [...new Set(document.querySelector('.chart').calcdata.map(c => c[0].trace)"
        ".filter(t => t.visible === true && t.meta && t.xaxis === (number > 1 ? `x${number}` : 'x'))"
        ".map(t => t.name))]",
        number,
    )


def drag(page, number, start, end):
    """Select a part of a subplot's width with the mouse."""
    box = page.locator(".nsewdrag").nth(number - 1).bounding_box()
    page.mouse.move(box["x"] + start * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + 0.8 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_the_curves_can_be_switched_zoomed_hidden_and_read_in_a_browser(two_arms):
    report = write_report(two_arms)
    with opened(report.page.as_uri()) as (page, requests, errors):
        page.wait_for_selector(".main-svg")
        assert drawn_names(page, 1) == ["layers4", "layers6"]
        for name, title in (
            ("epochs", "epochs"),
            ("tokens", "tokens, padding excluded"),
            ("time", "time since the start (s)"),
            ("steps", "optimizer steps"),
        ):
            page.get_by_role("button", name=name, exact=True).click()
            assert {axes_of(page, number)["title"] for number in range(1, 7)} == {title}
        whole = axes_of(page)
        drag(page, 1, 0.5, 0.75)
        zoomed = axes_of(page)
        assert 25 < zoomed["x"][0] < 35
        assert 40 < zoomed["x"][1] < 50
        assert axes_of(page, 2)["x"] == axes_of(page, 6)["x"] == zoomed["x"]
        page.locator(".legendtoggle").nth(0).click()
        page.wait_for_timeout(1000)  # plotly waits for a double click
        assert drawn_names(page, 1) == drawn_names(page, 5) == ["layers6"]
        assert axes_of(page) == zoomed
        page.locator(".nsewdrag").nth(0).dblclick()
        page.wait_for_timeout(300)
        assert axes_of(page) == whole
        page.locator(".nsewdrag").nth(1).hover()
        assert "layers6" in page.locator(".hoverlayer").text_content()
        drag(page, 1, 0.5, 0.75)
        page.get_by_role("button", name="epochs").click()
        assert axes_of(page)["x"][0] < 0  # another measure resets the zoom ...
        assert drawn_names(page, 1) == ["layers6"]  # ... and leaves arms hidden
        page.locator(".legendtoggle").nth(0).click()
        page.wait_for_timeout(1000)
        page.locator(".legendtoggle").nth(0).dblclick()
        page.wait_for_timeout(1000)
        assert drawn_names(page, 2) == ["layers4"]
        border = page.locator("td code", has_text="layers6").first
        assert border.evaluate("code => code.style.borderLeftColor") == "rgb(0, 119, 187)"
        assert requests == [report.page.as_uri()]
        assert errors == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_the_page_of_all_cases_draws_those_on_the_screen(two_arms):
    root = two_arms.parent
    for case in ("case3", "case4", "case5"):
        write_run(root, case, "arm", lines_of(20), config=config("rates"))
    with opened(write_index(root).page.as_uri()) as (page, requests, errors):
        page.wait_for_selector("#case2 .main-svg")
        assert page.locator("#case5 .main-svg").count() == 0
        page.get_by_role("link", name="case5").click()
        page.wait_for_selector("#case5 .main-svg")
        page.get_by_role("button", name="tokens").click()
        assert "tokens, padding excluded" in page.locator("#case5 .chart").text_content()
        page.get_by_role("link", name="open alone").last.click()
        page.wait_for_selector(".main-svg")
        assert page.url.endswith("case5/record.html")
        assert {url.partition("#")[0].partition(":")[0] for url in requests} == {"file"}
        assert errors == []
