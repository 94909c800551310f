// Keen's clients before keen-tracking and keen-analysis, keen-js 3 and keen.io, in Node, against the service: what came back, as JSON.
// node js_older_clients.cjs BASE_URL PROJECT READ WRITE MASTER COLLECTION, in a folder where both packages are installed.
"use strict";
const [baseUrl, projectId, readKey, writeKey, masterKey, collection] = process.argv.slice(2);
const KeenJs = require("keen-js"), KeenIo = require("keen.io");
const keys = { projectId, readKey, writeKey, masterKey };
const js = new KeenJs({ ...keys, protocol: "http", host: baseUrl.replace("http://", "") + "/3.0" });
const io = KeenIo.configure({ ...keys, baseUrl: baseUrl + "/" });
const said = call => new Promise(resolve => call((error, answer) => resolve(error ? error.message : answer)));
const few = { eventCollection: collection, targetProperty: "amount", timeframe: "this_2_days" };

async function main() {
  const out = {
    js_single: await said(done => js.addEvent(collection, { amount: 1 }, done)),
    io_single: await said(done => io.addEvent(collection, { amount: 2 }, done)),
    js_bulk: await said(done => js.addEvents({ [collection]: [{ amount: 4 }] }, done)),
    io_bulk: await said(done => io.events.insert(projectId, [{ collection, data: { amount: 8 } }], done)),
    js_view: (await said(done => js.get(js.url(`/events/${collection}`), null, masterKey, done))).properties.amount,
    io_view: (await said(done => io.collections.view(projectId, collection, done))).properties.amount,
    io_project: (await said(done => io.projects.list(done)))[0].id,
    io_extraction: (await said(done => io.queries.extraction(projectId, collection, { property_names: ["amount"] }, done))).result.length,
    io_property: await said(done => io.properties.view(projectId, collection, "amount", done)),
    js_saved: await said(done => js.savedQueries().get("monthly", done)),
  };
  for (const [kind, more] of [["sum", {}], ["select_unique", {}], ["percentile", { percentile: 100 }], ["sum", { groupBy: "amount" }]]) {
    const name = kind + (more.groupBy ? "_grouped" : "");
    out["js_" + name] = await said(done => js.run(new KeenJs.Query(kind, { ...few, ...more }), done));
    out["io_" + name] = await said(done => io.run(new KeenIo.Query(kind, { ...few, ...more }), done));
  }
  await said(done => js.del(js.url(`/events/${collection}?filters=` + encodeURIComponent(JSON.stringify(
    [{ property_name: "amount", operator: "gt", property_value: 2 }]))), null, masterKey, done));
  out.js_left = (await said(done => js.run(new KeenJs.Query("count", { eventCollection: collection }), done))).result;
  await said(done => io.collections.remove(projectId, collection, done));
  out.io_left = (await said(done => io.run(new KeenIo.Query("count", { eventCollection: collection }), done))).result;
  console.log(JSON.stringify(out));
}
main();
