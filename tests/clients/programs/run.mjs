// Runs the cases of one client library of JavaScript's, as run.py does.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const QUESTION = [{ role: "user", content: "Say hello." }];
const MOST = 12;
const PROGRAMS = {
  "openai-node": {
    exports: "client, model",
    async ask({ client, model }) {
      const answer = await client.chat.completions.create({ model, messages: QUESTION, max_tokens: MOST });
      return [answer.choices[0].message.content, answer.usage.completion_tokens];
    },
    async stream({ client, model }, pieces) {
      let tokens = null;
      const asked = { model, messages: QUESTION, max_tokens: MOST, stream: true, stream_options: { include_usage: true } };
      for await (const chunk of await client.chat.completions.create(asked)) {
        pieces.push(...chunk.choices.map((choice) => choice.delta.content ?? ""));
        tokens = chunk.usage?.completion_tokens ?? tokens;
      }
      return tokens;
    },
  },
  "ai-sdk": {
    exports: "model",
    async ask({ model }) {
      const { generateText } = await import("ai");
      const answer = await generateText({ model, messages: QUESTION, maxOutputTokens: MOST });
      return [answer.text, answer.usage.outputTokens];
    },
    async stream({ model }, pieces) {
      const { streamText } = await import("ai");
      let failure = null;
      const answer = streamText({ model, messages: QUESTION, maxOutputTokens: MOST, onError: ({ error }) => { failure = error; } });
      for await (const piece of answer.textStream) pieces.push(piece);
      if (failure) throw failure;
      return (await answer.usage).outputTokens;
    },
  },
};

const name = process.argv[2];
const program = PROGRAMS[name];
// Below this folder, so that the settings find the packages.
const folder = new URL(`../node_modules/.cases-${process.pid}/`, import.meta.url);
mkdirSync(folder, { recursive: true });
try {
  for (const [number, [label, settings, key]] of JSON.parse(readFileSync(0, "utf8")).entries()) {
    process.env.API_KEY = key;
    const pieces = [];
    const found = { case: label };
    try {
      const file = new URL(`${number}.mjs`, folder);
      writeFileSync(file, `${settings}\nexport { ${program.exports} };\n`);
      const given = await import(file);
      if (label === "streamed" || label === "cut") {
        found.tokens = await program.stream(given, pieces);
      } else {
        const [text, tokens] = await program.ask(given);
        pieces.push(text);
        found.tokens = tokens;
      }
    } catch (error) {
      const last = error.lastError ?? error;
      Object.assign(found, {
        error: last.constructor.name, status: last.status ?? last.statusCode ?? null, message: String(last.message).slice(0, 500),
      });
    }
    found.text = pieces.join("");
    found.pieces = pieces.filter(Boolean).length;
    console.log(JSON.stringify(found));
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
