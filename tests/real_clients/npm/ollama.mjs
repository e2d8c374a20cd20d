// Ollama's own client for JavaScript: node ollama.mjs URL MODEL
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const [host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: "user", content: "Who are you?" }];
const options = { temperature: 0 };

const { models } = await client.list();
assert.ok(models.some(({ name }) => [model, `${model}:latest`].includes(name)));
assert.ok((await client.show({ model })).details);

const answer = await client.chat({ model, messages, options });
assert.match(answer.message.content, /edge-llm/);
assert.ok(answer.eval_count > 5);

let text = "";
for await (const part of await client.chat({ model, messages, options, stream: true }))
  text += part.message.content;
assert.match(text, /edge-llm/);

const format = {
  type: "object", required: ["mood", "tired"],
  properties: { mood: { enum: ["happy", "sad"] }, tired: { type: "boolean" } },
};
const structured = await client.chat({ model, messages, format });
assert.ok(["happy", "sad"].includes(JSON.parse(structured.message.content).mood));

const generated = await client.generate({ model, prompt: "Who are you?", options });
assert.match(generated.response, /edge-llm/);
await assert.rejects(client.chat({ model: "no-such-model", messages }), { status_code: 404 });
