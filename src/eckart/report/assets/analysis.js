"use strict";
/* The page of an analysis. */

const MATRICES = DATA.matrices;
const ENERGIES = [["0.9", "90%"], ["0.95", "95%"], ["0.99", "99%"], ["0.999", "99.9%"]];
const STRUCTURES = Object.fromEntries(Object.keys(MATRICES[0] ? MATRICES[0].breakEven : {}).map((name) => [name, name]));
const smaller = (matrix) => Math.max(1, Math.min(matrix.out, matrix.in));
const placeOf = (matrix) => matrix.block === null ? matrix.kind : `${matrix.kind} of block ${matrix.block}`;
const anyWeighted = MATRICES.some((matrix) => matrix.weighted);

/* The map: one number of each matrix. */

const atHalf = (column) => (matrix) => {
  const near = d3.least(matrix.cosines, (cosine) => Math.abs(cosine[0] - smaller(matrix) / 2));
  return near && Math.abs(near[0] - smaller(matrix) / 2) <= 0.1 * smaller(matrix) ? near[column] : null;
};
const energyOf = (key, field) => (matrix) => {
  const rank = matrix[field] && matrix[field][key];
  return known(rank) ? rank / smaller(matrix) : null;
};
const QUANTITIES = {};
for (const [key, text] of ENERGIES) {
  QUANTITIES[`energy-${key}`] = { name: `Rank for ${text} of the energy`, of: energyOf(key, "energy"), format: percent,
    beyond: (count, found) => `${count} of ${MATRICES.length} matrices need more than ${percent(found)} of their rank for ${text} of their energy`,
    say: (middle) => `Half the matrices keep ${text} of their energy in ${percent(middle)} of their rank`,
    what: "as a share of the smaller side: the less, the more low-rank the weight is by itself" };
}
for (const [key, text] of ENERGIES) {
  QUANTITIES[`weighted-${key}`] = { name: `Rank for ${text} of the energy, on the data`, of: energyOf(key, "weightedEnergy"), format: percent,
    beyond: (count, found) => `${count} of ${MATRICES.length} matrices need more than ${percent(found)} of their rank for ${text} of the energy that the data see`,
    say: (middle) => `Half the matrices keep ${text} of the energy that the data see in ${percent(middle)} of their rank`,
    what: "as a share of the smaller side, of W E[x xᵀ]^½: how little rank the outputs on the data need" };
}
Object.assign(QUANTITIES, {
  stable: { name: "Stable rank", of: (matrix) => matrix.stable, format: (value) => figureOf(value, 3),
    say: (middle) => `Half the matrices have a stable rank of ${figureOf(middle, 3)} or less`,
    what: "‖W‖²_F / σ₁²: 1 where one direction holds everything" },
  effective: { name: "Effective rank", of: (matrix) => known(matrix.effective) ? matrix.effective / smaller(matrix) : null, format: percent,
    say: (middle) => `Half the matrices have an effective rank of ${percent(middle)} of their smaller side or less`,
    what: "exp of the entropy of σ / Σσ, as a share of the smaller side" },
  random: { name: "Cosine at half rank, random x", of: atHalf(1), format: (value) => figureOf(value, 3),
    say: (middle) => `At half their rank, half the matrices keep a cosine of ${figureOf(middle, 3)} or more for random x`,
    what: "between W x and Ŵ x, x standard normal, Ŵ the truncated SVD" },
  activations: { name: "Cosine at half rank, activations", of: atHalf(2), format: (value) => figureOf(value, 3),
    say: (middle) => `At half their rank, half the matrices keep a cosine of ${figureOf(middle, 3)} or more on the data`,
    what: "between W x and Ŵ x for what the weight reads on the data, Ŵ the truncated SVD" },
  weighted: { name: "Cosine at half rank, activations, cut for the data", of: atHalf(3), format: (value) => figureOf(value, 3),
    say: (middle) => `Cut for the data to half their rank, half the matrices keep a cosine of ${figureOf(middle, 3)} or more on them`,
    what: "between W x and Ŵ x for what the weight reads on the data, Ŵ the best of that rank for the data" },
});
const offered = Object.entries(QUANTITIES).filter(([, { of }]) => MATRICES.some((matrix) => known(of(matrix))));
/* What is picked, and who wants to know. */
let picked = 0;
const followers = [];
function pick(index) {
  picked = index;
  for (const follow of followers) follow();
}

