// Does with eureka-js-client what a test tells it: it reads orders from standard input, one a line in JSON, and prints
// an answer to each.
'use strict';

const readline = require('readline');
const { Eureka } = require('eureka-js-client');

let client = null;

// What has happened since the start, as the client says.
const counts = {
  Registered: 0, Deregistered: 0, Heartbeats: 0, Unknown: 0, Failed: 0, Fetches: 0, Deltas: 0,
};

const silent = () => {};
const logger = {
  level: silent, trace: silent, debug: silent, info: silent, error: silent,
  warn(text) {
    if (/Re-registering/.test(text)) {
      counts.Unknown++;
    } else if (/FAILED|Error/.test(text)) {
      counts.Failed++;
    }
  },
};

function start(config, callback) {
  client = new Eureka({
    ...config,
    logger,
    requestMiddleware(request, done) {
      if (request.uri === 'delta') {
        counts.Deltas++;
      }
      done(request);
    },
  });
  client.on('registered', () => counts.Registered++);
  client.on('deregistered', () => counts.Deregistered++);
  client.on('heartbeat', () => counts.Heartbeats++);
  client.on('registryUpdated', () => counts.Fetches++);
  client.start(callback);
}

// tell is an instance as the client keeps it.
function tell(i) {
  const metadata = { ...i.metadata };
  delete metadata['@class']; // of none
  return {
    App: i.app,
    ID: i.instanceId,
    Host: i.hostName,
    IP: i.ipAddr,
    Port: i.port['@enabled'] === 'true' ? i.port.$ : 0,
    SecurePort: i.securePort['@enabled'] === 'true' ? i.securePort.$ : 0,
    Status: i.status,
    Override: i.overriddenStatus,
    VIP: i.vipAddress,
    SecureVIP: i.secureVipAddress,
    Metadata: metadata,
  };
}

function obey(order, answer) {
  const done = (error) => answer(error ? { Error: String(error) } : {});
  switch (order.Do) {
    case 'start':
      return start(order.Config, done);
    case 'stop':
      return client.stop(done);
    case 'counts':
      return answer({ Counts: counts });
    case 'app':
      return answer({ Instances: client.getInstancesByAppId(order.App).map(tell) });
    case 'vip':
      return answer({ Instances: client.getInstancesByVipAddress(order.VIP).map(tell) });
    default:
      return done(`cannot do ${order.Do}`);
  }
}

const say = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
process.stdout.write('ready\n');
readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    try {
      obey(JSON.parse(line), say);
    } catch (error) {
      say({ Error: String(error.stack) });
    }
  })
  .on('close', () => process.exit(0));
