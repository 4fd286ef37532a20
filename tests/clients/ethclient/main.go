// Command ethclient follows a chain through go-ethereum's own client library, on one WebSocket, and prints what
// reached it as one JSON document. It owns no judgement: tests/it/clients.rs compares the document with the node.
//
// Arguments: URL CONTRACT CLASS_TOPIC BLOCKS (see tests/clients/README.md).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"strconv"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/ethclient"
)

type head struct {
	Number     uint64      `json:"number"`
	Hash       common.Hash `json:"hash"`
	ParentHash common.Hash `json:"parentHash"`
}

type call struct {
	Method       string         `json:"method"`
	After        uint64         `json:"after,omitempty"`
	Block        uint64         `json:"block"`
	Hash         *common.Hash   `json:"hash,omitempty"`
	Transactions *[]common.Hash `json:"transactions,omitempty"`
	Result       string         `json:"result,omitempty"`
}

type document struct {
	Client           string                 `json:"client"`
	Heads            map[string][]head      `json:"heads"`
	Logs             map[string][]types.Log `json:"logs"`
	Calls            []call                 `json:"calls"`
	AfterUnsubscribe map[string]int         `json:"afterUnsubscribe"`
	Errors           []string               `json:"errors"`
}

type options struct {
	url      string
	contract common.Address
	class    common.Hash
	blocks   uint64
}

// counterCall is the selector of the contract's counter().
var counterCall = common.FromHex("0x61bc221a")

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	opts, err := parse(os.Args[1:])
	if err == nil {
		var doc *document
		if doc, err = follow(ctx, opts); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(doc)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	if len(args) != 4 {
		return options{}, fmt.Errorf("usage: ethclient URL CONTRACT CLASS_TOPIC BLOCKS")
	}
	blocks, err := strconv.ParseUint(args[3], 10, 64)
	return options{args[0], common.HexToAddress(args[1]), common.HexToHash(args[2]), blocks}, err
}

// firstBlock says "ready" and sends the number that then stands on stdin.
func firstBlock(first chan<- uint64, failed chan<- error) {
	fmt.Println("ready")
	var number uint64
	if _, err := fmt.Scan(&number); err != nil {
		failed <- fmt.Errorf("stdin names no first block: %w", err)
		return
	}
	first <- number
}

func follow(ctx context.Context, opts options) (*document, error) {
	client, err := ethclient.DialContext(ctx, opts.url)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	doc := &document{
		Client:           "go-ethereum ethclient",
		Heads:            map[string][]head{},
		Logs:             map[string][]types.Log{},
		AfterUnsubscribe: map[string]int{"heads": 0, "logs": 0, "control": 0},
		Errors:           []string{},
	}
	heads, logs, control := make(chan *types.Header, 1024), make(chan types.Log, 8192), make(chan *types.Header, 1024)
	headsSub, err := client.SubscribeNewHead(ctx, heads)
	if err != nil {
		return nil, err
	}
	// FilterQuery always sends a fromBlock of 0x0; no node replays for it.
	query := ethereum.FilterQuery{Addresses: []common.Address{opts.contract}, Topics: [][]common.Hash{{}, {}, {}, {opts.class}}}
	logsSub, err := client.SubscribeFilterLogs(ctx, query, logs)
	if err != nil {
		return nil, err
	}
	controlSub, err := client.SubscribeNewHead(ctx, control)
	if err != nil {
		return nil, err
	}
	defer controlSub.Unsubscribe()
	if err := collect(ctx, client, opts, doc, subscriptions{headsSub, logsSub, controlSub, heads, logs, control}); err != nil {
		return nil, err
	}
	return doc, nil
}

type subscriptions struct {
	headsSub, logsSub, controlSub ethereum.Subscription
	heads                         chan *types.Header
	logs                          chan types.Log
	control                       chan *types.Header
}

// collect reads until the block after the last one is announced, so that the last one's logs are in as well.
func collect(ctx context.Context, client *ethclient.Client, opts options, doc *document, s subscriptions) error {
	first, failed, last := make(chan uint64, 1), make(chan error, 1), uint64(math.MaxUint64)
	started, controlled := false, false
	for {
		if !started && controlled && len(doc.Heads) > 0 && len(doc.Logs) > 0 {
			started = true
			go firstBlock(first, failed)
		}
		select {
		case number := <-first:
			last = number + opts.blocks - 1
		case err := <-failed:
			return err
		case h := <-s.heads:
			doc.Heads["SubscribeNewHead"] = append(doc.Heads["SubscribeNewHead"], head{h.Number.Uint64(), h.Hash(), h.ParentHash})
			if err := ask(ctx, client, opts, doc, h); err != nil {
				return err
			}
			if h.Number.Uint64() > last {
				return quiet(ctx, doc, s)
			}
		case l := <-s.logs:
			doc.Logs["class"] = append(doc.Logs["class"], l)
		case <-s.control:
			controlled = true
		case err := <-s.headsSub.Err():
			return fmt.Errorf("heads subscription ended: %v", err)
		case err := <-s.logsSub.Err():
			return fmt.Errorf("logs subscription ended: %v", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func ask(ctx context.Context, client *ethclient.Client, opts options, doc *document, h *types.Header) error {
	number, err := client.BlockNumber(ctx)
	if err != nil {
		return fmt.Errorf("eth_blockNumber: %w", err)
	}
	doc.Calls = append(doc.Calls, call{Method: "eth_blockNumber", After: h.Number.Uint64(), Block: number})
	block, err := client.BlockByNumber(ctx, h.Number)
	if err != nil {
		return fmt.Errorf("eth_getBlockByNumber: %w", err)
	}
	hash, transactions := block.Hash(), []common.Hash{}
	for _, tx := range block.Transactions() {
		transactions = append(transactions, tx.Hash())
	}
	doc.Calls = append(doc.Calls, call{Method: "eth_getBlockByNumber", Block: h.Number.Uint64(), Hash: &hash, Transactions: &transactions})
	value, err := client.CallContract(ctx, ethereum.CallMsg{To: &opts.contract, Data: counterCall}, new(big.Int).Set(h.Number))
	if err != nil {
		return fmt.Errorf("eth_call: %w", err)
	}
	doc.Calls = append(doc.Calls, call{Method: "eth_call", Block: h.Number.Uint64(), Result: hexutil.Encode(value)})
	return nil
}

// quiet unsubscribes and counts what still comes while the control subscription gets two further blocks.
func quiet(ctx context.Context, doc *document, s subscriptions) error {
	s.headsSub.Unsubscribe()
	s.logsSub.Unsubscribe()
	doc.drain(s)
	for doc.AfterUnsubscribe["control"] < 2 {
		select {
		case <-s.control:
			doc.AfterUnsubscribe["control"]++
		case err := <-s.controlSub.Err():
			return fmt.Errorf("control subscription ended: %v", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	doc.AfterUnsubscribe["heads"], doc.AfterUnsubscribe["logs"] = len(s.heads), len(s.logs)
	return nil
}

// drain takes what came before the unsubscribe was answered: Unsubscribe returns after the answer.
func (doc *document) drain(s subscriptions) {
	for {
		select {
		case h := <-s.heads:
			doc.Heads["SubscribeNewHead"] = append(doc.Heads["SubscribeNewHead"], head{h.Number.Uint64(), h.Hash(), h.ParentHash})
		case l := <-s.logs:
			doc.Logs["class"] = append(doc.Logs["class"], l)
		case <-s.control:
		default:
			return
		}
	}
}
