// Calls every operation of a running server with openapi-fetch. `schema.ts` is what openapi-typescript makes of the
// server's OpenAPI document, so the compiler checks each request and each use of an answer.
//
// Usage: node client.js URL MODEL VERSION

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const [url, model, version] = process.argv.slice(2) as [string, string, string];
const called = new Set<string>();
const client = createClient<paths>({ baseUrl: url });
client.use({
  onResponse({ request, schemaPath, response }) {
    called.add(`${request.method} ${schemaPath}`);
    assert.equal(response.status, 200, `${request.method} ${schemaPath}`);
    assert.equal(response.headers.get("x-model-version"), version);
  },
});

/** Returns the answer, which is typed as the document says, or fails. */
function answer<T>({ data }: { data?: T }): T {
  assert.notEqual(data, undefined);
  return data as T;
}

/** Narrows the answers of an operation with several types of content. */
function infers(data: components["schemas"]["InferResponse"] | string) {
  assert(typeof data !== "string");
  return data;
}

for (const health of [
  answer(await client.GET("/livez")),
  answer(await client.GET("/readyz")),
  answer(await client.GET("/startupz")),
]) {
  assert.match(health.status, /live|ready|started/);
}
assert.equal(answer(await client.GET("/health")).model_version, version);
assert.equal(answer(await client.GET("/v2/health/live")).live, true);
assert.equal(answer(await client.GET("/v2/health/ready")).ready, true);
assert.deepEqual(answer(await client.GET("/v2")).extensions, ["binary_tensor_data"]);
assert.match(answer(await client.GET("/metrics", { parseAs: "text" })), /model_server_ready 1/);
assert.match(answer(await client.GET("/docs", { parseAs: "text" })), /<html/);
const document = answer(await client.GET("/openapi.json"));

const one = answer(await client.POST("/predict", { body: { text: "a fine film", top_k: 2 } }));
assert("prediction" in one && one.prediction === "positive" && one.scores?.length === 2);
const several = answer(await client.POST("/predict", { body: { texts: ["a fine film", " "] } }));
assert("predictions" in several && several.predictions.length === 2);
const [fine, blank] = several.predictions;
assert(fine && "prediction" in fine && !fine.truncated && blank && "error" in blank);

const tensor = { name: "text", shape: [1], datatype: "BYTES" };
const text = new TextEncoder().encode("a fine film");
const data = new Uint8Array([text.length, 0, 0, 0, ...text]);
const head = new TextEncoder().encode(
  JSON.stringify({
    inputs: [{ ...tensor, parameters: { binary_data_size: data.length } }],
  } satisfies components["schemas"]["InferRequest"]),
);
for (const [path, inPath] of [
  ["/v2/models/{model}", { model, version: "" }],
  ["/v2/models/{model}/versions/{version}", { model, version }],
] as const) {
  const params = { path: inPath };
  const metadata = answer(await client.GET(path, { params }));
  assert(metadata.inputs.some((input) => input.name === "text" && input.shape[0] === -1));
  assert.equal(answer(await client.GET(`${path}/ready`, { params })).ready, true);
  const outputs = [{ name: "label" }, { name: "logits", parameters: { binary_data: false } }];
  const inputs = [{ ...tensor, data: ["a fine film"] }];
  const inferred = infers(answer(await client.POST(`${path}/infer`, { params, body: { inputs, outputs } })));
  assert.deepEqual(inferred.outputs[0]?.data, ["positive"]);
  const binary = await client.POST(`${path}/infer`, {
    params: { path: inPath, header: { "inference-header-content-length": head.length } },
    headers: { "content-type": "application/octet-stream" },
    body: "",
    bodySerializer: () => new Uint8Array([...head, ...data]),
  });
  assert.equal(infers(answer(binary)).outputs[0]?.data?.[0], "positive");
}

const operations = Object.entries(document.paths as Record<string, object>).flatMap(([path, methods]) =>
  Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
);
assert.deepEqual([...called].sort(), operations.sort());
console.log(`openapi-typescript and openapi-fetch: ${called.size} operations answered typed calls`);
