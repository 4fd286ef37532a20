"""Follows a chain through web3.py, on one WebSocket: its subscription manager with newHeads and logs handlers.

Prints what came as one JSON document; tests/it/clients.rs judges it.
Arguments: URL CONTRACT CLASS_TOPIC BLOCKS (see README.md).
"""

import asyncio
import json
import sys

from web3 import AsyncWeb3, Web3, WebSocketProvider
from web3.utils.subscriptions import LogsSubscription, NewHeadsSubscription

COUNTER_CALL = "0x61bc221a"
DEADLINE_S = 180


class Program:
    """One run: the subscriptions' handlers and what they collected."""

    def __init__(self, w3, contract, class_topic, blocks):
        self.w3 = w3
        self.contract = Web3.to_checksum_address(contract)
        self.class_topic = class_topic
        self.blocks = blocks
        self.heads, self.logs, self.calls, self.errors = [], [], [], []
        self.after = {"heads": 0, "logs": 0, "control": 0}
        self.control_blocks = 0
        self.quiet = False
        self.progress = asyncio.Event()
        self.asking = []

    async def on_head(self, context):
        head = context.result
        number = head["number"]
        if self.quiet:
            self.after["heads"] += 1
            return
        self.heads.append(
            {"number": number, "hash": head["hash"].to_0x_hex(), "parentHash": head["parentHash"].to_0x_hex()}
        )
        # In a task: a call made inside a handler would hold up the handlers of the next events.
        self.asking.append(asyncio.create_task(self.ask(number)))
        self.progress.set()

    async def on_log(self, context):
        if self.quiet:
            self.after["logs"] += 1
            return
        self.logs.append(plain_log(context.result))
        self.progress.set()

    async def on_control(self, _context):
        self.control_blocks += 1
        self.progress.set()

    async def ask(self, number):
        try:
            latest = await self.w3.eth.block_number
            self.calls.append({"method": "eth_blockNumber", "after": number, "block": latest})
            block = await self.w3.eth.get_block(number)
            self.calls.append(
                {
                    "method": "eth_getBlockByNumber",
                    "block": number,
                    "hash": block["hash"].to_0x_hex(),
                    "transactions": [tx.to_0x_hex() for tx in block["transactions"]],
                }
            )
            value = await self.w3.eth.call({"to": self.contract, "data": COUNTER_CALL}, number)
            self.calls.append({"method": "eth_call", "block": number, "result": value.to_0x_hex()})
        except Exception as error:  # whatever the library raises belongs into the document
            self.errors.append(f"calls at {number}: {error!r}")

    async def until(self, condition):
        while not condition():
            self.progress.clear()
            await self.progress.wait()

    async def run(self):
        manager = self.w3.subscription_manager
        control = NewHeadsSubscription(label="control", handler=self.on_control)
        heads = NewHeadsSubscription(label="heads", handler=self.on_head)
        logs = LogsSubscription(
            label="logs", address=self.contract, topics=[None, None, None, self.class_topic], handler=self.on_log
        )
        await manager.subscribe([control, logs, heads])
        handling = asyncio.create_task(manager.handle_subscriptions())
        await self.until(lambda: self.heads and self.logs and self.control_blocks)
        print("ready", flush=True)
        last = int(await asyncio.to_thread(sys.stdin.readline)) + self.blocks - 1
        # The block after the last one: by then the last one's logs are here too.
        await self.until(lambda: self.heads[-1]["number"] > last)
        await manager.unsubscribe([heads, logs])
        seen = self.control_blocks
        await self.until(lambda: self.control_blocks > seen)
        self.quiet, seen = True, self.control_blocks
        await self.until(lambda: self.control_blocks >= seen + 2)
        self.after["control"] = self.control_blocks - seen
        await asyncio.gather(*self.asking)
        await manager.unsubscribe(control)
        await handling

    def document(self):
        return {
            "client": "web3.py",
            "heads": {"NewHeadsSubscription": self.heads},
            "logs": {"class": self.logs},
            "calls": self.calls,
            "afterUnsubscribe": self.after,
            "errors": self.errors,
        }


def plain_log(log):
    return {
        "blockNumber": log["blockNumber"],
        "blockHash": log["blockHash"].to_0x_hex(),
        "transactionHash": log["transactionHash"].to_0x_hex(),
        "transactionIndex": log["transactionIndex"],
        "logIndex": log["logIndex"],
        "address": log["address"].lower(),
        "topics": [topic.to_0x_hex() for topic in log["topics"]],
        "data": log["data"].to_0x_hex(),
        "removed": log["removed"],
    }


async def main():
    url, contract, class_topic, blocks = sys.argv[1:]
    async with AsyncWeb3(WebSocketProvider(url)) as w3:
        program = Program(w3, contract, class_topic, int(blocks))
        await asyncio.wait_for(program.run(), DEADLINE_S)
    print(json.dumps(program.document()))


asyncio.run(main())
