// Connections that negotiate permessage-deflate, by the ws package that viem, ethers and web3.js bring along. Judges
// nothing: it prints what came, as text, and tests/it/compression.rs compares that with plain connections.
//
//   node deflate.mjs URL COUNT
//
// Connection n subscribes to heads, to logs, or to both, by n % 3, with compressed requests. Prints `ready` when all
// have their answers, reads a block's number, and goes on until each connection has all that it asked for of that
// block: its head, and its only log. Then prints one JSON document: a list with each connection's `extensions` as
// negotiated, its `events`, and the `bytes` that the socket got for these.

import { createInterface } from 'node:readline';
import WebSocket from 'ws';

/** What each kind of connection subscribes to. */
const KINDS = [[['newHeads']], [['logs', {}]], [['newHeads'], ['logs', {}]]];

const [url, count] = process.argv.slice(2);

class Connection {
  constructor(kind) {
    this.kind = kind;
    this.events = [];
    this.answers = 0;
    this.seen = new Set();
    this.socket = new WebSocket(url, { perMessageDeflate: { threshold: 0 } });
    this.socket.on('close', (code, reason) => fail(`closed with ${code} ${reason}`));
    this.socket.on('error', fail);
    this.socket.on('message', (bytes) => this.take(bytes.toString()));
    this.ready = new Promise((resolve) => (this.answered = resolve));
    this.socket.on('open', () => {
      kind.forEach((params, id) => {
        const request = { jsonrpc: '2.0', id, method: 'eth_subscribe', params };
        this.socket.send(JSON.stringify(request));
      });
    });
  }

  take(text) {
    const { id, params } = JSON.parse(text);
    if (id !== undefined) {
      this.answers += 1;
      if (this.answers < this.kind.length) return;
      this.before = this.socket._socket.bytesRead;
      this.answered();
      return;
    }
    this.events.push(text);
    const { number, blockNumber } = params.result;
    this.seen.add(`${number === undefined ? 'logs' : 'newHeads'} ${Number(number ?? blockNumber)}`);
    this.look?.();
  }

  /** All of block `last` has come. */
  async reached(last) {
    const all = () => this.kind.every(([name]) => this.seen.has(`${name} ${last}`));
    await new Promise((resolve) => {
      this.look = () => all() && resolve();
      this.look();
    });
    const { extensions } = this.socket;
    return { extensions, events: this.events, bytes: this.socket._socket.bytesRead - this.before };
  }
}

function fail(reason) {
  console.error(reason);
  process.exit(1);
}

async function firstLine() {
  for await (const line of createInterface({ input: process.stdin })) return Number(line);
  throw new Error('stdin ended before it named the last block');
}

const connections = Array.from({ length: Number(count) }, (_, n) => new Connection(KINDS[n % KINDS.length]));
await Promise.all(connections.map((connection) => connection.ready));
process.stdout.write('ready\n');
const last = await firstLine();
const document = await Promise.all(connections.map((connection) => connection.reached(last)));
process.stdout.write(`${JSON.stringify(document)}\n`, () => process.exit(0));
