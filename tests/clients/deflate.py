"""Connections that negotiate permessage-deflate, by the websockets package that web3.py brings along.

The same program as deflate.mjs, with the same arguments and the same document, less the bytes.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

KINDS = [[["newHeads"]], [["logs", {}]], [["newHeads"], ["logs", {}]]]


class Connection:
    """One connection and what came on it."""

    def __init__(self, url, kind):
        self.url = url
        self.kind = kind
        self.events = []
        self.seen = set()
        self.socket = None

    async def subscribe(self):
        self.socket = await connect(self.url)
        for number, params in enumerate(self.kind):
            request = {"jsonrpc": "2.0", "id": number, "method": "eth_subscribe", "params": params}
            await self.socket.send(json.dumps(request))
        for _ in self.kind:
            answer = json.loads(await self.socket.recv())
            assert "result" in answer, answer

    async def reached(self, last):
        """Reads on until all of block `last` has come."""
        while not all((params[0], last) in self.seen for params in self.kind):
            text = await self.socket.recv()
            result = json.loads(text)["params"]["result"]
            self.events.append(text)
            kind = "newHeads" if "number" in result else "logs"
            self.seen.add((kind, int(result.get("number") or result["blockNumber"], 16)))
        extensions = ", ".join(extension.name for extension in self.socket.protocol.extensions)
        return {"extensions": extensions, "events": self.events}


async def main():
    url, count = sys.argv[1:]
    connections = [Connection(url, KINDS[n % len(KINDS)]) for n in range(int(count))]
    await asyncio.gather(*(connection.subscribe() for connection in connections))
    print("ready", flush=True)
    last = int(await asyncio.to_thread(sys.stdin.readline))
    document = await asyncio.gather(*(connection.reached(last) for connection in connections))
    print(json.dumps(document), flush=True)


asyncio.run(main())
