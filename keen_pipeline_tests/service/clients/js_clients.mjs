// Keen's own JavaScript clients, in Node, against the service: what came back is printed as JSON for the test to compare.
// node js_clients.mjs SERVICE_HOST PROJECT READ WRITE MASTER COLLECTION, in a folder where both packages are installed.
import https from "node:https";
import http from "node:http";
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const [host, projectId, readKey, writeKey, masterKey, collection] = process.argv.slice(2);

// keen-analysis speaks TLS only and neither client knows a port: both are led to the service, which has none on loopback.
const [hostname, port] = host.split(":");
const plain = http.request;
http.request = https.request = (options, callback) => plain({ ...options, host: undefined, hostname, port, agent: undefined }, callback);

const loaded = name => { const module = require(name); return module.default || module; };
const KeenTracking = loaded("keen-tracking"), KeenAnalysis = loaded("keen-analysis");
const tracking = new KeenTracking({ projectId, writeKey, host, protocol: "http" });
const analysis = new KeenAnalysis({ projectId, readKey, masterKey, host, protocol: "https" });
const out = {};

out.single = await tracking.recordEvent(collection, { amount: 1, buyer: { email: "a@example.com" } });
out.bulk = await tracking.recordEvents({ [collection]: [{ amount: 2 }, { amount: 4, tags: ["x"] }] });
tracking.deferEvent(collection, { amount: 8 });
await tracking.recordDeferredEvents();
out.refused = await tracking.recordEvent("_refused", { a: 1 }).then(() => "taken", error => error.error_code || String(error));

const common = { event_collection: collection, timeframe: "this_2_days" };
const kinds = {
  count: {}, count_unique: { target_property: "amount" }, select_unique: { target_property: "amount" }, sum: { target_property: "amount" },
  minimum: { targetProperty: "amount" }, maximum: { target_property: "amount" }, average: { target_property: "amount" },
  median: { target_property: "amount" }, percentile: { target_property: "amount", percentile: 100 },
};
for (let attempt = 0; attempt < 100; attempt++) {  // what was deferred is sent in its own time
  if ((await analysis.query("count", common)).result >= 4) break;
  await new Promise(resolve => setTimeout(resolve, 50));
}
for (const [kind, more] of Object.entries(kinds)) out[kind] = (await analysis.query(kind, { ...common, ...more })).result;
out.filtered = (await analysis.query("count", { ...common, filters: [{ propertyName: "amount", operator: "gt", propertyValue: 2 }] })).result;
out.metadata = (await analysis.query({ analysisType: "count", eventCollection: collection, timeframe: "this_2_days", includeMetadata: true })).result;
out.extraction = (await analysis.query("extraction", { ...common, property_names: ["amount"], latest: 2 })).result.map(e => e.amount);
out.saved = await analysis.query({ savedQueryName: "monthly" }).then(() => "found", error => error.code || String(error));
out.funnel = await analysis.query("funnel", { steps: [] }).then(() => "found", error => error.code || String(error));
await analysis.del({
  url: analysis.url("events", collection), api_key: masterKey, timeframe: "this_2_days",
  filters: [{ propertyName: "amount", operator: "eq", propertyValue: 8 }],
});
out.left = (await analysis.query("count", common)).result;
console.log(JSON.stringify(out));
process.exit(0);  // the clients leave a connection open, which keeps Node until the service ends it, after 75 s
