"use strict";
/* The page of a sweep. */

const { metric, lower, dense, cells, steps, prompts } = DATA;
const score = (value) => figureOf(value, 4);
const layersOf = (cell) => cell.layers || "all";
const kindsOf = (cell) => cell.targets || "all";
const named = (cell) => `ratio ${cell.ratio}, ${cell.layers || "all blocks"}${cell.targets ? `, ${cell.targets}` : ""}`;
const better = lower ? (one, other) => one <= other : (one, other) => one >= other;
const best = (own) => d3.least(own.filter((cell) => known(cell.value)), (one, two) => (lower ? one.value - two.value : two.value - one.value) || one.parameters - two.parameters);
const kinds = [...new Set(cells.map(kindsOf))];
const kindOptions = kinds.map((kind) => [kind, kind === "all" ? "all kinds" : kind]);
const cellRows = (own) => ({
  head: ["layers", "kinds", "ratio", "weights cut", "parameters", "of the model", ...(metric ? [metric] : []), "loss", "failed"],
  rows: [dense, ...own].map((cell) => [cell === dense ? "dense model" : layersOf(cell), cell === dense ? "–" : kindsOf(cell), cell.ratio, cell.cut,
    cell.parameters.toLocaleString("en"), percent(cell.keep), ...(metric ? [score(cell.value)] : []), score(cell.loss), cell.error ?? ""]),
});

if (section("maps")) {
  const quantities = [["value", metric, score], ["loss", "loss, nats a token", score], ["keep", "parameters left", percent]]
    .filter(([key]) => cells.some((cell) => known(cell[key])));
  const of = (kind) => cells.filter((cell) => kindsOf(cell) === kind);
  figure(section("maps"), {
    options: [
      { key: "kind", label: "Kinds of matrix", value: kinds[0], options: kindOptions },
      { key: "shown", label: "Shown", value: quantities[0][0], options: quantities.map(([key, name]) => [key, name]) },
    ],
    title: ({ kind }) => {
      const own = of(kind), scored = own.filter((cell) => known(cell.value)), top = best(own);
      if (!metric) {
        const least = d3.least(own, (cell) => cell.parameters);
        return `Down to ${percent(least.keep)} of the parameters, at ${named(least)}`;
      }
      if (!top) return "None of these cuts could be measured";
      const good = scored.filter((cell) => better(cell.value, dense.value)).length;
      if (!known(dense.value)) return `The best of these cuts is ${named(top)}: ${metric} ${score(top.value)}`;
      return good ? `${good} of ${scored.length} cuts score at least as well as the dense model; best: ${named(top)}`
        : `Every cut costs something; the mildest, ${named(top)}, comes to ${score(top.value)} from ${score(dense.value)}`;
    },
    text: ({ shown }) => `${capital(quantities.find(([key]) => key === shown)[1])} by ratio and layers${shown === "value" && known(dense.value) ? `, ${lower ? "lower" : "higher"} is better; dense ${score(dense.value)}` : ""}.${metric ? " Outlined: the best." : ""} A ratio is the rank as a share of the smaller side.`,
    draw: ({ kind, shown }, width) => {
      const own = of(kind), format = quantities.find(([key]) => key === shown)[2], top = best(own);
      return heatMap({
        cells: own.map((cell) => ({ ...cell, stack: null, layers: layersOf(cell), ratio: `ratio ${cell.ratio}`, value: cell[shown], of: cell, name: named(cell) })),
        format, width, caption: shown === "value" ? metric : shown, rows: "layers", columns: "ratio", rowName: "layers", chosen: ({ of }) => of === top, log: shown !== "keep",
      });
    },
    rows: ({ kind }) => cellRows(of(kind)),
    file: "cells.csv",
  });
}

