"""The record as one self-contained HTML page: tables, and curves to zoom, hover and switch.

The page asks the network for nothing, and its own policy forbids it to; text of the run files
cannot become HTML or script. plotly.js, packed, is most of its two megabytes. The same files and the
same version of plotly give the same bytes.
"""

import base64
import functools
import gzip
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import markdown
from plotly.offline import get_plotlyjs

__all__ = ["Section", "page"]
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
<footer>Drawn by <code>python -m bertds report</code>. Curves by plotly.js.</footer>
<script type="application/json">{data}</script>
<script type="text/plain">{plotly}</script>
<script>
{script}</script>
</body>
</html>
"""
MEASURES = """<nav aria-label="horizontal axis"><span>against</span>
<button data-measure="step">steps</button><button data-measure="epoch">epochs</button>\
<button data-measure="tokens">tokens</button><button data-measure="seconds">time</button>
<span class="hint">drag to zoom, double-click to go back; click an arm to hide it, double-click \
to see it alone</span></nav>
<noscript><p>The curves need JavaScript; the same ones are in record.md.</p></noscript>
"""
_LINK = re.compile(r'\b(href|src)="([^"]*)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One case of the page; texts are Markdown, in blocks as the record has them."""

    name: str
    title: str
    verdict: str
    """Empty if nobody wrote one."""
    legend: str
    charts: Mapping[str, Any]
    """From `chart_data`."""
    figures: Sequence[str]
    comparison: Sequence[str]


def page(title: str, sections: Sequence[Section], index: Sequence[str] = ()) -> bytes:
    """One case, or several below an index in Markdown."""
    alone = not index
    parts = [f"<header>{_heading('h1', title)}{_html(index)}</header>"]
    if any(section.charts["panels"] for section in sections):
        parts.append(MEASURES)
    parts += [_section(section, alone=alone) for section in sections]
    data = {section.name: section.charts for section in sections}
    return PAGE.format(
        title=html.escape(title),
        style=_file("page.css"),
        body="\n".join(parts),
        # `<` would end the script element wherever it stands.
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=_packed_plotly(),
        script=_file("page.js"),
    ).encode()


def _section(section: Section, *, alone: bool) -> str:
    """A case: verdict, curves, figures, and what was compared."""
    own = f'<a class="own" href="{quote(section.name)}/record.html">page of its own</a>'
    heading = "" if alone else own + _heading("h2", section.title)
    verdict = f'<div class="verdict">{_html([section.verdict])}</div>' if section.verdict else ""
    return f"""<section class="case" id="{html.escape(section.name)}">
{heading}
{verdict}
<div class="arms" role="group" aria-label="arms"></div>
<div class="panels"></div>
<div class="legend">{_html([section.legend])}</div>
<div class="figures">{_html(section.figures)}</div>
<details{" open" if alone else ""}><summary>What is compared</summary>
<div class="settings">{_html(section.comparison)}</div></details>
</section>"""


def _heading(tag: str, title: str) -> str:
    """The case's name small above what it compares."""
    name, colon, about = title.partition(": ")
    if not colon:
        return f"<{tag}>{html.escape(title)}</{tag}>"
    return f"<{tag}><small>{html.escape(name)}</small> {html.escape(about)}</{tag}>"


def _html(blocks: Sequence[str]) -> str:
    """Markdown as HTML; markup in it is shown as it stands, not obeyed."""
    reader = markdown.Markdown(extensions=["tables"])
    reader.preprocessors.deregister("html_block")
    reader.inlinePatterns.deregister("html")
    written = _LINK.sub(_harmless, reader.convert("\n\n".join(blocks)))
    return written.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )


def _harmless(link: re.Match[str]) -> str:
    """A link that leads to a page or a place, or else to nothing: `javascript:` would run."""
    target = html.unescape(link[2])
    leads = re.match(r"https?://|[^:]*$", target)
    return link[0] if leads else f'{link[1]}="#"'


@functools.cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _file(name: str) -> str:
    return files("bertds.report").joinpath("assets", name).read_text(encoding="utf-8")
