// Runs the scripts of the pages that show what extensions draw, in a window made of records, and acts out both ends.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const [folder] = process.argv.slice(2);
const plain = (value) => JSON.parse(JSON.stringify(value));

function open(page, search) {
  const html = fs.readFileSync(path.join(folder, page), "utf8");
  const script = html.match(/<script>([\s\S]*)<\/script>/)[1];
  const told = { host: [], guest: [] };
  const shown = [];
  const listeners = [];
  const host = { postMessage: (data, target) => told.host.push([plain(data), target]) };
  const element = (tag) => ({
    tag,
    attributes: {},
    setAttribute(name, value) {
      this.attributes[name] = value;
    },
    remove() {
      shown.splice(shown.indexOf(this), 1);
    },
    contentWindow: { postMessage: (data, target) => told.guest.push([plain(data), target]) },
  });
  vm.runInNewContext(script, {
    URL,
    URLSearchParams,
    location: { search, origin: "http://127.0.0.1:3000" },
    document: { createElement: element, body: { append: (made) => shown.push(made) } },
    window: { parent: host, addEventListener: (_, listener) => listeners.push(listener) },
  });
  const send = (source, data) => listeners.forEach((listener) => listener({ source, data }));
  return { told, shown, send, host };
}

// HTML: the page says that it is ready, shows what it is given without an origin, and relays between its two ends.
{
  const { told, shown, send, host } = open("mcp_ui.html", "?secret=s&contentType=rawhtml");
  assert.deepEqual(told.host, [[{ type: "ui-proxy-iframe-ready" }, "*"]]);
  assert.equal(shown[0].attributes.sandbox, "allow-scripts");
  const sandbox = "allow-scripts allow-same-origin allow-forms allow-top-navigation-by-user-activation";
  send(host, { type: "ui-html-content", payload: { html: "<b>x</b>", sandbox } });
  assert.equal(shown[0].srcdoc, "<b>x</b>");
  assert.equal(shown[0].attributes.sandbox, "allow-scripts allow-forms");
  send(host, { to: "guest" });
  send(shown[0].contentWindow, { to: "host" });
  send({}, { from: "somebody else" });
  assert.deepEqual(told.guest, [[{ to: "guest" }, "*"]]);
  assert.deepEqual(told.host[1], [{ to: "host" }, "*"]);
  assert.equal(told.host.length, 2);
}

// An address: a frame of its own origin, to which alone messages go.
{
  const { told, shown, send, host } = open("mcp_ui.html", "?secret=s&url=https%3A%2F%2Fexample.com%2Fview");
  assert.equal(shown[0].src, "https://example.com/view");
  send(host, { to: "guest" });
  assert.deepEqual(told.guest, [[{ to: "guest" }, "https://example.com"]]);
}

// What must not be shown, is not.
for (const url of ["javascript:alert(1)", "data:text/html,x", "http://127.0.0.1:3000/config", "no address"]) {
  const { shown } = open("mcp_ui.html", `?secret=s&url=${encodeURIComponent(url)}`);
  assert.deepEqual(shown.map(({ tag }) => tag), ["p"], url);
}
assert.equal(open("mcp_ui.html", "?secret=s").shown[0].tag, "p");

// An app: announced, shown with the features that it asked for, replaced by the next one.
{
  const { told, shown, send, host } = open("mcp_app.html", "?secret=s");
  const ready = { jsonrpc: "2.0", method: "ui/notifications/sandbox-proxy-ready", params: {} };
  assert.deepEqual(told.host, [[ready, "*"]]);
  const method = "ui/notifications/sandbox-resource-ready";
  const permissions = { camera: {}, clipboardWrite: {}, bluetooth: {} };
  send(host, { jsonrpc: "2.0", method, params: { html: "<i>1</i>", permissions } });
  assert.equal(shown[0].srcdoc, "<i>1</i>");
  assert.equal(shown[0].attributes.sandbox, "allow-scripts allow-forms");
  assert.equal(shown[0].attributes.allow, "camera; clipboard-write");
  send(host, { jsonrpc: "2.0", id: 1, result: {} });
  assert.deepEqual(told.guest, [[{ jsonrpc: "2.0", id: 1, result: {} }, "*"]]);
  send(shown[0].contentWindow, { jsonrpc: "2.0", id: 2, method: "ui/initialize" });
  send({}, { from: "somebody else" });
  assert.equal(told.host.length, 2);
  send(host, { jsonrpc: "2.0", method, params: { html: "<i>2</i>" } });
  assert.deepEqual(shown.map(({ srcdoc }) => srcdoc), ["<i>2</i>"]);
}
console.log("ok");