if (section("against")) {
  const ratios = [...new Set(cells.map((cell) => cell.ratio))];
  const looks = new Map(ratios.map((ratio, index) => [ratio, look(index)]));
  const scored = cells.filter((cell) => known(cell.value));
  const within = (cell) => lower ? cell.value <= 1.05 * dense.value : cell.value >= 0.95 * dense.value;
  if (scored.length) figure(section("against"), {
    options: [
      { key: "kind", label: "Kinds of matrix", value: "every", options: kinds.length > 1 ? [["every", "every choice"], ...kindOptions] : [["every", "every choice"]] },
      { key: "y", label: "Score", kind: "radio", value: lower && d3.max(scored, (cell) => cell.value) > 3 * d3.min(scored, (cell) => cell.value) ? "log" : "linear",
        options: scored.every((cell) => cell.value > 0) ? [["linear", "linear"], ["log", "log"]] : [["linear", "linear"]] },
    ],
    title: ({ kind }) => {
      const own = scored.filter((cell) => kind === "every" || kindsOf(cell) === kind);
      const smallest = known(dense.value) ? d3.least(own.filter(within), (cell) => cell.parameters) : null;
      return smallest ? `Within 5% of the dense score, ${percent(smallest.keep)} of the parameters are enough: ${named(smallest)}`
        : "No cut stays within 5% of the dense score";
    },
    text: () => `${capital(metric)} against parameters left, ${lower ? "lower" : "higher"} is better. Each cut weight counts as the cheaper of its factors and its product.`,
    legend: () => [...ratios.map((ratio) => legendKey(`ratio ${ratio}`, { ...looks.get(ratio), dash: "" })), legendKey("dense model", { stroke: "var(--ink)", dash: "2 3" })],
    draw: ({ kind, y }, width) => {
      const own = scored.filter((cell) => kind === "every" || kindsOf(cell) === kind);
      if (!own.length) return empty("None of these cuts could be measured.");
      return plot({
        width, height: Math.round(Math.max(260, Math.min(400, width * 0.5))), inset: 8,
        x: { label: "parameters left, % of the model", tickFormat: (value) => figureOf(value, 3), nice: true },
        y: { label: metric, ...(y === "log" ? logarithmic([...own.map((cell) => cell.value), dense.value ?? own[0].value], (value) => figureOf(value, 3)) : {}) },
        marks: [
          known(dense.value) ? Plot.ruleY([dense.value], { stroke: "var(--ink)", strokeDasharray: "2 3" }) : null,
          ...ratios.flatMap((ratio) => {
            const points = own.filter((cell) => cell.ratio === ratio), { stroke, symbol } = looks.get(ratio);
            return [Plot.line(points, { x: (cell) => 100 * cell.keep, y: "value", z: kindsOf, stroke, strokeOpacity: 0.45 }), Plot.dot(points, { x: (cell) => 100 * cell.keep, y: "value", fill: stroke, symbol, r: 5, stroke: "var(--panel)" })];
          }),
          tip(own, { x: (cell) => 100 * cell.keep, y: "value", title: (cell) => `${named(cell)}\n${metric} ${score(cell.value)}\n${percent(cell.keep)} of the parameters` }),
        ],
      });
    },
    rows: ({ kind }) => cellRows(cells.filter((cell) => kind === "every" || kindsOf(cell) === kind)),
    file: "cells.csv",
  });
  else section("against").append(empty("None of these cuts could be measured."));
}

if (section("path")) {
  const taken = steps.filter((step) => step.taken);
  const trials = steps.map((step, index) => ({ ...step, trial: index + 1 }));
  const scored = trials.filter((step) => known(step.value));
  const where = (step) => `${step.kind} of block ${step.block}${new Set(steps.map(({ stack }) => stack)).size > 1 ? ` of ${step.stack}` : ""}, ratio ${step.ratio}`;
  figure(section("path"), {
    options: [{ key: "y", label: "Shown", kind: "radio", value: "value", options: [["value", metric ?? "score"], ["parameters", "parameters"]] }],
    title: ({ y }) => {
      if (!taken.length) return `None of ${steps.length} trials was taken: every cut costs something`;
      const last = taken[taken.length - 1];
      return y === "value" ? `${taken.length} of ${steps.length} trials were taken, to ${metric} ${score(last.value)} on the data that the search looks at`
        : `${taken.length} of ${steps.length} trials were taken, down to ${short(last.parameters)} parameters from ${short(dense.parameters)}`;
    },
    text: () => "Each trial cuts one matrix of one block further, on top of what was taken; it is taken where the score is at least as good.",
    legend: () => [legendKey("taken", { stroke: "var(--c1)", symbol: "circle" }), legendKey("left", { stroke: "var(--c2)", symbol: "cross", plain: true }),
      ...(DATA.start ? [legendKey("dense, on the same data", { stroke: "currentColor", dash: "2 3" })] : [])],
    draw: ({ y }, width) => {
      if (!scored.length) return empty("No trial could be measured.");
      const kept = scored.filter((step) => step.taken), left = scored.filter((step) => !step.taken);
      const values = kept.length ? kept.map((step) => step[y]) : scored.map((step) => step[y]);
      const reach = d3.quantile(left.map((step) => step[y]).sort(d3.ascending), lower ? 0.9 : 0.1);
      const from = known(DATA.start?.[y]) ? DATA.start[y] : undefined;
      const [low, high] = d3.extent([...values, ...(known(reach) ? [reach] : []), ...(from === undefined ? [] : [from])]);
      const room = (high - low || Math.abs(high) || 1) * 0.08;
      return plot({
        width, x: { label: "trial", domain: [0, steps.length + 1] },
        y: { label: y === "value" ? metric : "parameters", domain: [low - room, high + room], clamp: true, nice: false, ...(y === "parameters" ? { tickFormat: short } : {}) },
        marks: [
          ...(from === undefined ? [] : [Plot.ruleY([from], { stroke: "currentColor", strokeDasharray: "2 3" })]),
          Plot.dot(left, { x: "trial", y, stroke: "var(--c2)", symbol: "times", r: 3.5 }),
          Plot.line(kept, { x: "trial", y, stroke: "var(--c1)", strokeWidth: 2, curve: "step-after" }),
          Plot.dot(kept, { x: "trial", y, fill: "var(--c1)", r: 4, stroke: "var(--panel)" }),
          tip(scored, { x: "trial", y, title: (step) => `${step.trial}: ${where(step)}\n${metric} ${score(step.value)}${step.taken ? ", taken" : ""}` }),
        ],
      });
    },
    rows: () => ({ head: ["trial", "matrix", "parameters", metric ?? "score", "loss", "taken", "failed"],
      rows: trials.map((step) => [step.trial, where(step), step.parameters.toLocaleString("en"), score(step.value), score(step.loss), step.taken ? "yes" : "", step.error ?? ""]) }),
    file: "steps.csv",
  });
  if (DATA.found) {
    const { found } = DATA;
    section("path").append(el("div", { class: "card" }, el("h3", {}, "What the search came to, on data that it did not look at"), table({
      caption: "The search's result and the dense model", head: ["model", metric ?? "score", "loss", "parameters", "of the model", "weights cut"],
      rows: [["dense", dense], ["found", found]].map(([name, cell]) => [name, score(cell.value), score(cell.loss), cell.parameters.toLocaleString("en"), percent(cell.keep), cell.cut]),
    })));
  }
}

