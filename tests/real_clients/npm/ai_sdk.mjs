// Vercel's AI SDK: node ai_sdk.mjs URL MODEL
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const edge = createOpenAICompatible({
  name: "edge", baseURL: `${url}/v1`, supportsStructuredOutputs: true, includeUsage: true,
});
const model = edge(name);
const prompt = "Who are you?";

const plain = await generateText({ model, prompt, temperature: 0, maxRetries: 0 });
assert.match(plain.text, /edge-llm/);
assert.equal(plain.finishReason, "stop");
assert.ok(plain.usage.outputTokens > 5);

const stream = streamText({ model, prompt, temperature: 0, maxRetries: 0 });
const texts = [];
for await (const text of stream.textStream) texts.push(text);
assert.ok(texts.length > 5);
assert.match(texts.join(""), /edge-llm/);
assert.ok((await stream.usage).outputTokens > 5);

const schema = z.object({ mood: z.enum(["happy", "sad"]), strength: z.int().min(0).max(9) });
const structured = await generateText({ model, prompt, output: Output.object({ schema }), maxRetries: 0 });
schema.parse(structured.output);

const cities = [];
const weather = tool({
  description: "What the weather is like",
  inputSchema: z.object({ city: z.enum(["Berlin", "Rome"]) }),
  execute: async ({ city }) => { cities.push(city); return "It rains."; },
});
const called = await generateText({
  model, prompt, tools: { weather }, toolChoice: "required", maxRetries: 0,
});
assert.equal(called.finishReason, "tool-calls");
assert.ok(["Berlin", "Rome"].includes(cities[0]));
const steps = await generateText({
  model, prompt, tools: { weather }, stopWhen: stepCountIs(2), maxRetries: 0,
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "auto" : "required" }),
});
assert.equal(steps.steps.length, 2);
