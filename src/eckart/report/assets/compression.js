"use strict";
/* The page of a compressed model. */

const TARGETS = DATA.targets;
const smaller = (target) => Math.max(1, Math.min(target.out, target.in));
const kinds = [...new Set(TARGETS.map((target) => target.kind))];
const looks = new Map(kinds.map((kind, index) => [kind, look(index)]));
const QUANTITIES = {
  kept: { name: "Parameters kept", of: (target) => target.after / Math.max(1, target.before), format: percent },
  rank: { name: "Rank", of: (target) => target.rank, format: (value) => known(value) ? String(value) : "dense" },
  share: { name: "Rank, share of the smaller side", of: (target) => known(target.rank) ? target.rank / smaller(target) : null, format: (value) => known(value) ? percent(value) : "dense" },
  predicted: { name: "Predicted error", of: (target) => target.predicted, format: percent },
  measured: { name: "Measured error", of: (target) => target.measured, format: percent },
};
const kindsIn = (own) => kinds.filter((kind) => own.some((target) => target.kind === kind));
const offered = Object.entries(QUANTITIES).filter(([, { of }]) => TARGETS.some((target) => known(of(target))));
const targetRows = () => ({
  head: ["weight", "out × in", "form", ...offered.map(([, { name }]) => name)],
  rows: TARGETS.map((target) => [target.name, `${target.out} × ${target.in}`, target.structure === "dense" && known(target.rank) ? "product" : target.structure, ...offered.map(([, { of, format }]) => format(of(target)))]),
});

const extremes = (of, format) => {
  const sorted = d3.sort(d3.rollups(TARGETS.filter((target) => known(of(target))), (own) => d3.median(own, of), (target) => target.kind), (pair) => pair[1]);
  return sorted.length < 2 || sorted[0][1] === sorted[sorted.length - 1][1] ? null : [sorted[0], sorted[sorted.length - 1]].map(([kind, value]) => `${kind} (${format(value)})`);
};
const sentence = (of) => {
  const { of: value, format, name } = QUANTITIES[of];
  const values = TARGETS.map(value).filter(known), ends = extremes(value, format);
  const [low, high] = d3.extent(values);
  if (!values.length) return `${name}: not known`;
  const words = { kept: ["kept least of itself", "most"], rank: ["has the least rank", "the most"], share: ["has the least rank for its size", "the most"],
    predicted: ["was predicted to lose least", "most"], measured: ["lost least", "most"] }[of];
  if (ends) return `${ends[0]} ${words[0]}, ${ends[1]} ${words[1]}`;
  if (low === high) return `Every weight has the same: ${name.toLowerCase()} ${format(low)}`;
  return `${name} goes from ${format(low)} to ${format(high)}`;
};

