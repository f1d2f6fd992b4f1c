// The official TypeScript SDK as an editor of gander. The SDK checks every message against the protocol's schema.
//
// Usage: node acp.mjs MODULES WHERE WORK STAGE [SESSION]
//   MODULES  folder of the installed packages
//   WHERE    "stdio:COMMAND…" (JSON list), "http://…" or "ws://…"; the token is in ACP_TOKEN
//   STAGE    "first": everything in a new session, prints its id; "second": loads and resumes SESSION

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";

const [modules, where, work, stage, known] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(path.join(modules, file)));
const acp = await load("@agentclientprotocol/sdk/dist/v1/stable/acp.js");
const headers = { Authorization: `Bearer ${process.env.ACP_TOKEN ?? ""}` };

async function open() {
  if (where.startsWith("stdio:")) {
    const [program, ...args] = JSON.parse(where.slice("stdio:".length));
    const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    return acp.ndJsonStream(Writable.toWeb(child.stdin), Readable.toWeb(child.stdout));
  }
  if (where.startsWith("ws")) {
    const { createWebSocketStream } = await load("@agentclientprotocol/sdk/dist/transports/ws-stream.js");
    const WebSocket = createRequire(path.join(modules, "x.js"))("ws");
    return createWebSocketStream(where, { WebSocket, headers });
  }
  const { createHttpStream } = await load("@agentclientprotocol/sdk/dist/transports/http-stream.js");
  return createHttpStream(where, { headers });
}

const seen = [];
let questions = 0;
let decide = (options) => options[0];
let form = undefined;

const app = acp
  .client({ name: "bridge-tests" })
  .onRequest(acp.methods.client.session.requestPermission, ({ params }) => {
    questions += 1;
    assert.ok(params.toolCall.title, "the question speaks for itself");
    return { outcome: { outcome: "selected", optionId: decide(params.options).optionId } };
  })
  .onRequest(acp.methods.client.elicitation.create, ({ params }) => {
    form = params;
    return { action: "accept", content: { name: "Ada Lovelace", check: true } };
  })
  .onNotification(acp.methods.client.session.update, ({ params }) => {
    seen.push(params);
  });

const text = (id) =>
  seen
    .filter((n) => n.sessionId === id && n.update.sessionUpdate === "agent_message_chunk")
    .map((n) => n.update.content.text)
    .join("");

async function until(what, probe) {
  const end = Date.now() + 20_000;
  while (!probe()) {
    assert.ok(Date.now() < end, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

await app.connectWith(await open(), async (ctx) => {
  const { agent } = acp.methods;
  const hello = await ctx.request(agent.initialize, {
    protocolVersion: 1,
    clientInfo: { name: "bridge-tests", version: "1" },
    clientCapabilities: { elicitation: { form: {} }, session: { notices: {}, configOptions: { boolean: {} } } },
  });
  assert.equal(hello.protocolVersion, 1);
  assert.equal(hello.agentInfo.name, "gander");
  assert.ok(hello.authMethods.length > 0);
  await ctx.request(agent.authenticate, { methodId: hello.authMethods[0].id });
  const prompt = (sessionId, words) =>
    ctx.request(agent.session.prompt, { sessionId, prompt: [{ type: "text", text: words }] });

  if (stage === "second") {
    const answer = await ctx.request(agent.session.load, { sessionId: known, cwd: work, mcpServers: [] });
    assert.ok(answer.configOptions.length > 0);
    await until("the history", () => /hello from the sdk/.test(text(known)));
    await until("its messages", () => seen.some((n) => n.update.sessionUpdate === "user_message_chunk"));
    await until("its calls", () => seen.some((n) => n.update.sessionUpdate === "tool_call"));
    await until("its end", () => seen.some((n) => n.update.sessionUpdate === "available_commands_update"));
    seen.length = 0;
    await ctx.request(agent.session.resume, { sessionId: known, cwd: work, mcpServers: [] });
    assert.equal((await prompt(known, "say resumed")).stopReason, "end_turn");
    await until("the text", () => /resumed/.test(text(known)));
    assert.doesNotMatch(text(known), /hello from the sdk/);
    await ctx.request(agent.session.close, { sessionId: known });
    await ctx.request(agent.session.delete, { sessionId: known });
    return;
  }

  const session = await ctx.request(agent.session.new, { cwd: work, mcpServers: [] });
  const id = session.sessionId;
  assert.ok(session.configOptions.some((option) => option.category === "mode"));
  assert.equal((await prompt(id, "say hello from the sdk")).stopReason, "end_turn");
  // The SDK hands updates on beside the answers.
  await until("the text", () => /hello from the sdk/.test(text(id)));

  await ctx.request(agent.session.setConfigOption, { sessionId: id, configId: "mode", value: "approve" });
  const kind = (wanted) => (options) => options.find((option) => option.kind === wanted);
  const file = path.join(work, `sdk-${process.pid}.txt`);
  const write = `call developer__write ${JSON.stringify({ path: file, content: "x" })}`;
  decide = kind("reject_once");
  assert.equal((await prompt(id, write)).stopReason, "end_turn");
  assert.ok(!existsSync(file) && questions === 1);
  decide = kind("allow_once");
  assert.equal((await prompt(id, write)).stopReason, "end_turn");
  assert.ok(existsSync(file) && questions === 2);
  decide = kind("allow_always");
  await prompt(id, write);
  await prompt(id, write);
  assert.equal(questions, 3);
  await until("the change", () => seen.some((n) => n.update.content?.[0]?.type === "diff"));

  await ctx.request(agent.session.setMode, { sessionId: id, modeId: "auto" });
  const length = text(id).length;
  const running = prompt(id, "slow 100000");
  await until("the stream", () => text(id).length > length);
  await ctx.notify(agent.session.cancel, { sessionId: id });
  assert.equal((await running).stopReason, "cancelled");

  const everything = path.join(modules, "@modelcontextprotocol/server-everything/dist/index.js");
  if (existsSync(everything)) {
    const server = { name: "everything", command: process.execPath, args: [everything, "stdio"], env: [] };
    const asking = await ctx.request(agent.session.new, { cwd: work, mcpServers: [server] });
    const asked = prompt(asking.sessionId, "call everything__trigger-elicitation-request {}");
    await asked;
    assert.equal(form?.mode, "form");
    await until("the answer's way", () => seen.some((n) => JSON.stringify(n.update).includes("Ada Lovelace")));
  }
  const { sessions } = await ctx.request(agent.session.list, { cwd: work });
  assert.ok(sessions.some((info) => info.sessionId === id));
  await assert.rejects(prompt("nobody", "say x"), (error) => error.code === -32002);
  console.log(JSON.stringify({ sessionId: id }));
});
process.exit(0);