if (section("continued")) {
  const every = [...cells, ...(DATA.found && DATA.found.continuations.length ? [{ ...DATA.found, isFound: true }] : [])];
  const ratios = [...new Set(cells.map((cell) => String(cell.ratio)))];
  const layers = [...new Set(cells.map(layersOf))];
  const pick = (state) => every.filter((cell) => cell.isFound || ((state.ratio === "every" || String(cell.ratio) === state.ratio)
    && (state.layers === "every" || layersOf(cell) === state.layers) && (state.kind === "every" || kindsOf(cell) === state.kind)));
  const all = (values, what) => values.length > 1 ? [["every", what], ...values.map((value) => [value, value])] : [["every", what]];
  const prompt = (place) => prompts[place].length > 60 ? prompts[place].slice(0, 60) + "…" : prompts[place];
  const before = (state) => dense.continuations[Number(state.prompt)] ?? "";
  figure(section("continued"), {
    options: [
      { key: "prompt", label: "Prompt", value: "0", options: prompts.map((_, place) => [String(place), `${place + 1}: ${prompt(place)}`]) },
      { key: "ratio", label: "Ratio", value: "every", options: all(ratios, "every ratio") },
      { key: "layers", label: "Layers", value: "every", options: all(layers, "every choice") },
      { key: "kind", label: "Kinds of matrix", value: kinds[0] ?? "every", options: all(kinds, "every choice") },
    ],
    title: (state) => {
      const own = pick(state).filter((cell) => !cell.error);
      const same = own.filter((cell) => cell.continuations[Number(state.prompt)] === before(state)).length;
      return own.length ? `${same} of ${own.length} models continue this prompt as the dense one does` : "No model continues this prompt";
    },
    text: () => "Greedy continuations. Marked: what differs from the dense model's, from the first other word on.",
    draw: (state) => {
      const place = Number(state.prompt), from = before(state);
      const card = (name, small, nodes) => el("div", {}, el("h4", {}, name, el("small", {}, small)), el("p", { class: "said", dir: "auto" }, nodes));
      const shown = [card("dense", known(dense.value) ? `${metric} ${score(dense.value)}` : "", [from.trimStart()])];
      for (const cell of pick(state)) {
        const small = [known(cell.value) ? `${metric} ${score(cell.value)}` : null, `${percent(cell.keep)} left`].filter(Boolean).join(", ");
        const text = cell.continuations[place];
        const { said, nodes } = differing((text ?? "").trimStart(), from.trimStart());
        shown.push(cell.error || !known(text) ? card(cell.isFound ? "found by the search" : named(cell), cell.error ? `failed: ${cell.error}` : "nothing", [])
          : card(cell.isFound ? "found by the search" : named(cell), `${small}; ${said}`, nodes));
      }
      return el("div", {}, el("p", { class: "said prompt", dir: "auto" }, el("b", {}, "Prompt: "), prompts[place]), el("div", { class: "sides" }, shown));
    },
    rows: (state) => ({ head: ["model", "continuation"],
      rows: [["dense", before(state)], ...pick(state).map((cell) => [cell.isFound ? "found by the search" : named(cell), cell.continuations[Number(state.prompt)] ?? ""])] }),
    file: "sweep.json",
  });
}
