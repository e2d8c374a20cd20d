// What is said in words: states, times, amounts. No text of others passes through here.

const SENTENCES = {
  idle: "Nothing to do. It answers at once.",
  queued: "A request is about to begin.",
  generating: "An answer is being given.",
  loading: "The model is being loaded; requests wait.",
  cooling: "The card is too hot. Requests wait until it has cooled.",
  paused: "It was told to pause. Requests are taken, and wait.",
  reloading: "The model is about to be loaded again; requests wait.",
  draining: "It ends what it has in hand, and takes nothing new.",
  recovering: "Engine or card failed, and are being brought back; requests wait.",
  failed: "The card failed for good. A person is needed.",
  offline: "What generates is elsewhere, and can't be reached.",
  stopping: "The node is being stopped.",
};

const TONES = {
  idle: "good", ready: "good", generating: "busy", queued: "busy",
  loading: "warn", cooling: "warn", paused: "warn", reloading: "warn", draining: "warn",
  hot: "warn", critical: "bad", emergency: "bad",
  recovering: "bad", failed: "bad", offline: "bad", stopping: "bad", "no connection": "bad",
};

export const sentence = (activity) => SENTENCES[activity.split(" ")[0]] || "";
export const tone = (word) => TONES[word.split(" ")[0]] || TONES[word] || "warn";
export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);
export const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.005) return "0 s";
  if (s < 10) return `${s.toFixed(s < 1 ? 2 : 1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const gib = (mib) => (mib / 1024).toFixed(1);
export const speed = (v) => (v === null || v === undefined ? "–" : v < 100 ? v.toFixed(1) : v.toFixed(0));

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
export const clock = (ms) => CLOCK.format(ms);

const DOORS = { mqtt: "MQTT", http: "HTTP", osc: "OSC" };
export const door = (request) =>
  [DOORS[request.via] || request.via, request.id].filter(Boolean).join(" ") || "–";