if (offered.length) {
  const extremes = (quantity) => {
    const kinds = d3.rollups(MATRICES.filter((matrix) => known(quantity.of(matrix))), (own) => d3.median(own, quantity.of), (matrix) => matrix.kind);
    const sorted = d3.sort(kinds, (kind) => kind[1]);
    const [least, most] = [sorted[0], sorted[sorted.length - 1]];
    if (sorted.length < 2 || least[1] === most[1]) return "";
    return ` Least: ${least[0]} (${quantity.format(least[1])}); most: ${most[0]} (${quantity.format(most[1])}).`;
  };
  /* First what is known of every matrix, if anything is: after a fast look that is seldom the energy. */
  const whole = offered.filter(([, { of }]) => MATRICES.every((matrix) => known(of(matrix)))).map(([key]) => key);
  const first = ["energy-0.95", ...whole].find((key) => whole.includes(key)) ?? offered[0][0];
  const map = figure(section("maps"), {
    options: [{ key: "of", label: "Shown", value: first,
      options: offered.map(([key, { name }]) => [key, name]) }],
    /* A median of those that are known would be too low: the others need more ranks than were found. */
    title: ({ of }) => {
      const { say, beyond, of: value } = QUANTITIES[of];
      const unknown = MATRICES.filter((matrix) => !known(value(matrix)));
      return beyond && unknown.length ? beyond(unknown.length, d3.min(unknown, (matrix) => matrix.found / smaller(matrix))) : say(median(MATRICES.map(value)));
    },
    text: ({ of }) => {
      const missing = MATRICES.filter((matrix) => !known(QUANTITIES[of].of(matrix))).length;
      return `${QUANTITIES[of].name}, ${QUANTITIES[of].what}.${missing ? "" : extremes(QUANTITIES[of])}${missing ? ` Not known of ${missing} matrices.` : ""}`;
    },
    draw: ({ of }, width) => heatMap({
      cells: MATRICES.map((matrix, index) => ({ ...matrix, block: matrix.block ?? "–", index, value: QUANTITIES[of].of(matrix) })),
      format: QUANTITIES[of].format, width, caption: QUANTITIES[of].name,
      pick: ({ index }) => pick(index), chosen: ({ index }) => index === picked,
    }),
    rows: () => ({
      head: ["matrix", "out × in", "stored as", ...offered.map(([, { name }]) => name)],
      rows: MATRICES.map((matrix) => [matrix.name || matrix.kind, `${matrix.out} × ${matrix.in}`, matrix.dtype,
        ...offered.map(([, { of, format }]) => format(of(matrix)))]),
    }),
    file: "matrices.csv",
  });
  followers.push(map.redraw);
} else {
  section("maps").append(empty("There is no matrix to show."));
}

/* One matrix. */

function matrixPickers() {
  const place = (matrix) => [matrix.stack ?? "", matrix.block ?? ""];
  const stacks = [...new Set(MATRICES.map((matrix) => matrix.stack ?? ""))];
  const same = (...keys) => MATRICES.map((matrix, index) => [matrix, index])
    .filter(([matrix]) => keys.every((key, depth) => String([...place(matrix), matrix.kind][depth]) === String(key)));
  const names = (entries, depth) => [...new Set(entries.map(([matrix]) => String([...place(matrix), matrix.kind][depth])))];
  const now = () => MATRICES[picked];
  const nearest = (entries) => (entries.find(([matrix]) => matrix.kind === now().kind) ?? entries[0])[1];
  const stack = picker({ label: "Stack", options: stacks.map((name) => [name, name || "outside of the blocks"]), value: stacks[0],
    change: (name) => {
      const inside = same(name);
      const here = inside.filter(([matrix]) => matrix.block === now().block);
      pick(nearest(here.length ? here : inside));
    } });
  const block = picker({ label: "Block", options: [["", ""]], value: "", change: (name) => pick(nearest(same(now().stack ?? "", name))) });
  const kind = picker({ label: "Matrix", options: [["", ""]], value: "", change: (name) => pick(same(...place(now()), name)[0][1]) });
  const step = (by) => pick((picked + by + MATRICES.length) % MATRICES.length);
  const before = el("button", { type: "button" }, "← Previous"), after = el("button", { type: "button" }, "Next →");
  before.addEventListener("click", () => step(-1));
  after.addEventListener("click", () => step(1));
  const facts = el("p", { class: "what", role: "status" });
  const follow = () => {
    const matrix = now(), [inStack, inBlock] = place(matrix);
    stack.fill(stacks.map((name) => [name, name || "outside of the blocks"]), inStack);
    const blocks = names(same(inStack), 1);
    block.fill(blocks.map((name) => [name, name || "none"]), String(inBlock));
    block.hidden = blocks.length === 1 && blocks[0] === "";
    kind.fill(names(same(inStack, inBlock), 2).map((name) => [name, name]), matrix.kind);
    facts.textContent = `${matrix.name || matrix.kind}: ${matrix.out} × ${matrix.in}, ${matrix.dtype}; stable rank ${figureOf(matrix.stable, 3)}`
      + (known(matrix.effective) ? `, effective rank ${figureOf(matrix.effective, 3)}` : "")
      + `; smaller than dense up to rank ${listed(Object.entries(STRUCTURES).filter(([key]) => known(matrix.breakEven[key])).map(([key, name]) => `${matrix.breakEven[key]} in ${name} form`))}`
      + (matrix.exact ? "." : `; the leading ${matrix.found} of ${smaller(matrix)} singular values were found.`);
  };
  followers.push(follow);
  follow();
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("select, input, summary, .scroll, textarea")) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  return el("div", { class: "card" }, el("div", { class: "pickers", role: "group", "aria-label": "Matrix" },
    stacks.length > 1 ? stack : null, block, kind, before, after), facts);
}

