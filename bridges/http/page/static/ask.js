// The box to try a preset or send a prompt.

import { make } from "./charts.js";
import { ask, objects, refusal } from "./connection.js";
import { capital, plural, seconds, speed } from "./words.js";

const find = (id) => document.getElementById(id);

export class Box {
  constructor(speak) {
    this.speak = speak;
    this.running = null;
    find("try").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.running) this.#send();
    });
    find("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("try").requestSubmit();
    });
    find("cancel").addEventListener("click", () => this.running?.abort());
  }

  get isEmpty() { return !this.running && !find("prompt").value; }

  offer(presets, preferred) {
    const names = preferred ? presets : ["", ...presets];
    const select = find("preset");
    if (names.join("\n") !== this.names) {
      this.names = names.join("\n");
      select.replaceChildren(...names.map((name) => make("option", { value: name }, name || "none")));
      select.value = preferred || "";
    }
    find("preset-row").hidden = presets.length === 0;
  }

  async #send() {
    const open = (this.running = new AbortController());
    const [answer, about] = [find("answer"), find("answer-about")];
    this.#busy(true);
    answer.textContent = "";
    about.textContent = "Waiting for its turn …";
    try {
      const response = await ask("status/try", {
        method: "POST",
        signal: open.signal,
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ prompt: find("prompt").value, preset: find("preset").value || null }),
      });
      if (!response.ok) throw new Error(await refusal(response));
      for await (const event of objects(response)) this.#show(event, answer, about);
    } catch (error) {
      about.textContent = open.signal.aborted ? "Cancelled." : capital(error.message || "no connection");
      this.speak(about.textContent);
    } finally {
      this.running = null;
      this.#busy(false);
    }
  }

  #show(event, answer, about) {
    if (event.error) throw new Error(event.error.message);
    if (event.type === "started") about.textContent = "It thinks …";
    if (event.text) {
      answer.append(event.text);
      about.textContent = "…";
    }
    if (event.type === "done") {
      const { timing, usage } = event;
      about.textContent = [
        plural(usage.completion_tokens, "token"),
        timing.tokens_per_s && `${speed(timing.tokens_per_s)} tokens/s`,
        timing.ttft_s !== null && `first text after ${seconds(timing.ttft_s)}`,
        `${seconds(timing.total_s)} in all`,
        event.finish_reason !== "stop" && `ended by ${event.finish_reason}`,
      ].filter(Boolean).join(" · ");
      this.speak(`Answer: ${answer.textContent.slice(0, 500)}`);
    }
  }

  #busy(is) {
    const [from, to] = is ? [find("send"), find("cancel")] : [find("cancel"), find("send")];
    const hadFocus = document.activeElement === from; // which a disabled button loses
    find("said").hidden = false;
    [from.disabled, to.disabled] = [true, false];
    if (hadFocus) to.focus();
  }
}
