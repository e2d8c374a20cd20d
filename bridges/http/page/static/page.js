// The status page: takes the updates of the node, and shows what they say.

import { Box } from "./ask.js";
import { Bars, Curve, States, make } from "./charts.js";
import { Connection, key } from "./connection.js";
import { InHand, Recent, showEvents, showFleet, showReadings } from "./lists.js";
import { capital, clock, gib, plural, seconds, sentence, speed, tone } from "./words.js";

const find = (id) => document.getElementById(id);
const MAX_ENDED = 50;
const MAX_MARKS = 60;
const SPEAK_EVERY_MS = 3000; // no more often does a screen reader interrupt anybody

let node = null; // what the node has told; none before the first word
let lostAt = null;
let retryAt = 0;
let lostReason = "";

// ---- What a screen reader hears: changes of state, and the end of an answer that was asked for.

let spokenAt = 0;
let toSpeak = "";
function speak(text) {
  if (!toSpeak) {
    setTimeout(() => {
      find("spoken").textContent = toSpeak;
      [spokenAt, toSpeak] = [Date.now(), ""];
    }, Math.max(0, spokenAt + SPEAK_EVERY_MS - Date.now()));
  }
  toSpeak = text;
}

find("readings").addEventListener("toggle", () => node && showReadings(node.samples, wall));
const box = new Box(speak);
const inHand = new InHand();
const recent = new Recent();
const charts = {
  celsius: new Curve(find("curves"), "Temperature, °C"),
  memory: new Curve(find("curves"), "Memory, GiB"),
  states: new States(find("states"), "States"),
  speed: new Bars(find("speeds"), "Tokens per second"),
  first: new Bars(find("speeds"), "Time to first text, s"),
};

// ---- Time: the node's clock counts from its start, and may be wrong by years as a time of day.

const nowS = () => (Date.now() - node.beginMs) / 1000;
const wall = (atS) => node.beginMs + atS * 1000;

function take(update, isFirst) {
  const beginMs = Date.now() - update.now_s * 1000;
  if (isFirst) {
    if (node && node.about.page !== update.about.page && box.isEmpty) location.reload();
    node = { beginMs, said: new Map(), ended: [], samples: [], spans: [], marks: [] };
  }
  if (Math.abs(beginMs - node.beginMs) > 1500) node.beginMs = beginMs;
  const changed = new Set(Object.keys(update));
  for (const name of ["about", "state", "in_hand"]) if (update[name]) node[name] = update[name];
  for (const { number, start, text } of update.said || []) {
    node.said.set(number, (node.said.get(number) || "").slice(0, start) + text);
  }
  for (const number of node.said.keys()) {
    if (!node.in_hand.some((request) => request.number === number)) node.said.delete(number);
  }
  for (const name of ["ended", "samples", "spans", "marks"]) node[name].push(...(update[name] || []));
  trim();
  if (lostAt !== null) speak("Connected again.");
  lostAt = null;
  changed.forEach((name) => stale.add(name));
  stale.add("line");
  if (!frame) frame = requestAnimationFrame(render);
}

function trim() {
  const begin = nowS() - node.about.span_s;
  const drop = (list, isOld) => { while (list.length && isOld(list)) list.shift(); };
  drop(node.ended, (list) => list.length > MAX_ENDED);
  drop(node.samples, (list) => list[0].at_s < begin);
  drop(node.spans, (list) => list.length > 1 && list[1].at_s < begin);
  drop(node.marks, (list) => list.length > MAX_MARKS || list[0].at_s < begin);
}

// ---- Showing: at most once a frame, and only what has changed.

const stale = new Set();
let frame = 0;

function fill(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text;
}

function render() {
  frame = 0;
  if (!node) return;
  find("shown").hidden = false;
  find("key").hidden = true;
  find("forget").hidden = !key.get();
  if (stale.has("about")) showAbout();
  showWord();
  showBanner();
  inHand.show(node.in_hand, node.said, lostAt === null ? nowS() : (lostAt - node.beginMs) / 1000);
  if (stale.has("state") || stale.has("ended")) showFigures();
  if (stale.has("state") || stale.has("tick")) {
    showFleet(node.state.fleet, lostAt === null ? Math.max(0, nowS() - node.state.at_s) : 0, node.about.node);
  }
  if (stale.has("samples") || stale.has("about")) showCurves();
  if (stale.has("spans") || stale.has("marks") || stale.has("tick")) showStates();
  if (stale.has("ended")) showRecent();
  stale.clear();
}