/* Points of a spectrum: rank, value and error; of the matrix itself or weighed by the data. */
const pointsOf = (matrix, weighted) => {
  const own = weighted ? matrix.weighted : matrix;
  if (!own) return [];
  return DATA.ranks[own.found].map((rank, place) => ({ rank, share: rank / smaller(matrix), value: own.values[place], error: own.errors[place],
    normed: own.norm ? own.values[place] / own.norm : 0 }));
};
const PLAIN = { stroke: "var(--c1)" }, WEIGHTED = { stroke: "var(--c2)", dash: "7 3" }, OTHERS = { stroke: "var(--others)" };
const line = (points, x, y, { stroke, dash = "" }, width = 2) => Plot.line(points, { x, y, stroke, strokeWidth: width, strokeDasharray: dash, clip: true });

/* Whether any rank is known that keeps so much of the energy: the leading values alone may not reach that. */
const marked = (matrix, of) => Object.values((of === "weighted" && matrix.weightedEnergy) || matrix.energy).some(known);

function spectrumFigure(into) {
  const peers = (matrix) => MATRICES.filter((other) => other !== matrix && other.kind === matrix.kind && other.stack === matrix.stack).slice(0, 64);
  return figure(into, {
    wide: true,
    options: [
      { key: "of", label: "Singular values", kind: "radio", value: "plain",
        options: anyWeighted ? [["plain", "of W"], ["weighted", "on the data"], ["both", "both"]] : [["plain", "of W"]] },
      { key: "y", label: "Values", kind: "radio", value: "log", options: [["log", "log"], ["linear", "linear"]] },
      { key: "x", label: "Rank", kind: "radio", value: "rank", options: [["rank", "as it is"], ["share", "as a share"]] },
    ],
    title: ({ of }) => {
      const matrix = MATRICES[picked];
      const field = of === "weighted" && matrix.weightedEnergy ? "weightedEnergy" : "energy";
      const rank = matrix[field]["0.95"];
      const what = field === "energy" ? "of its energy" : "of the energy that the data see";
      if (!known(rank)) return `${placeOf(matrix)} needs more than ${matrix.found} of its ${smaller(matrix)} ranks for 95% ${what}`;
      return `${placeOf(matrix)} keeps 95% ${what} in ${rank} of its ${smaller(matrix)} ranks`;
    },
    text: ({ of }) => of === "both" ? "Singular values over the Frobenius norm, so that both have one scale."
      : `Singular values; grey: the same kind of matrix in the other blocks.${marked(MATRICES[picked], of) ? " Marks: the rank that keeps so much of the energy." : ""}`,
    legend: ({ of }) => of === "both" && MATRICES[picked].weighted
      ? [legendKey("W", PLAIN), legendKey("W E[x xᵀ]^½, weighed by the data", WEIGHTED)] : [],
    draw: ({ of, x, y }, width) => {
      const matrix = MATRICES[picked], weighted = of === "weighted" && matrix.weighted;
      const channel = of === "both" ? "normed" : "value", log = y === "log";
      const series = of === "both" ? [[false, PLAIN], [true, WEIGHTED]] : [[Boolean(weighted), weighted ? WEIGHTED : PLAIN]];
      const visible = (points) => log ? points.filter((point) => point[channel] > 0) : points;
      const grey = of === "both" ? [] : peers(matrix).map((other) => visible(pointsOf(other, weighted)));
      const own = series.map(([data, style]) => [visible(pointsOf(matrix, data)), style]);
      const all = [...grey, ...own.map(([points]) => points)].flat();
      if (!all.length) return empty("The weight is zero.");
      /* Values that are rounding would take all the room of a logarithmic axis. */
      const top = d3.max(all, (point) => point[channel]);
      const low = Math.max(d3.min(all, (point) => point[channel]), top * 1e-6);
      const ranks = weighted ? matrix.weightedEnergy : matrix.energy;
      let last = -Infinity;
      const marks = of === "both" || !ranks ? [] : ENERGIES.map(([key, text]) => ({ text, at: x === "rank" ? ranks[key] : ranks[key] / smaller(matrix), rank: ranks[key] }))
        .filter(({ rank }) => known(rank));
      const span = d3.max(all, (point) => point[x]);
      const labels = marks.filter(({ at }) => {
        const here = at / span * width;
        if (here - last < 46) return false;
        last = here;
        return true;
      });
      return plot({
        width,
        x: { label: x === "rank" ? "rank" : "rank, share of the smaller side", ...(x === "share" ? { tickFormat: percent } : {}), domain: [x === "rank" ? 1 : 0, span] },
        y: { label: of === "both" ? "σ / ‖·‖_F" : "σ", ...(log ? { ...logarithmic([low, top]), clamp: true } : { domain: [0, top] }) },
        marks: [
          ...grey.map((points) => line(points, x, channel, OTHERS, 1)),
          Plot.ruleX(marks, { x: "at", stroke: "var(--soft)", strokeDasharray: "2 3" }),
          Plot.text(labels, { x: "at", text: "text", frameAnchor: "top", dy: -14, fill: "var(--soft)" }),
          ...own.map(([points, style]) => line(points, x, channel, style, 2.25)),
          tip(own.flatMap(([points]) => points), { x, y: channel, title: (point) => `rank ${point.rank}\nσ ${figureOf(point.value)}` }),
        ],
      });
    },
    rows: () => spectrumRows(),
    file: "spectra.csv",
  });
}