if (offered.length) {
  figure(section("maps"), {
    options: [{ key: "of", label: "Shown", value: "kept", options: offered.map(([key, { name }]) => [key, name]) }],
    title: ({ of }) => sentence(of),
    text: ({ of }) => `${QUANTITIES[of].name} of each weight, by block and kind; the sentence compares medians of kinds.`,
    draw: ({ of }, width) => heatMap({
      cells: TARGETS.map((target) => ({ ...target, block: target.block ?? "–", value: QUANTITIES[of].of(target) })),
      format: QUANTITIES[of].format, width, caption: QUANTITIES[of].name, log: of === "predicted" || of === "measured",
    }),
    rows: targetRows,
    file: "targets.csv",
  });

  const deep = TARGETS.filter((target) => target.block !== null);
  if (new Set(deep.map((target) => target.block)).size > 1) {
    const stacks = [...new Set(deep.map((target) => target.stack))];
    const measures = offered.filter(([key]) => key !== "kept").concat(offered.filter(([key]) => key === "kept"));
    const own = (stack, of) => deep.filter((target) => target.stack === stack && known(QUANTITIES[of].of(target)));
    figure(section("pair"), {
      options: [
        { key: "of", label: "Shown", value: measures.some(([key]) => key === "rank") ? "rank" : measures[0][0], options: measures.map(([key, { name }]) => [key, name]) },
        { key: "stack", label: "Stack", value: stacks[0], options: stacks.map((stack) => [stack, stack]) },
      ],
      title: ({ of, stack }) => {
        const points = own(stack, of), { format, name } = QUANTITIES[of];
        const last = d3.max(points, (target) => target.block), half = last / 2;
        if (!points.length) return `${name} by depth: not known`;
        const [early, late] = [points.filter((target) => target.block < half), points.filter((target) => target.block > half)].map((part) => d3.mean(part, QUANTITIES[of].of));
        if (!known(early) || !known(late)) return `${name} by depth`;
        if (Math.abs(early - late) <= 0.02 * Math.max(Math.abs(early), Math.abs(late))) return `${name} hardly changes with depth: ${format(roundly(of, early))} on average`;
        return `${name} ${early > late ? "falls" : "rises"} with depth: ${format(roundly(of, early))} on average in the first half, ${format(roundly(of, late))} in the second`;
      },
      text: ({ of }) => `${QUANTITIES[of].name} against the block, a line for each kind.`,
      legend: ({ of, stack }) => kindsIn(own(stack, of)).map((kind) => legendKey(kind, looks.get(kind))),
      draw: ({ of, stack }, width) => {
        const points = own(stack, of), { format, of: value } = QUANTITIES[of];
        if (!points.length) return empty("There is nothing to show for this choice.");
        return plot({
          width, height: Math.round(Math.max(260, Math.min(400, width * 0.7))),
          x: { label: "block", ticks: Math.min(d3.max(points, (target) => target.block) + 1, Math.floor(width / 40)), tickFormat: "d", interval: 1 },
          y: { label: null, tickFormat: of === "rank" ? "d" : percent, zero: of !== "rank" },
          marks: [
            ...kinds.flatMap((kind) => {
              const line = d3.sort(points.filter((target) => target.kind === kind), (target) => target.block), { stroke, dash, symbol } = looks.get(kind);
              return line.length ? [Plot.line(line, { x: "block", y: value, stroke, strokeDasharray: dash, strokeWidth: 1.75 }),
                Plot.dot(line, { x: "block", y: value, fill: stroke, symbol, r: 3.5 })] : [];
            }),
            tip(points, { x: "block", y: value, title: (target) => `${target.name}\n${format(value(target))}` }),
          ],
        });
      },
      rows: targetRows,
      file: "targets.csv",
    });
  }
} else {
  section("maps").append(empty("No weight was replaced."));
}
function roundly(of, value) { return of === "rank" ? Math.round(value) : value; }

if (TARGETS.some((target) => known(target.measured))) {
  const both = TARGETS.filter((target) => target.predicted > 0 && target.measured > 0);
  const worst = d3.greatest(both, (target) => Math.abs(Math.log(target.measured / target.predicted)));
  if (both.length) figure(section("pair"), {
    options: [{ key: "scale", label: "Axes", kind: "radio", value: "log", options: [["log", "log"], ["linear", "linear"]] }],
    title: () => {
      const off = Math.abs(worst.measured / worst.predicted - 1);
      return off < 0.01 ? `Every weight lost what was predicted, to ${off < 0.001 ? "0.1%" : percent(off)}`
        : `${worst.name} is furthest from its prediction: ${percent(worst.measured)} where ${percent(worst.predicted)} was expected`;
    },
    text: () => "Relative error in the recipe's metric: predicted from the spectrum, and measured on the factors as saved. On the line the two are equal.",
    legend: () => kindsIn(both).map((kind) => legendKey(kind, { ...looks.get(kind), plain: true })),
    draw: ({ scale }, width) => {
      const values = both.flatMap((target) => [target.predicted, target.measured]);
      const [low, high] = d3.extent(values);
      const log = scale === "log", domain = log ? [low / 1.08, high * 1.08] : [0, high * 1.05];
      const axis = log ? logarithmic(domain, percent) : { domain, tickFormat: percent };
      const side = Math.min(width, 620);
      return plot({
        width: side, height: Math.round(Math.max(260, Math.min(400, side * 0.8))), x: { label: "predicted error", ...axis, ticks: axis.ticks ?? 5 }, y: { label: "measured error", ...axis, nice: false },
        marks: [
          Plot.line([[domain[0], domain[0]], [domain[1], domain[1]]], { stroke: "var(--soft)", strokeDasharray: "4 3" }),
          ...kinds.map((kind) => {
            const { stroke, symbol } = looks.get(kind);
            return Plot.dot(both.filter((target) => target.kind === kind), { x: "predicted", y: "measured", fill: stroke, symbol, r: 4.5, stroke: "var(--panel)", strokeWidth: 0.75 });
          }),
          tip(both, { x: "predicted", y: "measured", title: (target) => `${target.name}\npredicted ${percent(target.predicted)}\nmeasured ${percent(target.measured)}` }),
        ],
      });
    },
    rows: targetRows,
    file: "targets.csv",
  });
}

