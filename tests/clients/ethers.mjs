// Follows a chain through ethers, on one WebSocket: provider.on('block') and a contract listener. Prints what
// came; tests/it/clients.rs judges it. ethers passes on a head's number only.
import { Contract, toBeHex, WebSocketProvider } from 'ethers';

import { COUNTER_CALL, main, readOptions, Recording, Tap, TICK_EVENT } from './common.mjs';

main(async () => {
  const options = readOptions();
  const provider = new WebSocketProvider(options.url);
  const recording = new Recording('ethers', options.blocks, 'contract');
  const tap = new Tap(provider.websocket);
  const contract = new Contract(options.contract, [TICK_EVENT], provider);
  provider.on('error', (error) => recording.error('provider', error));

  // Equal subscriptions share one in ethers, so the control is another one: everything from the contract.
  const everything = { address: options.contract };
  await provider.on(everything, (log) => {
    recording.log('contract', log);
    recording.control(log.blockNumber);
  });
  const ofClass = contract.filters.Tick(null, null, BigInt(options.classTopic));
  await contract.on(ofClass, (event) => recording.log('class', event.log));
  await provider.on('block', (number) => {
    recording.head('block', { number });
    recording.attempt(`calls at ${number}`, () => ask(provider, recording, options, number));
  });

  await recording.collected(['block'], ['class', 'contract']);
  await contract.off(ofClass);
  await provider.off('block');
  await recording.silence(tap);
  provider.removeAllListeners();
  return recording.document;
});

async function ask(provider, recording, options, number) {
  recording.call({ method: 'eth_blockNumber', after: number, block: await provider.getBlockNumber() });
  const block = await provider.getBlock(number);
  const { hash, transactions } = block;
  recording.call({ method: 'eth_getBlockByNumber', block: number, hash, transactions });
  const result = await provider.call({ to: options.contract, data: COUNTER_CALL, blockTag: toBeHex(number) });
  recording.call({ method: 'eth_call', block: number, result });
}