function spectrumRows() {
  const matrix = MATRICES[picked], plain = pointsOf(matrix, false), weighted = pointsOf(matrix, true);
  const other = new Map(weighted.map((point) => [point.rank, point]));
  return {
    head: ["rank", "σ", "error at this rank", ...(weighted.length ? ["σ on the data", "error on the data"] : [])],
    rows: plain.map(({ rank, value, error }) => [rank, figureOf(value), percent(error),
      ...(weighted.length ? [figureOf(other.get(rank)?.value), percent(other.get(rank)?.error)] : [])]),
  };
}

const errorAt = (points, rank) => {
  if (rank <= 0 || !points.length) return 1;
  const after = points.findIndex((point) => point.rank >= rank);
  if (after < 0) return null;
  if (points[after].rank === rank || after === 0) return points[after].error;
  const [one, two] = [points[after - 1], points[after]];
  return one.error + (two.error - one.error) * (rank - one.rank) / (two.rank - one.rank);
};

function errorFigure(into) {
  return figure(into, {
    options: [
      { key: "y", label: "Error", kind: "radio", value: "linear", options: [["linear", "linear"], ["log", "log"]] },
      { key: "x", label: "Rank", kind: "radio", value: "rank", options: [["rank", "as it is"], ["share", "as a share"]] },
    ],
    title: () => {
      const matrix = MATRICES[picked], points = pointsOf(matrix, Boolean(matrix.weighted));
      const said = Object.entries(STRUCTURES).filter(([key]) => known(matrix.breakEven[key])).map(([key, name]) => {
        const error = errorAt(points, matrix.breakEven[key]);
        return known(error) ? `${about(error)} in ${name} form` : null;
      }).filter(known);
      return said.length ? `To get smaller at all, ${placeOf(matrix)} must lose ${said.join(", ")}${matrix.weighted ? ", on the data" : ""}`
        : `At rank ${matrix.found}, the last that was found, ${placeOf(matrix)} has lost ${about(points[points.length - 1].error)}`;
    },
    text: () => "Relative Frobenius error ‖W − Ŵ‖ / ‖W‖ against rank. Marks: the largest rank at which each structure still has fewer parameters than the dense weight.",
    legend: () => MATRICES[picked].weighted ? [legendKey("W", PLAIN), legendKey("W E[x xᵀ]^½, weighed by the data", WEIGHTED)] : [],
    draw: ({ x, y }, width) => {
      const matrix = MATRICES[picked], log = y === "log";
      const zero = { rank: 0, share: 0, error: 1 };
      const series = [[pointsOf(matrix, false), PLAIN], [pointsOf(matrix, true), WEIGHTED]].filter(([points]) => points.length)
        .map(([points, style]) => [[zero, ...points].filter(({ error }) => !log || error > 0), style]);
      const all = series.flatMap(([points]) => points);
      const scale = x === "rank" ? 1 : smaller(matrix);
      const even = Object.entries(STRUCTURES).filter(([key]) => known(matrix.breakEven[key])).map(([key, name]) => ({ name, rank: matrix.breakEven[key], at: matrix.breakEven[key] / scale }));
      const dots = even.flatMap(({ rank, at }) => series.map(([points, style]) => ({ at, error: errorAt(points, rank), fill: style.stroke })))
        .filter(({ error }) => known(error) && (!log || error > 0));
      return plot({
        width,
        x: { label: x === "rank" ? "rank" : "rank, share of the smaller side", ...(x === "share" ? { tickFormat: percent } : {}), domain: [0, (x === "rank" ? smaller(matrix) : 1)] },
        y: { label: "error", ...(log ? logarithmic([Math.max(1e-4, d3.min(all, (point) => point.error)), 1], percent) : { domain: [0, 1], tickFormat: percent }) },
        marks: [
          Plot.ruleX(even, { x: "at", stroke: "var(--soft)", strokeDasharray: "2 3" }),
          ...even.map((mark) => {
            const far = mark.rank > 0.75 * smaller(matrix);
            return Plot.text([mark], { x: "at", text: ({ name, rank }) => `${name} ${rank}`, frameAnchor: "top", dy: -14, dx: far ? 10 : 0,
              textAnchor: far ? "end" : "middle", fill: "var(--soft)" });
          }),
          ...series.map(([points, style]) => line(points, x, "error", style, 2.25)),
          Plot.dot(dots, { x: "at", y: "error", r: 4, fill: "fill", stroke: "var(--panel)" }),
          tip(all, { x, y: "error", title: (point) => `rank ${point.rank}\nerror ${percent(point.error)}` }),
        ],
      });
    },
    rows: () => spectrumRows(),
    file: "spectra.csv",
  });
}

