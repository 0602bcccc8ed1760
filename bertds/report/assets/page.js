"use strict";
// Draws the panels of each case with plotly.js from the JSON that the page carries.

const MEASURES = {
  step: { label: "optimizer steps", tickformat: "~s", hoverformat: ",.0f" },
  epoch: { label: "epochs", tickformat: "~g", hoverformat: ".2f" },
  tokens: { label: "real tokens", tickformat: "~s", hoverformat: ",.0f" },
  seconds: { label: "time since the start", tickformat: "~g", hoverformat: ".2f" },
};
const TIMES = [["s", 1, 180], ["min", 60, 3 * 3600], ["h", 3600, 4 * 86400], ["days", 86400, Infinity]];
const VALUES = { figure: ".4f", rate: ".3~e", speed: ",.4~g" };
const INK = "#1c2430", SOFT = "#5b6675", LINE = "#e8ebef";
const CONFIG = {
  displaylogo: false,
  responsive: true,
  doubleClick: "reset+autosize",
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]],
};

const known = (values) => values.some((value) => value !== null);

class Case {
  constructor(root, { arms, panels }) {
    Object.assign(this, { root, arms, panels, hidden: new Set(), drawn: null, following: false });
    this.divs = panels.map(() => this.add(".panels", "div", "panel"));
    this.buttons = arms.map((arm, number) => this.addArm(arm, number));
    this.markTables();
  }

  add(parent, tag, className = "") {
    const element = document.createElement(tag);
    element.className = className;
    return this.root.querySelector(parent).appendChild(element);
  }

  addArm(arm, number) {
    const button = this.add(".arms", "button");
    button.append(mark(arm), arm.name);
    if (arm.best) button.append(withText("small", "acc"), withText("b", arm.best));
    if (arm.words) button.append(withText("small", arm.words));
    button.title = arm.best ? "its best validation accuracy" : "";
    button.addEventListener("click", () => this.hide([number], !this.hidden.has(number)));
    button.addEventListener("dblclick", () => this.isolate(number));
    button.setAttribute("aria-pressed", "true");
    return button;
  }

  /** The arm's colour before its name, in every table. */
  markTables() {
    for (const code of this.root.querySelectorAll("td:first-child > code:first-child")) {
      const arm = this.arms.find((one) => one.name === code.textContent);
      if (arm) code.before(mark(arm, true));
    }
  }

  has(measure) {
    return this.panels.some((panel) => panel.curves.some((curve) => known(curve[measure])));
  }

  hide(numbers, hidden) {
    for (const number of numbers) this.hidden[hidden ? "add" : "delete"](number);
    this.buttons.forEach((button, number) => button.setAttribute("aria-pressed", !this.hidden.has(number)));
    this.draw(this.drawn);
  }

  isolate(number) {
    const others = this.arms.map((_, other) => other).filter((other) => other !== number);
    const alone = others.every((other) => this.hidden.has(other));
    this.hide([number], false);
    this.hide(others, !alone);
  }

  draw(measure) {
    const again = this.drawn === measure;
    this.drawn = measure;
    const unit = measure === "seconds" ? this.timeUnit() : ["", 1];
    const end = this.end(measure) / unit[1];
    const whole = { range: [-0.01 * end, 1.02 * end] };
    this.panels.forEach((panel, index) => {
      const div = this.divs[index];
      const traces = this.traces(panel, measure, unit[1]);
      // Switching an arm keeps what was zoomed to, switching the measure does not.
      const shown = again ? { x: range(div.layout.xaxis), y: range(div.layout.yaxis) } : { x: whole };
      Plotly.react(div, traces, layout(panel, measure, unit[0], shown), CONFIG);
      if (!div.dataset.follows) {
        div.dataset.follows = "yes";
        div.on("plotly_relayout", () => this.follow(div));
      }
    });
  }

  /** All panels of a case show the same stretch. */
  follow(source) {
    if (this.following) return;
    const { range: shown, autorange } = source.layout.xaxis;
    const change = autorange ? { "xaxis.autorange": true } : { "xaxis.range": [...shown] };
    this.following = true;
    const others = this.divs.filter((div) => div !== source);
    Promise.all(others.map((div) => Plotly.relayout(div, change))).finally(() => (this.following = false));
  }

  timeUnit() {
    return TIMES.find(([, , limit]) => this.end("seconds") < limit);
  }

  end(measure) {
    const ends = this.panels.flatMap((panel) => panel.curves.map((curve) => Math.max(...curve[measure])));
    return Math.max(...ends) || 1;
  }

  traces(panel, measure, unit) {
    return panel.curves
      .filter((curve) => !this.hidden.has(curve.arm) && known(curve[measure]))
      .flatMap((curve) => curveTraces(curve, this.arms[curve.arm], panel, measure, unit));
  }
}

