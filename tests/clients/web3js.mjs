// Follows a chain through web3.js, on one WebSocket: the newBlockHeaders and logs subscriptions. Prints what came;
// tests/it/clients.rs judges it.
import { Web3, WebSocketProvider } from 'web3';

import { COUNTER_CALL, main, readOptions, Recording, Tap } from './common.mjs';

main(async () => {
  const options = readOptions();
  const provider = new WebSocketProvider(options.url);
  const web3 = new Web3(provider);
  const recording = new Recording('web3.js', options.blocks);
  await web3.eth.getChainId();
  const tap = new Tap(provider.SocketConnection);

  const control = await web3.eth.subscribe('newHeads');
  control.on('data', (head) => recording.control(Number(head.number)));
  const logs = await web3.eth.subscribe('logs', {
    address: options.contract,
    topics: [null, null, null, options.classTopic],
  });
  logs.on('data', (log) => recording.log('class', log));
  const heads = await web3.eth.subscribe('newBlockHeaders');
  heads.on('data', ({ number, hash, parentHash }) => {
    recording.head('newBlockHeaders', { number: Number(number), hash, parentHash });
    recording.attempt(`calls at ${number}`, () => ask(web3, recording, options, number));
  });
  for (const subscription of [control, logs, heads]) {
    subscription.on('error', (error) => recording.error('subscription', error));
  }

  await recording.collected(['newBlockHeaders'], ['class']);
  await Promise.all([heads.unsubscribe(), logs.unsubscribe()]);
  await recording.silence(tap);
  await control.unsubscribe();
  return recording.document;
});

async function ask(web3, recording, options, number) {
  const latest = await web3.eth.getBlockNumber();
  recording.call({ method: 'eth_blockNumber', after: Number(number), block: Number(latest) });
  const { hash, transactions } = await web3.eth.getBlock(number);
  recording.call({ method: 'eth_getBlockByNumber', block: Number(number), hash, transactions: transactions ?? [] });
  const result = await web3.eth.call({ to: options.contract, data: COUNTER_CALL }, number);
  recording.call({ method: 'eth_call', block: Number(number), result });
}
