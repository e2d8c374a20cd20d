// OpenAI's own client for JavaScript: node openai.mjs URL MODEL
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "-", maxRetries: 0 });
const messages = [{ role: "user", content: "Who are you?" }];

const completion = await client.chat.completions.create({ model, messages, temperature: 0 });
assert.match(completion.choices[0].message.content, /edge-llm/);
assert.ok(completion.usage.total_tokens > 5);

let text = "";
const stream = await client.chat.completions.create({
  model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
assert.match(text, /edge-llm/);

const Answer = z.object({ mood: z.enum(["happy", "sad"]), strength: z.int().min(0).max(9) });
const parsed = await client.chat.completions.parse({
  model, messages, response_format: zodResponseFormat(Answer, "answer"),
});
Answer.parse(parsed.choices[0].message.parsed);

const parameters = {
  type: "object", properties: { city: { enum: ["Berlin", "Rome"] } }, required: ["city"],
};
const called = await client.chat.completions.create({
  model, messages, tool_choice: "required",
  tools: [{ type: "function", function: { name: "get_weather", parameters } }],
});
const [call] = called.choices[0].message.tool_calls;
assert.ok(["Berlin", "Rome"].includes(JSON.parse(call.function.arguments).city));

const runner = client.chat.completions.stream({ model, messages, temperature: 0 });
assert.match(await runner.finalContent(), /edge-llm/);

const response = await client.responses.create({ model, input: "Who are you?", temperature: 0 });
assert.match(response.output_text, /edge-llm/);

await assert.rejects(
  client.chat.completions.create({ model: "no-such-model", messages }), OpenAI.NotFoundError,
);
