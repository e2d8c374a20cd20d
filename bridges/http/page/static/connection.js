// The line to the node: one stream of updates, opened again whenever it breaks.
//
// EventSource can't send a key, so the stream is read from a fetch.

const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 15;
const SILENCE_S = 40; // the node says something every 15 s
const HIDDEN_S = 60; // a page that nobody looks at gives its place to another one
const NAME = "edge-llm-key";

export const key = {
  get: () => sessionStorage.getItem(NAME) || localStorage.getItem(NAME),
  set(value, keep) {
    this.forget();
    (keep ? localStorage : sessionStorage).setItem(NAME, value);
  },
  forget() {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
  },
};

export function ask(path, options = {}) {
  const headers = { Accept: "text/event-stream", ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  return fetch(path, { cache: "no-store", ...options, headers });
}

export async function refusal(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message || `the node answered ${response.status}`;
}

// Yields the objects of a stream; onSound hears of pings, too.
export async function* objects(response, onSound = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onSound();
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (frame.startsWith("data: ")) yield JSON.parse(frame.slice(6));
    }
  }
}

// Calls back: update(object, isFirst), lost(reason, seconds until the next try), locked(reason).
export class Connection {
  constructor(callbacks) {
    this.callbacks = callbacks;
    this.waitS = FIRST_WAIT_S;
    this.open = null; // what ends the stream
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("online", () => this.now());
  }

  now() {
    clearTimeout(this.timer);
    this.waitS = FIRST_WAIT_S;
    if (!this.open) this.#run();
  }

  close() {
    clearTimeout(this.timer);
    this.open?.abort();
  }

  async #run() {
    const open = (this.open = new AbortController());
    let watch;
    const onSound = () => {
      clearTimeout(watch);
      watch = setTimeout(() => open.abort(), SILENCE_S * 1000);
    };
    let wait = { reason: "", s: 0 };
    try {
      onSound();
      const response = await ask("status", { signal: open.signal });
      if (response.status === 401) {
        this.callbacks.locked(key.get() ? await refusal(response) : "");
        return;
      }
      if (response.ok) {
        let isFirst = true;
        for await (const update of objects(response, onSound)) {
          this.waitS = FIRST_WAIT_S;
          this.callbacks.update(update, isFirst);
          isFirst = false;
        }
      } else {
        wait = { reason: await refusal(response), s: Number(response.headers.get("Retry-After")) };
      }
    } catch {
      // No connection, or no longer: it is the same.
    } finally {
      clearTimeout(watch);
      if (this.open === open) this.open = null;
    }
    if (!this.isAway) this.#again(wait);
  }

  #again(wait) {
    const s = Math.max(wait.s || 0, this.waitS * (0.75 + Math.random() / 2));
    this.waitS = Math.min(2 * this.waitS, LONGEST_WAIT_S);
    this.timer = setTimeout(() => this.#run(), s * 1000);
    this.callbacks.lost(wait.reason, s);
  }

  #seen() {
    clearTimeout(this.away);
    if (document.hidden) {
      this.away = setTimeout(() => {
        this.isAway = true;
        this.close();
      }, HIDDEN_S * 1000);
    } else if (this.isAway) {
      this.isAway = false;
      this.now();
    }
  }
}
