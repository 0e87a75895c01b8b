"use strict";
/* The page of a comparison. */

const { rows: ROWS, lower, titles } = DATA;
const dense = ROWS.find((row) => row.method === "dense");
const methods = [...new Set(ROWS.map((row) => row.method))].filter((method) => method !== "dense");
/* A method has its look by its place, also where another has no value to show. */
const looks = new Map(methods.map((method, index) => [method, look(index)]));
const shown = ROWS.filter((row) => row.method !== "dense" && known(row.value));
const ofTargets = Boolean(dense && dense.of === "targets");
/* Where something was rounded, parameters say little of the size. */
const inBytes = shown.some((row) => row.quantize);
const sizeOf = (row) => (inBytes ? row.bytes : ofTargets ? row.targets_parameters : row.parameters) || 0;
const whole = dense ? sizeOf(dense) : 0;
const metric = (ROWS.find((row) => row.metric) ?? {}).metric ?? "value";
const task = ROWS.length ? ROWS[0].task : "";
const valueLabel = metric === task || !task ? metric : `${task}: ${metric}`;
const AGAINST = {
  size: { label: inBytes ? "bytes as saved, % of the dense model" : `parameters kept, % of the ${ofTargets ? "targets" : "model"}`, of: (row) => 100 * (whole ? sizeOf(row) / whole : row.keep), format: (value) => figureOf(value, 3) },
  seconds: { label: "seconds to make it", of: (row) => row.seconds, format: (value) => figureOf(value, 3) },
  memory: { label: "peak memory to make it, GB", of: (row) => known(row.peak_memory_bytes) ? row.peak_memory_bytes / 1e9 : null, format: (value) => figureOf(value, 3) },
};
const keeps = [...new Set(shown.map((row) => 100 * row.keep))];
/* Of one size there is no line to draw: methods stand below each other, the best first. */
const oneSize = keeps.length === 1 && !inBytes;
const keyOf = (method) => legendKey(method, { ...looks.get(method), plain: oneSize });
const spreads = (values) => values.length && d3.min(values) > 0 && d3.max(values) > 3 * d3.min(values);
const anyFailed = ROWS.some((row) => row.error);
const anyMoved = ROWS.some((row) => known(row.divergence));
const rowsTable = (own) => ({
  head: ["method", "keep", "parameters", "size", metric, "loss", ...(anyMoved ? ["divergence", "same top token"] : []), "seconds", "peak memory", ...(anyFailed ? ["failed"] : [])],
  rows: own.map((row) => [row.method, row.keep, known(row.parameters) ? row.parameters.toLocaleString("en") : "–", bytes(row.bytes), figureOf(row.value), figureOf(row.loss),
    ...(anyMoved ? [figureOf(row.divergence), known(row.same_top) ? `${(100 * row.same_top).toFixed(1)}%` : "–"] : []), figureOf(row.seconds, 3), bytes(row.peak_memory_bytes),
    ...(anyFailed ? [row.error ?? ""] : [])]),
});
const denseKey = () => dense && known(dense.value) ? [legendKey("dense", { stroke: "var(--ink)", dash: "2 3" })] : [];

function ranked(into) {
  const values = [...shown.map((row) => row.value), ...(dense && known(dense.value) ? [dense.value] : [])];
  const order = d3.sort(shown, (row) => (lower ? row.value : -row.value));
  const longest = Math.max(...order.map((row) => row.method.length)) * LETTER;
  figure(into, {
    options: [{ key: "x", label: capital(metric), kind: "radio", value: lower && spreads(values) ? "log" : "linear",
      options: d3.min(values) > 0 ? [["linear", "linear"], ["log", "log"]] : [["linear", "linear"]] }],
    title: () => titles.size,
    text: () => `${capital(metric)} of each method, the best first, with ${AGAINST.size.format(AGAINST.size.of(order[0]))}% of the ${ofTargets ? "targets'" : "model's"} parameters kept; a stem is as long as what the cut cost.`,
    legend: denseKey,
    draw: ({ x }, width) => plot({
      width, height: 60 + 32 * order.length, marginTop: 10, marginLeft: Math.min(width / 2, longest + 18), marginRight: 56, inset: 6,
      x: { label: `${valueLabel} (${lower ? "lower" : "higher"} is better)`, grid: true,
        ...(x === "log" ? logarithmic(values, (value) => figureOf(value, 3)) : { nice: true, tickFormat: (value) => figureOf(value, 3) }) },
      y: { label: null, domain: order.map((row) => row.method), type: "point", padding: 0.5, grid: false, nice: false, tickSize: 0 },
      marks: [
        ...(dense && known(dense.value) ? [Plot.ruleX([dense.value], { stroke: "var(--ink)", strokeDasharray: "2 3" }),
          Plot.ruleY(order, { y: "method", x1: dense.value, x2: "value", stroke: (row) => looks.get(row.method).stroke, strokeWidth: 2 })] : []),
        ...order.map((row) => Plot.dot([row], { x: "value", y: "method", fill: looks.get(row.method).stroke, symbol: looks.get(row.method).symbol, r: 5.5, stroke: "var(--panel)" })),
        Plot.text(order, { x: "value", y: "method", text: (row) => figureOf(row.value), dx: 10, textAnchor: "start", fill: "var(--ink)" }),
        tip(order, { x: "value", y: "method", title: (row) => `${row.method} at ${row.keep}\n${metric} ${figureOf(row.value)}` }),
      ],
      color: { type: "identity" },
    }),
    rows: () => rowsTable(ROWS),
    file: "results.csv",
  });
}

