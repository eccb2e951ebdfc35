// Node-RED without its editor. Its MQTT node acknowledges a message as it hands it on, and has no way to wait for the flow's end.
const { Pool } = require(process.env.PEER_MODULES + "/pg");
const pool = new Pool({ connectionString: process.env.PEER_DSN, max: 2 });
pool.on("error", () => {}); // a session that the server ended: the pool opens another
module.exports = {
  httpAdminRoot: false, httpNodeRoot: false, disableEditor: true, uiPort: 0, uiHost: "127.0.0.1",
  functionGlobalContext: { pool },
  logging: { console: { level: "off" } },
};