function curveTraces(curve, arm, panel, measure, unit) {
  const x = unit === 1 ? curve[measure] : curve[measure].map((value) => (value === null ? null : value / unit));
  const line = { color: arm.colour, dash: arm.dash, width: 1.9 };
  const y = curve.mean ?? curve.y;
  const format = VALUES[panel.kind];
  const raw = curve.mean ? ` <span style="color:${SOFT}">(as logged %{customdata:${format}})</span>` : "";
  const few = y.length <= 30;
  const traces = [{
    x, y, line, name: arm.name, mode: few ? "lines+markers" : "lines", marker: { size: 4.5 },
    customdata: curve.y, hovertemplate: `%{y:${format}}${raw}`, showlegend: false,
  }];
  if (curve.mean) {
    traces.unshift({
      x, y: curve.y, mode: "lines", hoverinfo: "skip", opacity: 0.22, line: { ...line, width: 1 }, showlegend: false,
    });
  }
  const spots = [];
  if (curve.best !== undefined) spots.push([curve.best, { symbol: "circle", size: 9, color: "#fff", line: { color: arm.colour, width: 2 } }]);
  const end = y.findLastIndex((value) => value !== null);
  if (arm.failed) spots.push([end, { symbol: "x", size: 10, color: arm.colour, line: { color: "#fff", width: 1 } }]);
  for (const [at, marker] of spots) {
    traces.push({ x: [x[at]], y: [y[at]], mode: "markers", marker, hoverinfo: "skip", showlegend: false });
  }
  return traces;
}

function layout(panel, measure, timeUnit, shown) {
  const { label, tickformat, hoverformat } = MEASURES[measure];
  const unit = timeUnit ? ` (${timeUnit})` : "";
  const axis = {
    gridcolor: LINE, linecolor: "#b9c2cc", showline: true, zeroline: false, ticks: "outside", ticklen: 4,
    tickcolor: "#b9c2cc", automargin: true,
  };
  const tail = panel.label ? `  <span style="color:${SOFT};font-size:12px">${panel.label}</span>` : "";
  return {
    title: { text: `<b>${escaped(panel.title)}</b>${tail}`, x: 0, xref: "paper", xanchor: "left", y: 0.965, yanchor: "top", font: { size: 14 } },
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size: 12, color: INK },
    margin: { l: 56, r: 18, t: 42, b: 42 },
    paper_bgcolor: "#fff", plot_bgcolor: "#fff",
    hovermode: "x unified", hoverlabel: { font: { size: 12 }, bgcolor: "rgba(255,255,255,.94)", bordercolor: "#cfd6de" },
    modebar: { color: "#9aa5b1", activecolor: INK, bgcolor: "rgba(255,255,255,.8)" },
    xaxis: {
      ...axis, tickformat, hoverformat, unifiedhovertitle: { text: `%{x:${hoverformat}} ${timeUnit || label}` },
      title: { text: label + unit, standoff: 6, font: { size: 12, color: SOFT } }, ...shown.x,
    },
    yaxis: { ...axis, ...scale(panel), ...shown.y },
  };
}

/** A figure from where its curves have settled, rates from zero or in decades. */
function scale(panel) {
  if (panel.kind === "figure") return panel.limits ? { range: [...panel.limits] } : {};
  if (panel.log) return { type: "log", dtick: "D2", exponentformat: "e" };
  return { rangemode: "tozero", exponentformat: panel.kind === "rate" ? "e" : "SI", minexponent: 3 };
}

function range(axis) {
  return axis.autorange ? {} : { range: [...axis.range] };
}

function mark(arm, inTable = false) {
  const element = document.createElement("span");
  element.className = "mark";
  element.style[inTable ? "background" : "borderColor"] = arm.colour;
  if (!inTable && arm.dash !== "solid") element.style.borderTopStyle = arm.dash === "dash" ? "dashed" : "dotted";
  return element;
}

function withText(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** plotly.js lies packed in the page, a third of its size. */
async function loadPlotly() {
  const packed = atob(document.querySelector('script[type="text/plain"]').textContent);
  const bytes = new Blob([Uint8Array.from(packed, (letter) => letter.charCodeAt(0))]).stream();
  const script = document.createElement("script");
  script.textContent = await new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
}

async function start() {
  const data = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
  const roots = [...document.querySelectorAll("section.case")].filter((root) => data[root.id].panels.length);
  if (!roots.length) return;
  await loadPlotly();
  const cases = new Map(roots.map((root) => [root, new Case(root, data[root.id])]));
  const buttons = [...document.querySelectorAll("nav button")];
  const visible = new Set();
  let measure = "step";
  const show = (root) => {
    const one = cases.get(root);
    const shown = one.has(measure) ? measure : "step";
    if (one.drawn !== shown) one.draw(shown);
  };
  const select = (chosen) => {
    measure = chosen;
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.measure === measure);
    visible.forEach(show);
  };
  for (const button of buttons) {
    button.disabled = ![...cases.values()].some((one) => one.has(button.dataset.measure));
    button.addEventListener("click", () => select(button.dataset.measure));
  }
  select(measure);
  // Of many cases, those near the screen are drawn.
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      visible[isIntersecting ? "add" : "delete"](target);
      if (isIntersecting) show(target);
    }
  }, { rootMargin: "500px" });
  roots.forEach((root) => near.observe(root));
}

start().catch((error) => {
  document.querySelector("nav").replaceChildren(`The curves cannot be drawn here (${error}); record.md shows the same ones.`);
});
