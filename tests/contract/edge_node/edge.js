// An edge node made with Eclipse Tahu's client. It does what it is told, line by line, and answers a rebirth request as the
// specification wants it. What it publishes it writes down.
'use strict'
const sparkplug = require('sparkplug-client')
const readline = require('readline')

const say = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
const config = JSON.parse(process.env.EDGE)
let births = null
let client = null

// one time for all of a message: metrics of different milliseconds are different samples
function message (metrics) {
  const now = Date.now()
  return { timestamp: now, metrics: (metrics ?? []).map(metric => ({ ...metric, timestamp: metric.timestamp ?? now })) }
}

function bear () {
  if (!births) return
  const rebirth = { name: 'Node Control/Rebirth', type: 'Boolean', value: false }
  client.publishNodeBirth(message([rebirth, ...births.node]), births.options)
  for (const [device, metrics] of Object.entries(births.devices)) client.publishDeviceBirth(device, message(metrics), births.options)
  say('born')
}

function connect () {
  client = sparkplug.newClient({ username: '', password: '', keepalive: 5, ...config })
  client.on('birth', () => { say('connected'); bear() })
  client.on('ncmd', payload => {
    const asked = payload.metrics.some(metric => metric.name === 'Node Control/Rebirth' && metric.value === true)
    say('ncmd', { asked, timestamp: Number(payload.timestamp) })
    if (asked) bear()
  })
  client.on('message', (topic, payload) => say('message', { topic }))
}

const orders = {
  connect: order => { births = order.births; connect() },
  births: order => { births = order.births; bear() },
  ndata: order => client.publishNodeData(message(order.metrics), order.options),
  ddata: order => client.publishDeviceData(order.device, message(order.metrics), order.options),
  ddeath: order => client.publishDeviceDeath(order.device, message([])),
  skip: order => { for (let i = 0; i < order.count; i++) client.incrementSeqNum() },
  vanish: () => client.client.stream.destroy(),
  stop: () => { client.stop(); process.exitCode = 0 }
}

readline.createInterface({ input: process.stdin }).on('line', line => {
  const order = JSON.parse(line)
  orders[order.do](order)
  say('done', { do: order.do })
}).on('close', () => process.exit())
