"use strict";
/* Charts that several pages have. Colours are the style sheet's, so that they follow the theme. */

const COLOURS = [1, 2, 3, 4, 5, 6, 7].map((index) => `var(--c${index})`);
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "wye", "cross"];
const look = (index) => ({
  stroke: COLOURS[index % 7],
  dash: DASHES[(index + Math.floor(index / 7)) % 4],
  symbol: SYMBOLS[(index + Math.floor(index / 7)) % 7],
});

/* One key of a legend: a line, a symbol on it where there are points, and a name. */
function legendKey(name, { stroke, dash = "", symbol = null, plain = false }) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  for (const [key, value] of Object.entries({ width: 30, height: 12, "aria-hidden": "true" })) svg.setAttribute(key, value);
  const add = (tag, attributes) => {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    svg.append(node);
  };
  if (!plain) add("line", { x1: 1, x2: 29, y1: 6, y2: 6, stroke, "stroke-width": 2, "stroke-dasharray": dash });
  if (symbol) add("path", { d: d3.symbol(symbolOf(symbol), 46)(), transform: "translate(15,6)", fill: stroke });
  return el("span", {}, svg, name);
}
const symbolOf = (name) => d3["symbol" + capital(name)];

/* What all of our plots share. */
function plot({ width, height, marks, x = {}, y = {}, ...more }) {
  const svg = Plot.plot({
    width, height: height ?? Math.round(Math.max(240, Math.min(340, width * 0.58))),
    marginLeft: 52, marginRight: 16, marginTop: 30, marginBottom: 40,
    style: { fontSize: "12px", fontFamily: "inherit", background: "none", overflow: "visible" },
    x: { labelAnchor: "center", labelArrow: "none", ticks: Math.max(3, Math.floor(width / 80)), ...x },
    y: { labelArrow: "none", ticks: 6, grid: true, nice: true, ...y },
    marks, ...more,
  });
  svg.classList.add("plot");
  return svg;
}

const logTicks = ([low, high]) => {
  const made = [];
  const steps = high / low < 8 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : high / low > 1e3 ? [1] : high / low > 100 ? [1, 3] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of steps) {
      const tick = step * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) made.push(tick);
    }
  }
  const every = Math.ceil(made.length / 7);
  return made.filter((_, place) => place % every === 0);
};

/* An axis with a logarithm and plain numbers on it, from a little below the least to a little above. */
const logarithmic = (values, format = figureOf) => {
  const positive = values.filter((value) => value > 0);
  const [low, high] = d3.extent(positive.length ? positive : [0.1, 1]);
  const domain = high / low > 1.001 ? [low, high] : [low / 2, high * 2];
  return { type: "log", domain, nice: false, ticks: logTicks(domain), tickFormat: format };
};

const tip = (points, channels) => Plot.tip(points, Plot.pointer({
  maxRadius: 60, ...channels, fill: "var(--panel)", stroke: "var(--soft)", fontSize: 12, lineHeight: 1.3,
}));

const ramp = d3.interpolateViridis;
const inkOn = (colour) => d3.lab(colour).l > 58 ? "#111" : "#fff";

/* Heat maps of blocks by kinds, a panel for each stack, all on one scale. Blocks run across where there is
   room, else down.

   cells: stack, block, kind, value. */
function heatMap({ cells, format, width, caption, domain, pick, chosen, rows = "block", columns = "kind", rowName = "block", log = false }) {
  const values = cells.map((cell) => cell.value).filter(known);
  if (!values.length) return empty("There is nothing to show for this choice.");
  const [low, high] = domain ?? d3.extent(values);
  /* Perplexities of broken models are far from all others. */
  const bend = log && low > 0 && high > 3 * low ? Math.log : (value) => value;
  const colour = d3.scaleSequential([bend(low), high > low ? bend(high) : bend(low) + 1], (at) => ramp(0.04 + 0.92 * at));
  const scale = (value) => colour(bend(value));
  const stacks = d3.groups(cells, (cell) => cell.stack);
  const panels = stacks.map(([stack, own]) => {
    const named = stacks.length > 1 ? stack || "outside of the blocks" : "";
    return heatPanel({ own, format, width, scale, pick, chosen, rows, columns, rowName, named, part: [named, caption].filter(Boolean).join(", ") });
  });
  const stops = d3.range(0, 1.01, 0.1).map((at) => ramp(0.04 + 0.92 * at)).join(", ");
  const key = el("div", { class: "ramp" }, el("span", {}, format(low)),
    el("i", { style: `background: linear-gradient(to right, ${stops})`, "aria-hidden": "true" }), el("span", {}, format(high)));
  return el("div", {}, key, panels);
}