const held = DATA.heldOut;
if (held) {
  const tried = held.candidates.length ? held.candidates : [];
  const chosen = d3.least(tried, (candidate) => candidate.divergence);
  /* Of an encoder there is no loss but how far it has moved. */
  const moved = held.before > 0 ? `the loss went from ${figureOf(held.before)} to ${figureOf(held.after)}` : `the divergence from the dense model is ${figureOf(held.divergence)}`;
  const card = (into) => into.append(el("div", { class: "card" },
    el("h3", {}, `On data that nothing was calibrated on, ${moved}`),
    el("p", { class: "what" }, held.before > 0 ? "The loss in nats a token, the divergence too." : "1 − the correlation of cosines between embeddings with the dense model's."),
    table({ caption: "Held-out data", head: ["model", ...(held.before > 0 ? ["loss"] : []), "divergence from dense"],
      rows: [["dense", ...(held.before > 0 ? [figureOf(held.before)] : []), "0"], ["compressed", ...(held.before > 0 ? [figureOf(held.after)] : []), figureOf(held.divergence)]] })));
  if (tried.length < 2) card(section("losses"));
  else figure(section("losses"), {
    options: [{ key: "of", label: "Shown", kind: "radio", value: "divergence", options: held.before > 0 ? [["divergence", "divergence"], ["loss", "loss"]] : [["divergence", "divergence"]] }],
    title: () => {
      const other = d3.greatest(tried, (candidate) => candidate.divergence);
      return `Of ${tried.length} allocations, ${chosen.name} moved the model least: ${figureOf(chosen.divergence, 3)}, where ${other.name} would have moved it by ${figureOf(other.divergence, 3)}`;
    },
    text: ({ of }) => `Measured on ${short(held.tokens)} held-out tokens. In the end ${moved}${of === "loss" ? " (line: dense)" : ""}.`,
    draw: ({ of }, width) => plot({
      width, height: 44 + 34 * tried.length + 30, marginLeft: Math.min(170, 14 + 6.6 * d3.max(tried, (candidate) => candidate.name.length)), marginTop: 10,
      x: { label: of === "loss" ? "loss, nats a token" : "divergence from dense", grid: true, nice: true, tickFormat: (value) => figureOf(value, 3) },
      y: { type: "point", domain: d3.sort(tried, (candidate) => candidate[of]).map((candidate) => candidate.name), label: null, grid: false, tickSize: 0 },
      marks: [
        of === "loss" ? Plot.ruleX([held.before], { stroke: "var(--ink)", strokeDasharray: "2 3" }) : null,
        Plot.dot(tried, { x: of, y: "name", fill: (candidate) => candidate === chosen ? "var(--c2)" : "var(--c1)", symbol: (candidate) => candidate === chosen ? "star" : "circle", r: (candidate) => candidate === chosen ? 7 : 5 }),
        tip(tried, { x: of, y: "name", title: (candidate) => `${candidate.name}\n${figureOf(candidate[of])}` }),
      ], symbol: { type: "identity" }, r: { type: "identity" },
    }),
    legend: () => [legendKey("taken", { stroke: "var(--c2)", symbol: "star", plain: true }), legendKey("tried", { stroke: "var(--c1)", symbol: "circle", plain: true })],
    rows: () => ({ head: ["candidate", "divergence", "loss", "taken"], rows: tried.map((candidate) => [candidate.name, figureOf(candidate.divergence), figureOf(candidate.loss), candidate === chosen ? "yes" : ""]) }),
    file: "manifest.json",
  });
}