function against(into, key, { text, tall }) {
  const { label, of, format } = AGAINST[key];
  const points = shown.filter((row) => known(of(row)));
  const values = [...points.map((row) => row.value), ...(dense && known(dense.value) ? [dense.value] : [])];
  const canLog = values.length && d3.min(values) > 0, canLogX = points.length && d3.min(points, of) > 0;
  figure(into, {
    options: [
      { key: "y", label: capital(metric), kind: "radio", value: lower && spreads(values) ? "log" : "linear", options: canLog ? [["linear", "linear"], ["log", "log"]] : [["linear", "linear"]] },
      { key: "x", label: key === "size" ? "Size" : key === "seconds" ? "Seconds" : "Memory", kind: "radio", value: key !== "size" && spreads(points.map(of)) ? "log" : "linear",
        options: canLogX ? [["linear", "linear"], ["log", "log"]] : [["linear", "linear"]] },
    ],
    title: () => titles[key],
    text: () => text,
    legend: () => [...[...new Set(points.map((row) => row.method))].map(keyOf), ...denseKey()],
    draw: ({ x, y }, width) => {
      if (!points.length) return empty("No cut model could be measured.");
      const place = (row) => of(row);
      return plot({
        width, height: tall ? Math.round(Math.max(280, Math.min(440, width * 0.5))) : undefined, marginLeft: 60, inset: 8,
        x: { label, ...(x === "log" ? logarithmic(points.map(of), format) : { nice: true, tickFormat: format, ...(key === "size" && keeps.length <= 8 && !inBytes ? { ticks: keeps } : {}) }) },
        y: { label: `${valueLabel} (${lower ? "lower" : "higher"} is better)`, ...(y === "log" ? logarithmic(values, (value) => figureOf(value, 3)) : { tickFormat: (value) => figureOf(value, 3) }) },
        marks: [
          dense && known(dense.value) ? Plot.ruleY([dense.value], { stroke: "var(--ink)", strokeDasharray: "2 3" }) : null,
          ...methods.flatMap((method) => {
            const own = d3.sort(points.filter((row) => row.method === method), (row) => -row.keep), { stroke, dash, symbol } = looks.get(method);
            return own.length ? [Plot.line(own, { x: place, y: "value", stroke, strokeDasharray: dash, strokeWidth: 1.75 }),
              Plot.dot(own, { x: place, y: "value", fill: stroke, symbol, r: 5, stroke: "var(--panel)" })] : [];
          }),
          tip(points, { x: place, y: "value", title: (row) => `${row.method} at ${row.keep}\n${metric} ${figureOf(row.value)}\n${label}: ${format(of(row))}` }),
        ],
      });
    },
    rows: () => rowsTable(ROWS),
    file: "results.csv",
  });
}

if (oneSize) ranked(section("against"));
else against(section("against"), "size", { text: `${capital(metric)} against ${inBytes ? "bytes" : "what is kept"}, a line for each method.`, tall: true });
against(section("taken"), "seconds", { text: "From the loaded dense model to the cut one, without the measurement." });
against(section("taken"), "memory", { text: "The largest resident size of the method's own process, up to the end of this cut." });
section("all").append(el("div", { class: "card" }, table({ ...rowsTable(ROWS), caption: "All models of the comparison" }),
  el("p", { class: "file" }, "The same: ", el("code", {}, "results.csv"), " beside this page.")));
