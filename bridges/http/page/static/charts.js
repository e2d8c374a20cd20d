// Curves, bars and the states, drawn as SVG. A screen reader has their summaries in words instead,
// and the numbers in tables and lists.

import { tone } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const GAP_S = 95; // readings come every 10 to 30 s; a longer silence is a gap
const LEFT = 30;
const BOTTOM = 18;
const TOP = 8;

export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
}

// A figure with a title, a summary and a drawing.
class Figure {
  constructor(parent, title, height) {
    this.height = height;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.svg.setAttribute("height", height);
    this.summary = make("span");
    this.figure = make("figure", {},
      make("figcaption", {}, make("h3", {}, title), this.summary), this.svg);
    parent.append(this.figure);
    new ResizeObserver(() => this.redraw?.()).observe(this.figure);
  }

  begin() {
    this.width = Math.max(this.figure.clientWidth, 200);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
  }

  tell(summary) {
    if (this.summary.textContent !== summary) this.summary.textContent = summary;
  }

  x(share) { return LEFT + share * (this.width - LEFT - 6); }

  axis(top, ticks) {
    for (const value of ticks) {
      const y = this.y(value, top);
      draw(this.svg, "line", { class: "grid", x1: LEFT, x2: this.width - 6, y1: y, y2: y });
      draw(this.svg, "text", { class: "end", x: LEFT - 5, y: y + 4 }, value);
    }
  }

  y(value, [low, high]) {
    const share = Math.min(Math.max((value - low) / (high - low), 0), 1);
    return Math.round((this.height - BOTTOM - share * (this.height - BOTTOM - TOP)) * 10) / 10;
  }

  minutes(spanS) {
    const step = this.width < 420 ? 1800 : 900;
    for (let s = spanS; s >= 0; s -= step) {
      const anchor = s === spanS ? "start" : s ? "middle" : "end";
      draw(this.svg, "text", { class: anchor, x: this.x(1 - s / spanS), y: this.height - 4 },
        s ? `−${s / 60} min` : "now");
    }
  }
}

export class Curve extends Figure {
  constructor(parent, title) { super(parent, title, 190); }

  // lines: [{name, points: [[at_s, value or null]]}]; marks: [{value, label}].
  draw({ lines, marks = [], range, ticks, nowS, spanS }) {
    this.redraw = () => this.draw({ lines, marks, range, ticks, nowS, spanS });
    this.begin();
    this.axis(range, ticks);
    this.minutes(spanS);
    for (const { value, label } of marks) {
      const y = this.y(value, range);
      draw(this.svg, "line", { class: "mark", x1: LEFT, x2: this.width - 6, y1: y, y2: y });
      draw(this.svg, "text", { class: "note", x: LEFT + 4, y: y - 3 }, label);
    }
    lines.forEach(({ points }, index) => {
      let path = "";
      let before = null;
      for (const [at, value] of points) {
        if (value === null || at < nowS - spanS) { before = null; continue; }
        const isNext = before !== null && at - before < GAP_S;
        const x = this.x(1 - (nowS - at) / spanS).toFixed(1);
        path += `${isNext ? "L" : "M"}${x} ${this.y(value, range)}${isNext ? "" : "h.1"}`;
        before = at;
      }
      if (path) draw(this.svg, "path", { class: `line line${index}`, d: path });
    });
  }
}

export class Bars extends Figure {
  constructor(parent, title) { super(parent, title, 110); }

  // values: [number, or null for none, or false for a failure], oldest first.
  draw({ values, places, digits }) {
    this.redraw = () => this.draw({ values, places, digits });
    this.begin();
    const highest = Math.max(0, ...values.map((value) => value || 0));
    const step = 10 ** Math.floor(Math.log10(highest || 1));
    const high = Math.ceil((highest || 1) / step) * step;
    this.axis([0, high], [0, Number(high.toFixed(digits))]);
    const width = (this.width - LEFT - 6) / places;
    values.forEach((value, index) => {
      const x = this.x((places - values.length + index) / places);
      const base = this.height - BOTTOM;
      if (value === false) draw(this.svg, "path", { class: "failure", d: `M${x + 1} ${base - 8}l6 6m0 -6l-6 6` });
      if (!value) return;
      const y = Math.min(this.y(value, [0, high]), base - 1);
      draw(this.svg, "rect", { class: "bar", x: x + 1, y, width: Math.max(width - 2, 1), height: base - y });
    });
    draw(this.svg, "text", { class: "end", x: this.width - 6, y: this.height - 4 }, "latest");
  }
}

export class States extends Figure {
  constructor(parent, title) { super(parent, title, 58); }

  draw({ spans, nowS, spanS }) {
    this.redraw = () => this.draw({ spans, nowS, spanS });
    this.begin();
    spans.forEach(({ at_s, word }, index) => {
      const end = index + 1 < spans.length ? spans[index + 1].at_s : nowS;
      const begin = Math.max(at_s, nowS - spanS);
      if (end <= begin) return;
      const x = this.x(1 - (nowS - begin) / spanS);
      const width = Math.max(this.x(1 - (nowS - end) / spanS) - x, 2);
      draw(this.svg, "rect", { class: `span ${tone(word)}`, x, y: TOP, width, height: 28 });
      if (width > 9 * word.length) draw(this.svg, "text", { class: "on", x: x + 6, y: TOP + 19 }, word);
    });
    this.minutes(spanS);
  }
}