function showAbout() {
  const { about } = node;
  document.title = `${about.node} · edge-llm`;
  fill("node", about.node);
  const models = about.models.map((model) => model.id).join(", ");
  fill("about", [models || "no model yet", `edge-llm ${about.version}`].join(" · "));
  find("hidden-texts").hidden = about.texts;
  box.offer(about.presets, about.default_preset);
}

let lastNews = "";
function showWord() {
  const { state, activity, health } = node.state;
  const isLost = lostAt !== null;
  // "loading 3/37" is a word and how far it is.
  const [name, progress] = isLost ? ["no connection", ""] : activity.split(" ");
  const word = find("word");
  const text = capital(name) + (progress ? ` ${progress}` : "");
  if (word.lastElementChild.textContent !== text) word.lastElementChild.textContent = text;
  word.className = tone(name);
  const elsewhere = node.about.is_here || node.state.fleet ? "" : " The node is elsewhere; its own page says more.";
  fill("sentence", isLost
    ? `Below is how it was at ${clock(lostAt)}.` : sentence(activity) + (state === "ready" ? elsewhere : ""));
  const attention = health?.attention || "";
  find("attention").hidden = !attention;
  fill("attention", attention);
  if (isLost) return; // said when it happened
  // To and fro between idle and generating is no news.
  const news = ["good", "busy"].includes(tone(name)) ? "" : name;
  if (news !== lastNews) speak(`${capital(name)}. ${sentence(activity)} ${attention}`.trim());
  lastNews = news;
}

function showBanner() {
  find("banner").hidden = lostAt === null;
  if (lostAt === null) return;
  fill("lost", `No connection since ${clock(lostAt)}.`);
  const s = Math.ceil((retryAt - Date.now()) / 1000);
  fill("again", `${lostReason} ${s > 0 ? `Trying again in ${s} s.` : "Trying again."}`.trim());
}

function figures() {
  const { health } = node.state;
  const answered = node.ended.filter((request) => request.ttft_s !== null).at(-1);
  const latest = [
    ["Tokens/s", speed(health?.tokens_per_s ?? answered?.tokens_per_s), "latest answer"],
    ["First text", answered ? seconds(answered.ttft_s) : "–", "latest answer"],
  ];
  if (!health) return latest;
  const { queue, card, host, counts } = health;
  const failed = Object.entries(counts.requests)
    .filter(([outcome]) => !["stop", "length", "tool_calls", "time_budget", "cancelled"].includes(outcome));
  const sum = (pairs) => pairs.reduce((total, [, count]) => total + count, 0);
  const all = sum(Object.entries(counts.requests));
  const holds = queue.holds.length ? `; held: ${queue.holds.join(", ")}` : "";
  return [
    ["Waiting", String(queue.waiting), `${queue.running} running, at most ${queue.limit}${holds}`],
    card ? celsius("Card", card.temperature_celsius, card.answers ? health.heat || "AX650" : "does not answer", HEAT[health.heat])
      : celsius("Host", host?.temperature_celsius, "no card"),
    card ? memory("CMM", card.cmm_used_mib, card.cmm_total_mib)
      : memory("Memory", host && host.memory_total_mib - host.memory_available_mib, host?.memory_total_mib),
    ...latest,
    ["Requests", String(all), `${sum(failed)} failed; up ${seconds(health.uptime_s)}`],
  ];
}

const HEAT = { hot: "warn", critical: "bad", emergency: "bad" };
const celsius = (name, value, more, tone = "") =>
  [name, value === null || value === undefined ? "–" : `${Math.round(value)} °C`, more, tone];
const memory = (name, used, total) =>
  [name, used === null || !total ? "–" : `${gib(used)} GiB`, total ? `of ${gib(total)} GiB` : "not known"];

function showFigures() {
  const list = find("figures");
  const all = figures();
  if (list.children.length !== all.length) {
    list.replaceChildren(...all.map(() =>
      make("div", {}, make("dt"), make("dd", { class: "value" }), make("dd", { class: "small" }))));
  }
  all.forEach(([name, value, more, tone = ""], index) => {
    const cells = list.children[index].children;
    [name, value, more].forEach((text, part) => {
      if (cells[part].textContent !== text) cells[part].textContent = text;
    });
    cells[1].className = `value ${tone}`;
  });
}

function range(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? [Math.min(...known), Math.max(...known)] : null;
}

function hour(name, unit, digits = 0) {
  const values = range(node.samples.map((sample) => sample[name]));
  if (!values) return "";
  const last = node.samples.at(-1)[name];
  const now = last === null ? "not known now" : `${last.toFixed(digits)} ${unit} now`;
  const [low, high] = values.map((value) => value.toFixed(digits));
  return low === high ? now : `${now}, ${low} to ${high} in the last hour`;
}

