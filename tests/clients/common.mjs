// What the three JavaScript client programs share: their arguments, the document they print, and a look at the
// socket itself. Owns no chain access: every event and answer comes from the library under test.

import { createInterface } from 'node:readline';

/** Longest time a program waits for its blocks before it gives up and says what it had. */
const DEADLINE_MS = 180_000;

/** Selector of the contract's `counter()`. */
export const COUNTER_CALL = '0x61bc221a';

/** The contract's events, in the form that ethers and viem parse. */
export const TICK_EVENT =
  'event Tick(uint256 indexed block, uint256 indexed counter, uint256 indexed class, uint256 square)';

/** Arguments: URL CONTRACT CLASS_TOPIC BLOCKS. */
export function readOptions() {
  const [url, contract, classTopic, blocks] = process.argv.slice(2);
  if (blocks === undefined) throw new Error('usage: URL CONTRACT CLASS_TOPIC BLOCKS');
  return { url, contract, classTopic, blocks: Number(blocks) };
}

/** Collects what one client received, and says when enough has come. */
export class Recording {
  #waiting = [];

  /** `controlStream` names the log stream that serves as control, where the library has no better one. */
  constructor(client, blocks, controlStream) {
    this.blocks = blocks;
    this.controlStream = controlStream;
    this.document = {
      client,
      heads: {},
      logs: {},
      calls: [],
      afterUnsubscribe: { heads: 0, logs: 0, control: 0, wire: 0 },
      errors: [],
    };
    this.quiet = false;
    this.highest = new Map();
    this.controlBlocks = new Set();
  }

  /** A head as `{number, hash?, parentHash?}`, on the stream of that name. */
  head(stream, head) {
    if (this.quiet) this.document.afterUnsubscribe.heads += 1;
    else (this.document.heads[stream] ??= []).push(head);
    this.highest.set(stream, head.number);
    this.#wake();
  }

  log(stream, log) {
    if (this.quiet) this.document.afterUnsubscribe.logs += stream === this.controlStream ? 0 : 1;
    else (this.document.logs[stream] ??= []).push(plainLog(log));
    this.#wake();
  }

  /** One event, of this block, on the subscription that stays to the end. */
  control(block) {
    this.controlBlocks.add(block);
    this.#wake();
  }

  call(entry) {
    this.document.calls.push(entry);
  }

  error(where, error) {
    this.document.errors.push(`${where}: ${error?.message ?? error}`);
  }

  /** Runs a call that belongs to a head; a failure lands in `errors`. */
  async attempt(where, job) {
    try {
      await job();
    } catch (error) {
      this.error(where, error);
    }
  }

  /**
   * Takes part in the common start, then waits for the block after the last one: by then the last one's logs are
   * here too. The libraries do not tell when a subscription stands, so "ready" means that each has brought something.
   */
  async collected(headStreams, logStreams) {
    const { heads, logs } = this.document;
    const started = () =>
      headStreams.every((name) => heads[name]) && logStreams.every((name) => logs[name]) && this.controlBlocks.size > 0;
    await this.#until(started, 'a first event on every subscription');
    process.stdout.write('ready\n');
    const last = (await readFirstBlock()) + this.blocks - 1;
    await this.#until(() => headStreams.every((name) => this.highest.get(name) > last), `the block after ${last}`);
  }

  /** Waits for two more blocks on the control subscription, counting what else arrives. */
  async silence(tap) {
    const barrier = this.controlBlocks.size;
    // The first of the two may have been here, though not told yet: what is compressed is inflated in another thread.
    await this.#until(() => this.controlBlocks.size > barrier + 1, 'the second block after the unsubscribe');
    this.quiet = true;
    tap.reset();
    const start = this.controlBlocks.size;
    await this.#until(() => this.controlBlocks.size >= start + 2, 'two blocks after the unsubscribe');
    this.document.afterUnsubscribe.control = this.controlBlocks.size - start;
    // One of the subscriptions seen on the wire is the control itself.
    this.document.afterUnsubscribe.wire = Math.max(0, tap.subscriptions() - 1);
  }

  #wake() {
    this.#waiting = this.#waiting.filter((waiter) => !waiter());
  }

  #until(condition, what) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`timed out waiting for ${what}`)), DEADLINE_MS);
      this.#waiting.push(() => {
        if (!condition()) return false;
        clearTimeout(timer);
        resolve();
        return true;
      });
      this.#wake();
    });
  }
}

/** The first line on stdin: the number of the first block that every client must have. */
async function readFirstBlock() {
  for await (const line of createInterface({ input: process.stdin })) return Number(line);
  throw new Error('stdin ended before it named the first block');
}

/** Counts the subscriptions that notify on a socket, beneath the library, which would hide a stray notification. */
export class Tap {
  #seen = new Set();

  constructor(socket) {
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(typeof data === 'string' ? data : data.toString());
      if (message.method === 'eth_subscription') this.#seen.add(message.params.subscription);
    });
  }

  reset() {
    this.#seen.clear();
  }

  subscriptions() {
    return this.#seen.size;
  }
}

/** A log in one shape, whatever number types the library uses. */
function plainLog(log) {
  return {
    blockNumber: Number(log.blockNumber),
    blockHash: log.blockHash,
    transactionHash: log.transactionHash,
    transactionIndex: Number(log.transactionIndex),
    logIndex: Number(log.logIndex ?? log.index),
    address: log.address.toLowerCase(),
    topics: [...log.topics],
    data: log.data,
    removed: log.removed ?? false,
  };
}

/** Runs a program and prints its document, or its failure on stderr with exit code 1. */
export function main(program) {
  program().then(
    (document) => process.stdout.write(`${JSON.stringify(document)}\n`, () => process.exit(0)),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}
