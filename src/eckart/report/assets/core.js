"use strict";
/* Elements, figures with pickers, tables. All that comes from the data goes in as text. */

const DATA = JSON.parse(document.getElementById("data").textContent);

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
};

const known = (value) => value !== null && value !== undefined;

/* Whole percents from 10 on, below two digits; what is nearly all is not all. */
const percent = (share) => {
  if (!known(share)) return "–";
  const value = 100 * share;
  if (value === 0) return "0%";
  if (Math.abs(value) >= 10) return value.toFixed((value >= 99 && value < 100) || (value > 100 && value < 101) ? 1 : 0) + "%";
  return Number(value.toPrecision(2)).toLocaleString("en", { maximumFractionDigits: 8 }) + "%";
};

/* In a sentence nobody needs more than that it is next to nothing. */
const about = (share) => known(share) && share > 0 && share < 1e-3 ? "under 0.1%" : percent(share);

const figureOf = (value, count = 4) => {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(count - 2).replace("e", " e");
  return Number(value.toPrecision(Math.max(count, Math.ceil(Math.log10(size))))).toLocaleString("en", { maximumFractionDigits: 8 });
};

const scaled = (units, space) => (number) => {
  if (!known(number)) return "–";
  for (const [unit, name] of units) {
    if (Math.abs(number) >= 0.9995 * unit) return Number((number / unit).toPrecision(3)) + space + name;
  }
  return Math.round(number).toLocaleString("en");
};
const short = scaled([[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]], "");
const bytes = scaled([[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]], "\u00a0");

const median = (values) => d3.median(values.filter(known));
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const listed = (words) => words.length < 2 ? words.join("") : words.slice(0, -1).join(", ") + " and " + words[words.length - 1];

/* A picker: a select, or radio buttons where there are few options and they are short. */
let pickers = 0;
function picker({ label, options, value, kind = "select", change }) {
  const name = `picker-${++pickers}`;
  if (kind === "radio") {
    const inputs = options.map(([key, text]) => {
      const input = el("input", { type: "radio", name, value: key, checked: key === value });
      input.addEventListener("change", () => input.checked && change(key));
      return el("label", {}, input, el("span", {}, text));
    });
    return el("fieldset", { class: "picker radios" }, el("legend", {}, label), el("div", {}, inputs));
  }
  const select = el("select", { id: name });
  const fill = (list, chosen) => {
    select.replaceChildren(...list.map(([key, text]) => el("option", { value: key, selected: key === chosen }, text)));
    select.value = chosen;
  };
  fill(options, value);
  select.addEventListener("change", () => change(select.value));
  const whole = el("div", { class: "picker" }, el("label", { for: name }, label), select);
  whole.fill = fill;
  return whole;
}

function table({ head, rows, caption }) {
  const cell = (content) => content instanceof Node ? content : String(content ?? "–");
  return el(
    "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((content, place) => place
        ? el("td", {}, cell(content)) : el("th", { scope: "row" }, cell(content)))))),
    ),
  );
}

/* A figure: the point of it in its heading, pickers, the chart, and its data as a table.

   options: pickers, each with key, label, options, value and kind.
   title, text: of the state, the sentence that is the point and a line that says what is drawn.
   draw: of the state and the width, the chart; an SVG gets the title as its label.
   rows: of the state, head and rows of its table.
   file: the file beside the page with the same data. */
function figure(into, { options = [], title, text, legend, draw, rows, file, wide = false }) {
  const state = Object.fromEntries(options.map(({ key, value }) => [key, value]));
  const head = el("h3"), line = el("p", { class: "what" }), keys = el("div", { class: "legend" }), box = el("div", { class: "chart" });
  const body = el("div");
  const beside = file && el("p", { class: "file" }, "The whole of it: ", el("code", {}, file), " beside this page.");
  const details = rows && el(
    "details", {},
    el("summary", {}, "The figures as a table"), body, beside,
  );
  const controls = options.filter((option) => option.options.length > 1).map((option) => picker({
    ...option, change: (value) => { state[option.key] = value; redraw(); },
  }));
  const whole = el("figure", { class: wide ? "wide" : "" }, el("figcaption", {}, head, line),
    controls.length ? el("div", { class: "pickers" }, controls) : null, keys, box, details ?? beside);
  let drawn = 0;
  const fill = () => {
    if (!details || !details.open) return;
    body.replaceChildren(table({ caption: title(state), ...rows(state) }));
  };
  const redraw = () => {
    drawn = box.clientWidth;
    if (!drawn) return;
    const said = title(state);
    head.textContent = said;
    line.textContent = text ? text(state) : "";
    line.hidden = !line.textContent;
    keys.replaceChildren(...(legend ? legend(state) : []));
    const chart = draw(state, drawn);
    box.replaceChildren(chart);
    for (const svg of chart instanceof SVGElement ? [chart] : chart.querySelectorAll(":scope svg.plot")) {
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", [svg.dataset.part, said].filter(Boolean).join(": "));
      // Within a picture there is nothing that has a name of its own: its figures are in the table below it.
      for (const part of svg.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label");
    }
    fill();
  };
  if (details) details.addEventListener("toggle", () => details.open ? fill() : body.replaceChildren());
  into.append(whole);
  redraw();
  new ResizeObserver(() => { if (box.clientWidth !== drawn) redraw(); }).observe(box);
  return { state, redraw, whole };
}

const section = (id) => document.getElementById(id);
const empty = (text) => el("p", { class: "empty" }, text);