function showCurves() {
  const { samples, about } = node;
  const common = { nowS: nowS(), spanS: about.span_s };
  const points = (name, factor = 1) =>
    samples.map((sample) => [sample.at_s, sample[name] === null ? null : sample[name] * factor]);
  const total = node.state.health?.card?.cmm_total_mib;
  const hasCard = samples.some((sample) => sample.card_celsius !== null) || Boolean(total);
  find("curves").hidden = !about.is_here;
  const celsius = ["card_celsius", "host_celsius"].flatMap((name) => samples.map((sample) => sample[name]));
  const [low, high] = range(celsius) || [30, 90];
  const [bottom, top] = [Math.min(30, Math.floor(low / 10) * 10), Math.max(90, Math.ceil(high / 10) * 10)];
  charts.celsius.draw({
    ...common, range: [bottom, top], ticks: [bottom, 50, 70, top],
    lines: [{ points: hasCard ? points("card_celsius") : [] }, { points: points("host_celsius") }],
    marks: hasCard && about.thermal
      ? ["warn", "hot", "critical", "emergency"].map((label) => ({ value: about.thermal[label], label })) : [],
  });
  const words = [hasCard && ["Card", "card_celsius"], ["Host", "host_celsius"]].filter(Boolean)
    .map(([name, field]) => [name, hour(field, "°C")]).filter(([, text]) => text);
  charts.celsius.tell(words.map(([name, text]) => `${name}: ${text}.`).join(" ") || "No reading yet.");
  const field = hasCard ? "cmm_used_mib" : "host_used_mib";
  const limit = hasCard ? total : node.state.health?.host?.memory_total_mib;
  const most = (limit || 1024) / 1024;
  charts.memory.draw({
    ...common, range: [0, most], ticks: [0, Number((most / 2).toFixed(1)), Number(most.toFixed(1))],
    lines: [{ points: points(field, 1 / 1024) }],
  });
  const text = hour(field, "MiB");
  charts.memory.tell(text ? `${hasCard ? "CMM of the card" : "Host"}: ${text}.` : "No reading yet.");
  find("readings").hidden = samples.length === 0;
  showReadings(samples, wall);
}

function showStates() {
  const { spans, marks, about } = node;
  const at = lostAt === null ? nowS() : (lostAt - node.beginMs) / 1000;
  charts.states.draw({ spans, nowS: at, spanS: about.span_s });
  const words = [...new Set(spans.map((span) => span.word))].join(", ");
  charts.states.tell(`${capital(spans.at(-1)?.word || "unknown")} now; in the last hour: ${words}; ${plural(
    marks.filter((mark) => mark.kind === "fault").length, "fault")}.`);
  showEvents(spans, marks, wall, at);
}

function showRecent() {
  const { ended } = node;
  recent.show(ended, wall);
  find("speeds").hidden = ended.length === 0;
  const bars = (chart, field, digits, shown) => {
    const values = ended.map((request) => (request.has_failed ? false : request[field]));
    chart.draw({ values, places: MAX_ENDED, digits });
    const told = values.filter((value) => value !== false && value !== null);
    const [low, high] = range(told) || [];
    chart.tell(told.length ? `${shown(low)} to ${shown(high)}, latest ${shown(told.at(-1))}.` : "Not known.");
  };
  bars(charts.speed, "tokens_per_s", 2, speed);
  bars(charts.first, "ttft_s", 3, seconds);
}

// ---- Beginning.

const connection = new Connection({
  update: take,
  lost(reason, inS) {
    if (lostAt === null) speak("No connection.");
    lostAt ??= Date.now();
    retryAt = Date.now() + inS * 1000;
    lostReason = reason && `${capital(reason)}.`;
    if (node) render();
    else showBanner();
  },
  locked(reason) {
    find("shown").hidden = true;
    find("banner").hidden = true;
    find("key").hidden = false;
    lostAt = null;
    fill("key-wrong", reason && `${capital(reason)}.`);
    find("key-input").focus();
  },
});

find("retry").addEventListener("click", () => connection.now());
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(find("key-input").value.trim(), find("key-keep").checked);
  find("key-input").value = "";
  connection.now();
});
find("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});
setInterval(() => {
  if (!node) return lostAt !== null && showBanner();
  stale.add("tick");
  if (Math.floor(nowS()) % 10 === 0) stale.add("samples");
  render();
}, 1000);
connection.now();
