// Follows a chain through viem, on one WebSocket: watchBlocks, watchEvent, and the raw newHeads and logs
// subscriptions its transport offers. Prints what came; tests/it/clients.rs judges it.
import { createPublicClient, parseAbiItem, webSocket } from 'viem';

import { COUNTER_CALL, main, readOptions, Recording, Tap, TICK_EVENT } from './common.mjs';

main(async () => {
  const options = readOptions();
  const client = createPublicClient({ transport: webSocket(options.url) });
  const recording = new Recording('viem', options.blocks);
  const tap = new Tap((await client.transport.getRpcClient()).socket);
  const onError = (error) => recording.error('subscription', error);

  const control = await client.transport.subscribe({
    params: ['newHeads'],
    onData: ({ result }) => recording.control(Number(result.number)),
    onError,
  });
  const rawHeads = await client.transport.subscribe({
    params: ['newHeads'],
    onData: ({ result }) => {
      const { hash, parentHash } = result;
      recording.head('newHeads', { number: Number(result.number), hash, parentHash });
    },
    onError,
  });
  const stopEvents = client.watchEvent({
    address: options.contract,
    event: parseAbiItem(TICK_EVENT),
    args: { class: BigInt(options.classTopic) },
    onLogs: (logs) => logs.forEach((log) => recording.log('class', log)),
    onError,
  });
  const stopBlocks = client.watchBlocks({
    onBlock: (block) => {
      const number = Number(block.number);
      recording.head('watchBlocks', { number, hash: block.hash, parentHash: block.parentHash });
      recording.attempt(`calls at ${number}`, () => ask(client, recording, options, number));
    },
    onError,
  });

  await recording.collected(['newHeads', 'watchBlocks'], ['class']);
  // The functions are typed as returning nothing, yet return the promise of the node's answer.
  await Promise.all([rawHeads.unsubscribe(), stopEvents(), stopBlocks()]);
  await recording.silence(tap);
  await control.unsubscribe();
  return recording.document;
});

async function ask(client, recording, options, number) {
  const latest = await client.getBlockNumber({ cacheTime: 0 });
  recording.call({ method: 'eth_blockNumber', after: number, block: Number(latest) });
  const block = await client.getBlock({ blockNumber: BigInt(number) });
  recording.call({ method: 'eth_getBlockByNumber', block: number, hash: block.hash, transactions: block.transactions });
  const { data } = await client.call({ to: options.contract, data: COUNTER_CALL, blockNumber: BigInt(number) });
  recording.call({ method: 'eth_call', block: number, result: data });
}