const COSINES = [[1, "random x, truncated SVD", look(0)], [2, "activations, truncated SVD", look(1)], [3, "activations, cut for the data", look(2)]];

function cosineFigure(into) {
  const shown = () => COSINES.filter(([column]) => MATRICES[picked].cosines.some((cosine) => known(cosine[column])));
  return figure(into, {
    title: () => {
      const matrix = MATRICES[picked];
      const near = d3.least(matrix.cosines, (cosine) => Math.abs(cosine[0] - smaller(matrix) / 2));
      if (!near) return `No cosine of ${placeOf(matrix)} was asked for`;
      const said = [[1, "for random x"], [2, "on the data"], [3, "cut for the data"]].filter(([column]) => known(near[column]))
        .map(([column, name]) => `${figureOf(near[column], 3)} ${name}`);
      return `At rank ${near[0]} of ${smaller(matrix)}, W x and Ŵ x have a cosine of ${said.join(", ")}`;
    },
    text: () => `The mean cosine between what ${placeOf(MATRICES[picked])} computes and what its approximation does; 1 is the same direction.`,
    legend: () => shown().map(([, name, style]) => legendKey(name, style)),
    draw: (_, width) => {
      const matrix = MATRICES[picked];
      const series = shown().map(([column, name, style]) => [matrix.cosines.filter((cosine) => known(cosine[column]))
        .map((cosine) => ({ rank: cosine[0], cosine: cosine[column], name })), style]);
      const all = series.flatMap(([points]) => points);
      if (!all.length) return empty("No cosine was asked for.");
      const low = Math.min(0.9, Math.floor(10 * d3.min(all, (point) => point.cosine)) / 10);
      return plot({
        width, x: { label: "rank", domain: [0, smaller(matrix)] }, y: { label: "cosine", domain: [low, 1] },
        marks: [
          ...series.flatMap(([points, { stroke, dash, symbol }]) => [
            Plot.line(points, { x: "rank", y: "cosine", stroke, strokeDasharray: dash, strokeWidth: 2 }),
            Plot.dot(points, { x: "rank", y: "cosine", fill: stroke, symbol, r: 4.5, stroke: "var(--panel)" })]),
          tip(all, { x: "rank", y: "cosine", title: (point) => `rank ${point.rank}, ${point.name}\n${figureOf(point.cosine)}` }),
        ],
      });
    },
    rows: () => ({ head: ["rank", ...shown().map(([, name]) => name)],
      rows: MATRICES[picked].cosines.map((cosine) => [cosine[0], ...shown().map(([column]) => figureOf(cosine[column]))]) }),
    file: "cosines.csv",
  });
}