const LETTER = 6.6;
function heatPanel({ own, format, width, scale, pick, chosen, rows, columns, rowName, part, named }) {
  const downs = [...new Set(own.map((cell) => cell[rows]))], acrosses = [...new Set(own.map((cell) => cell[columns]))];
  const longest = (names) => Math.max(...names.map((name) => String(name).length)) * LETTER;
  /* Blocks across: kinds stand at the left. */
  const leftOfWide = Math.min(longest(acrosses) + 12, 230);
  const wideCell = (width - leftOfWide - 8) / downs.length;
  const wide = wideCell >= 24 && width > 560;
  const shown = Math.max(...own.map((cell) => format(cell.value).length)) * LETTER + 4;
  let left, top, cellWidth, cellHeight, xs, ys, xKey, yKey;
  if (wide) {
    [left, top, xs, ys, xKey, yKey] = [leftOfWide, 24, downs, acrosses, rows, columns];
    cellWidth = Math.min(wideCell, 130);
    cellHeight = 30;
  } else {
    [xs, ys, xKey, yKey] = [acrosses, downs, columns, rows];
    left = Math.max(44, longest(downs) + 26);
    top = Math.min(longest(acrosses) * 0.72 + 18, 150);
    cellWidth = Math.min(90, Math.max(26, (width - left - top * 0.55 - 4) / acrosses.length));
    cellHeight = 26;
  }
  const full = Math.ceil(left + cellWidth * xs.length + (wide ? 8 : top * 0.55 + 4));
  const svg = Plot.plot({
    width: full, height: Math.ceil(top + cellHeight * ys.length + (wide ? 4 : 4)),
    marginLeft: left, marginTop: top, marginRight: full - left - cellWidth * xs.length, marginBottom: 4,
    style: { fontSize: "12px", fontFamily: "inherit", background: "none", overflow: "visible" },
    x: { domain: xs, axis: "top", label: wide ? rowName : null, labelAnchor: "left", labelArrow: "none", tickSize: 0, tickRotate: wide ? 0 : -45, padding: 0, round: false,
      tickFormat: wide && wideCell < 26 ? (value, place) => (place % 2 ? "" : String(value)) : String },
    y: { domain: ys, label: wide ? null : rowName, labelAnchor: "top", labelOffset: left - 4, labelArrow: "none", tickSize: 0, padding: 0, round: false, tickFormat: String },
    color: { type: "identity" },
    marks: [
      Plot.cell(own, { x: xKey, y: yKey, inset: 1, rx: 3, fill: (cell) => known(cell.value) ? scale(cell.value) : "var(--none)" }),
      chosen ? Plot.cell(own.filter(chosen), { x: xKey, y: yKey, inset: -0.5, rx: 4, fill: "none", stroke: "var(--ink)", strokeWidth: 2 }) : null,
      cellWidth >= shown ? Plot.text(own, { x: xKey, y: yKey, text: (cell) => format(cell.value), fontSize: 11,
        fill: (cell) => known(cell.value) ? inkOn(scale(cell.value)) : "var(--soft)" }) : null,
      tip(own, { x: xKey, y: yKey, maxRadius: cellWidth, title: (cell) => `${cell.name ?? `${rowName} ${cell[rows]}, ${cell[columns]}`}\n${format(cell.value)}` }),
    ],
  });
  svg.classList.add("plot", "heat");
  svg.dataset.part = part;
  if (pick) {
    svg.style.cursor = "pointer";
    svg.addEventListener("click", () => svg.value && pick(svg.value));
  }
  const scrolls = full > width;
  return el("div", { class: "panel" }, named ? el("h4", {}, named) : null,
    el("div", scrolls ? { class: "scroll", tabindex: "0", role: "region", "aria-label": part } : {}, svg));
}

/* Words of a text that differ from another's, from the first difference on. */
function differing(text, from) {
  const one = text.split(/(\s+)/), other = from.split(/(\s+)/);
  let same = 0;
  while (same < one.length && same < other.length && one[same] === other[same]) same++;
  const words = one.slice(0, same).filter((word) => word.trim()).length;
  const alike = one.slice(0, same).join(""), rest = one.slice(same).join("");
  const said = text === from ? "the same" : words ? `the same for ${words} ${words === 1 ? "word" : "words"}` : "another from the start";
  return { said, nodes: [alike, rest ? el("mark", {}, rest) : null] };
}
