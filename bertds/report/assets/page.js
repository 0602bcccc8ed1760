"use strict";
// Draws the figure of each case with plotly.js, from the JSON in the page.

const CONFIG = {
  displaylogo: false,
  responsive: true,
  doubleClick: "reset+autosize",
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]],
};

/** Draw a case against a measure; `uirevision` resets the zoom when the measure changes. */
function draw(div, { data, layout, x, axes }, measure) {
  const shown = axes[measure] ? measure : "step";
  if (div.dataset.measure === shown) return;
  div.dataset.measure = shown;
  const merged = { ...layout, uirevision: shown };
  for (const key of Object.keys(layout)) {
    if (key.startsWith("xaxis")) merged[key] = { ...layout[key], ...axes[shown] };
  }
  const traces = data.map((trace) => {
    if (!trace.meta) return trace;
    const [curve, point] = trace.meta;
    return { ...trace, x: point === undefined ? x[shown][curve] : [x[shown][curve][point]] };
  });
  Plotly.react(div, traces, merged, CONFIG);
}

/** Give the arms in the tables the colours of their curves. */
function colourTables(div, { data }) {
  const colours = new Map(data.filter((trace) => !trace.meta).map((trace) => [trace.legendgroup, trace.line.color]));
  for (const code of div.closest("section").querySelectorAll("td:first-child > code:first-child")) {
    const colour = colours.get(code.textContent);
    if (colour) code.style.borderLeft = `10px solid ${colour}`;
  }
}

/** Load plotly.js, which is compressed to a third of its size in the page. */
async function loadPlotly() {
  const packed = atob(document.querySelector('script[type="text/plain"]').textContent);
  const bytes = new Blob([Uint8Array.from(packed, (letter) => letter.charCodeAt(0))]).stream();
  const script = document.createElement("script");
  script.textContent = await new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}

async function start() {
  const cases = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
  const divs = [...document.querySelectorAll(".chart")];
  if (!divs.length) return;
  divs.forEach((div) => colourTables(div, cases[div.dataset.case]));
  await loadPlotly();
  const buttons = [...document.querySelectorAll("nav button")];
  const visible = new Set();
  let { measure } = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset;
  const drawVisible = () => visible.forEach((div) => draw(div, cases[div.dataset.case], measure));
  for (const button of buttons) {
    button.disabled = !divs.some((div) => cases[div.dataset.case].axes[button.dataset.measure]);
    button.addEventListener("click", () => {
      measure = button.dataset.measure;
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
      drawVisible();
    });
  }
  // Of many cases, only those near the screen are drawn.
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target);
    drawVisible();
  }, { rootMargin: "500px" });
  divs.forEach((div) => observer.observe(div));
}

start().catch((error) => {
  document.querySelector("nav").replaceChildren(`The curves cannot be drawn (${error}): see the plots in record.md.`);
});
