// Requests in hand, what happened, and recent requests: rows are made once and then only filled.

import { make } from "./charts.js";
import { clock, door, plural, seconds, speed, tone } from "./words.js";

const find = (id) => document.getElementById(id);
const FEW = 10;
const MAX_EVENTS = 12;

function fill(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Shows a list of texts in the children of a node, of which there are then as many.
function fillAll(parent, texts, makeChild) {
  while (parent.children.length > texts.length) parent.lastElementChild.remove();
  while (parent.children.length < texts.length) parent.append(makeChild());
  texts.forEach((text, index) => fill(parent.children[index], text));
}

export class InHand {
  constructor() {
    this.title = make("p", { class: "title" });
    this.facts = make("p", { class: "facts" });
    this.text = make("p", { class: "text" });
    find("current").append(this.title, this.facts, this.text);
  }

  show(requests, said, nowS) {
    const current = requests.find((request) => request.started_at_s !== null);
    const others = requests.filter((request) => request !== current);
    find("current").className = current ? "active" : "";
    fill(this.title, current ? `Request ${current.number}` : "No request is being answered.");
    fill(this.facts, current ? [door(current), ...this.#facts(current, nowS)].join(" · ") : "");
    const text = (current && said.get(current.number)) || "";
    this.text.hidden = !text;
    fill(this.text, text);
    find("waiting").hidden = others.length === 0;
    fillAll(find("waiting"), others.map((request) => this.#waits(request, nowS)), () => make("li"));
  }

  #facts(request, nowS) {
    if (request.first_at_s === null) return [`working on it for ${seconds(nowS - request.started_at_s)}`];
    const speakingS = nowS - request.first_at_s;
    const facts = [request.tokens ? plural(request.tokens, "token") : plural(request.chars, "character")];
    if (request.tokens > 1 && speakingS > 0.2) facts.push(`${speed((request.tokens - 1) / speakingS)} tokens/s`);
    return [...facts, seconds(nowS - request.at_s)];
  }

  #waits(request, nowS) {
    const what = request.started_at_s !== null ? "held" : request.position ? `place ${request.position}` : "waits";
    return `${request.number} · ${door(request)} · ${what} · ${seconds(Math.max(0, nowS - request.at_s))}`;
  }
}

// Each fourth reading, the latest first; made only while it is looked at.
export function showReadings(samples, wall) {
  if (!find("readings").open) return;
  const rows = samples.filter((_, index) => (samples.length - 1 - index) % 4 === 0).reverse();
  const body = find("readings").querySelector("tbody");
  body.replaceChildren(...rows.map((sample) => make("tr", {}, make("td", {}, clock(wall(sample.at_s))),
    ...["card_celsius", "cmm_used_mib", "host_celsius", "host_used_mib"].map((name) =>
      make("td", { class: "num" }, String(sample[name] ?? "–"))))));
}

// States and faults in one list, the latest first.
export function showEvents(spans, marks, wall, nowS) {
  const states = spans.map((span, index) => ({
    at: span.at_s, tag: span.word, tone: tone(span.word),
    text: index + 1 < spans.length
      ? `for ${seconds(spans[index + 1].at_s - span.at_s)}` : `for ${seconds(nowS - span.at_s)}, until now`,
  }));
  const troubles = marks.map((mark) => ({
    at: mark.at_s, tag: mark.kind, tone: mark.kind === "fault" ? "bad" : "warn",
    text: `${mark.word}: ${mark.text}`,
  }));
  const all = [...states, ...troubles].sort((a, b) => b.at - a.at).slice(0, MAX_EVENTS);
  const list = find("events");
  while (list.children.length > all.length) list.lastElementChild.remove();
  while (list.children.length < all.length) list.append(make("li", {}, make("time"), make("b"), make("span")));
  all.forEach((event, index) => {
    const [time, tag, text] = list.children[index].children;
    fill(time, clock(wall(event.at)));
    fill(tag, event.tag);
    if (tag.className !== event.tone) tag.className = event.tone;
    fill(text, event.text);
  });
}

// The nodes of a fleet, and what waits for them.
export function showFleet(fleet, ageS, here) {
  find("fleet").hidden = !fleet;
  if (!fleet) return;
  const { waiting, oldest_s, held } = fleet;
  const oldest = oldest_s === null ? "" : `, the oldest for ${seconds(Math.floor(oldest_s + ageS))}`;
  fill(find("fleet-depth"), !fleet.is_known ? "No connection to the fleet. Below is how it was."
    : waiting === null ? "No node of it is there."
    : `${waiting ? plural(waiting, "request") : "No request"} waiting${oldest}; ${held} in hand.`);
  const body = find("fleet-nodes").tBodies[0];
  while (body.rows.length > fleet.nodes.length) body.lastElementChild.remove();
  while (body.rows.length < fleet.nodes.length) {
    body.append(make("tr", {}, make("th", { scope: "row" }), make("td", {}, make("b")),
      make("td", { class: "num" }), make("td", { class: "num wide" }), make("td")));
  }
  fleet.nodes.forEach((node, index) => {
    const [name, does, hand, card, models] = body.rows[index].cells;
    const activity = node.joined === false ? "not in the fleet" : node.activity || "–";
    fill(name, node.node + (node.node === here ? " (this one)" : ""));
    fill(does.firstElementChild, activity);
    does.firstElementChild.className = node.joined === false ? "bad" : tone(activity);
    fill(hand, String(node.held ?? "–"));
    fill(card, node.card_celsius === null ? "–" : String(Math.round(node.card_celsius)));
    fill(models, node.attention || node.models.join(", ") || "none yet");
  });
}

export class Recent {
  constructor() {
    this.isLong = false;
    this.body = find("recent").tBodies[0];
    find("more").addEventListener("click", () => {
      this.isLong = !this.isLong;
      find("more").setAttribute("aria-expanded", String(this.isLong));
      this.again?.();
    });
  }

  show(ended, wall) {
    this.again = () => this.show(ended, wall);
    const rows = [...ended].reverse().slice(0, this.isLong ? ended.length : FEW);
    find("none").hidden = ended.length > 0;
    find("recent").hidden = ended.length === 0;
    find("more").hidden = ended.length <= FEW;
    fill(find("more"), this.isLong ? "Show fewer" : `Show all ${ended.length}`);
    const wanted = rows.flatMap((request) => (request.prompt === undefined ? [request] : [request, null]));
    while (this.body.rows.length > wanted.length) this.body.lastElementChild.remove();
    while (this.body.rows.length < wanted.length) this.body.append(make("tr"));
    let request;
    wanted.forEach((item, index) => {
      request = item || request;
      const row = this.body.rows[index];
      if (item) this.#row(row, request, wall);
      else this.#texts(row, request);
    });
  }

  #row(row, request, wall) {
    const cells = [
      [String(request.number)], [clock(wall(request.ended_at_s))], [door(request), "wide"],
      [request.outcome, request.has_failed ? "bad" : ""],
      [String(request.completion_tokens), "num"], [seconds(request.queue_s), "num wide"],
      [seconds(request.ttft_s), "num wide"], [seconds(request.total_s), "num"],
      [speed(request.tokens_per_s), "num wide"],
    ];
    if (row.cells.length !== cells.length) row.replaceChildren(...cells.map(() => make("td")));
    row.className = "";
    cells.forEach(([text, name = ""], index) => {
      fill(row.cells[index], text);
      row.cells[index].className = name;
    });
  }

  #texts(row, request) {
    if (row.cells.length !== 1) {
      row.replaceChildren(make("td", { colspan: "9" }, make("p", { class: "asked" }), make("p", { class: "told" })));
    }
    row.className = "texts";
    const [asked, told] = row.cells[0].children;
    fill(asked, request.prompt);
    fill(told, request.answer || "");
  }
}