if (MATRICES.length) {
  section("picked").append(matrixPickers());
  for (const make of [spectrumFigure, errorFigure, cosineFigure]) followers.push(make(section("one")).redraw);
} else {
  section("one").append(empty("There is no matrix to show."));
}

/* What a cut would come to. */

if (DATA.sizes.length) {
  const structures = [...new Set(DATA.sizes.map((size) => size.structure))];
  const looks = new Map(structures.map((name, index) => [name, look(index)]));
  const weighed = DATA.sizes.some((size) => known(size.weighted_error)), measured = DATA.sizes.some((size) => known(size.error));
  figure(section("cuts"), {
    options: [{ key: "of", label: "Error", kind: "radio", value: "error", options: weighed ? [["error", "of the weights"], ["weighted_error", "on the data"]] : [["error", "of the weights"]] }],
    title: ({ of }) => {
      const own = DATA.sizes.filter((size) => known(size[of]) && size.keep < 1);
      if (!own.length) {
        const [most, least] = [d3.max(DATA.sizes, (size) => size.model_keep), d3.min(DATA.sizes, (size) => size.model_keep)];
        return `Cuts of these matrices leave ${percent(most)} to ${percent(least)} of the model; what they lose needs more singular values`;
      }
      const near = d3.least(own, (size) => Math.abs(size.keep - 0.5)).keep;
      const said = own.filter((size) => size.keep === near).map((size) => `${percent(size[of])} in ${STRUCTURES[size.structure] ?? size.structure} form`);
      return `With ${percent(near)} of their parameters left, the matrices are off by ${said.join(", ")}`;
    },
    text: () => "Kept: of the parameters of the matrices, by one rule for all. Parameters, share and size: of the whole model. Methods that choose ranks by data, or correct the weights afterwards, lose less.",
    legend: () => measured ? structures.map((name) => legendKey(STRUCTURES[name] ?? name, looks.get(name))) : [],
    draw: ({ of }, width) => {
      const own = DATA.sizes.filter((size) => known(size[of]));
      const head = ["kept", "form", "parameters", "share", "size", ...(measured ? ["error"] : []), ...(weighed ? ["on the data"] : [])];
      const rows = DATA.sizes.map((size) => [percent(size.keep), STRUCTURES[size.structure] ?? size.structure, size.parameters.toLocaleString("en"), percent(size.model_keep), bytes(size.bytes),
        ...(measured ? [percent(size.error)] : []), ...(weighed ? [percent(size.weighted_error)] : [])]);
      const priced = table({ head, rows, caption: "The size that each cut would come to" });
      if (!measured && !weighed) return priced;
      const chartWidth = width > 1000 ? Math.round(width * 0.42) : width;
      const chart = own.length ? plot({
        width: chartWidth, x: { label: "size of the model, MB" }, y: { label: "error", domain: [0, d3.max(own, (size) => size[of])], tickFormat: percent },
        marks: [
          ...structures.flatMap((name) => {
            const points = d3.sort(own.filter((size) => size.structure === name), (size) => size.bytes), { stroke, dash, symbol } = looks.get(name);
            return [Plot.line(points, { x: (size) => size.bytes / 1e6, y: of, stroke, strokeDasharray: dash, strokeWidth: 2 }),
              Plot.dot(points, { x: (size) => size.bytes / 1e6, y: of, fill: stroke, symbol, r: 4.5, stroke: "var(--panel)" })];
          }),
          tip(own, { x: (size) => size.bytes / 1e6, y: of, title: (size) => `${percent(size.keep)} kept, ${STRUCTURES[size.structure] ?? size.structure}\n${bytes(size.bytes)}, error ${percent(size[of])}` }),
        ],
      }) : empty("The errors are not known: more singular values would be needed.");
      return el("div", { class: "beside" }, el("div", {}, chart), priced);
    },
    file: "sizes.csv",
  });
} else {
  section("cuts").append(empty("No sizes were worked out."));
}