const runs = DATA.training.filter((run) => run.losses.length);
if (runs.length) figure(section("losses"), {
  options: [{ key: "run", label: "Training", value: "0", options: runs.map((run, place) => [String(place), `${place + 1}: ${run.purpose}`]) },
    { key: "y", label: "Loss", kind: "radio", value: "linear", options: [["linear", "linear"], ["log", "log"]] }],
  title: ({ run }) => {
    const { losses, purpose, tokens } = runs[Number(run)];
    const [first, last] = [losses[0][1], losses[losses.length - 1][1]];
    return `${purpose === "recovery" ? "Training" : purpose} took the loss from ${figureOf(first, 3)} to ${figureOf(last, 3)} in ${short(tokens)} tokens`;
  },
  text: () => "Training loss against the step: each point the mean of the steps since the one before.",
  draw: ({ run, y }, width) => {
    const points = runs[Number(run)].losses.map(([step, loss]) => ({ step, loss })).filter(({ loss }) => known(loss) && (y === "linear" || loss > 0));
    if (!points.length) return empty("No loss was written down.");
    return plot({ width, x: { label: "step" }, y: { label: "loss", ...(y === "log" ? logarithmic(points.map(({ loss }) => loss), (value) => figureOf(value, 3)) : {}) },
      marks: [Plot.line(points, { x: "step", y: "loss", stroke: "var(--c1)", strokeWidth: 2 }), points.length < 40 ? Plot.dot(points, { x: "step", y: "loss", fill: "var(--c1)", r: 3 }) : null,
        tip(points, { x: "step", y: "loss", title: ({ step, loss }) => `step ${step}\nloss ${figureOf(loss)}` })] });
  },
  rows: ({ run }) => ({ head: ["step", "loss"], rows: runs[Number(run)].losses.map(([step, loss]) => [step, figureOf(loss)]) }),
  file: "manifest.json",
});

if (section("samples")) {
  const { samples } = DATA;
  const compared = samples.filter((sample) => sample.before !== null);
  const same = compared.filter((sample) => sample.before === sample.after).length;
  figure(section("samples"), {
    title: () => compared.length ? `${same} of ${compared.length} prompts ${compared.length === 1 ? "is" : "are"} continued as before` : `What the compressed model writes behind ${samples.length === 1 ? "a prompt" : `${samples.length} prompts`}`,
    text: () => `Greedy continuations.${compared.length ? " Marked: what differs from the dense model's, from the first other word on." : ""}`,
    draw: () => el("div", {}, samples.map((sample) => {
      const side = (name, note, nodes) => el("div", {}, el("h4", {}, name, note ? el("small", {}, note) : null), el("p", { class: "said", dir: "auto" }, nodes));
      const { said, nodes } = differing(sample.after.trimStart(), (sample.before ?? sample.after).trimStart());
      return el("div", { class: "sample" }, el("p", { class: "said prompt", dir: "auto" }, el("b", {}, "Prompt: "), sample.prompt),
        el("div", { class: "sides" }, sample.before === null ? null : side("dense", "", [sample.before.trimStart()]),
          side("compressed", sample.before === null ? "" : said, nodes)));
    })),
    rows: () => ({ head: ["prompt", "dense", "compressed"], rows: samples.map((sample) => [sample.prompt, sample.before, sample.after]) }),
    file: "samples.json",
  });
}
