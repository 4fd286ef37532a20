// Owns the check of the live page in a real browser: opens it in Debian's Chromium, waits for what a visitor must see, and says what it saw.
// Does not start the gateway, and does not judge whether the events are the right ones: the client tests do.
//
//   node page.mjs URL [--expect-reorg] [--cut] [--screenshot FILE]
//
// Prints one JSON line and exits 0, or exits 1 with the reason on standard error. playwright-core comes from the folder named by
// CHAINCAST_NODE_MODULES, else from the one that tests/setup.sh links beside the tests.

import { createRequire } from 'node:module'
import { existsSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { parseArgs } from 'node:util'

const CHROMIUM = '/usr/bin/chromium'
const CHROMIUM_FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const WITHIN_MS = 30_000, REORG_WITHIN_MS = 60_000
const HEAD_MOVES = 3, BLOCKS_KEPT = 50, LOGS_KEPT = 200, PHONE_WIDTH = 360
const UPSTREAM_STATES = ['connecting', 'down', 'stalled', 'up']
const SNIPPETS = ['viem', 'ethers', 'web3.js', 'web3.py', 'websocat']

class Failure extends Error {}
const check = (holds, reason) => { if (!holds) throw new Failure(reason) }

function loadPlaywright() {
  const folder = process.env.CHAINCAST_NODE_MODULES
  check(existsSync(CHROMIUM), `${CHROMIUM} is missing: run tests/setup.sh, or apt-get install chromium`)
  try {
    return createRequire(folder ? path.resolve(folder, 'page.mjs') : import.meta.url)('playwright-core')
  } catch (error) {
    throw new Failure(`playwright-core is not in ${folder ?? 'tests/node_modules'}: run tests/setup.sh (${error.code})`)
  }
}

/** A plain TCP relay before the gateway, so that the page's connections can be cut as a network would cut them. */
class Relay {
  static async before(url) {
    const relay = new Relay()
    const { hostname, port } = new URL(url)
    relay.sockets = new Set()
    relay.server = net.createServer((near) => {
      const far = net.connect(Number(port || 80), hostname)
      for (const [socket, other] of [[near, far], [far, near]]) {
        relay.sockets.add(socket)
        socket.on('error', () => other.destroy())
        socket.on('close', () => { relay.sockets.delete(socket); other.destroy() })
        socket.pipe(other)
      }
    })
    await new Promise((listening) => relay.server.listen(0, '127.0.0.1', listening))
    relay.url = Object.assign(new URL(url), { hostname: '127.0.0.1', port: relay.server.address().port }).href
    return relay
  }
  cut() {
    for (const socket of this.sockets) socket.destroy()
  }
  close() {
    this.server.close()
    this.cut()
  }
}

/** What the browser did that a visitor does not see: console complaints, and every host that was asked for anything. */
function watch(page) {
  const behind = { complaints: [], hosts: new Set(), sockets: [] }
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) behind.complaints.push(`${message.type()}: ${message.text()}`)
  })
  page.on('pageerror', (error) => behind.complaints.push(`exception: ${error.message}`))
  page.on('request', (request) => { if (!request.url().startsWith('data:')) behind.hosts.add(new URL(request.url()).host) })
  page.on('websocket', (socket) => {
    behind.sockets.push(socket.url())
    behind.hosts.add(new URL(socket.url()).host)
  })
  return behind
}

/** Waits until `holds`, run in the page, is true; the reason is what the person who reads the failure needs. */
async function until(page, reason, holds, argument, timeout = WITHIN_MS) {
  try {
    await page.waitForFunction(holds, argument, { timeout })
  } catch (error) {
    if (error.name !== 'TimeoutError') throw error
    const state = await page.locator('#state').textContent()
    throw new Failure(`${reason}: not within ${timeout / 1000} s (the page says: ${state})`)
  }
}

const text = (page, selector) => page.locator(selector).textContent()

async function waitForHeads(page, moves) {
  const heads = []
  for (let move = 0; move <= moves; move++) {
    const reason = `the head number should move (seen: ${heads.join(', ') || 'none'})`
    await until(page, reason, (last) => /\d/.test(document.getElementById('head-number').textContent) && document.getElementById('head-number').textContent !== last, heads.at(-1) ?? '')
    heads.push(await text(page, '#head-number'))
  }
  return heads.map((head) => Number(head.replaceAll(',', '')))
}

async function checkStatus(page) {
  await until(page, 'chain, clients and upstreams should be shown', () => document.querySelector('#upstreams li:not([data-state=unknown])')
    && /^[\d,]+ with [\d,]+ subscriptions$/.test(document.getElementById('clients').textContent))
  const upstreams = await page.locator('#upstreams li').allTextContents()
  for (const state of upstreams) check(UPSTREAM_STATES.includes(state), `an upstream's state is shown as ${JSON.stringify(state)}`)
  return { chain: await text(page, '#chain'), clients: await text(page, '#clients'), upstreams }
}

async function checkReorg(page, expected) {
  if (expected) await until(page, 'a reorg should strike a block out', () => document.querySelector('#blocks .struck'), undefined, REORG_WITHIN_MS)
  const { struck, standing } = await page.evaluate(() => {
    const rows = [...document.querySelectorAll('#blocks .row:not(.break)')]
    const numbers = (gone) => rows.filter((row) => row.classList.contains('struck') === gone).map((row) => row.querySelector('.number').textContent)
    return { struck: numbers(true), standing: numbers(false) }
  })
  const heights = new Set(standing)
  check(heights.size === standing.length, `two blocks stand at one height: ${standing}`)
  check(struck.length === 0 || struck.some((number) => heights.has(number)), `no block stands in the place of ${struck}`)
  return struck.length
}

async function checkSnippets(page, socketUrl) {
  const tabs = page.getByRole('tab')
  check(String(await tabs.allTextContents()) === String(SNIPPETS), `the snippets are ${await tabs.allTextContents()}, not ${SNIPPETS}`)
  for (const code of await page.locator('#snippets pre').allTextContents()) check(code.includes(socketUrl), `a snippet lacks ${socketUrl}: ${code}`)
  await tabs.first().focus()
  await page.keyboard.press('ArrowRight')
  check(await tabs.nth(1).getAttribute('aria-selected') === 'true', 'the right arrow key should choose the next snippet')
  const shown = page.getByRole('tabpanel')
  check(await shown.count() === 1, 'one snippet should be visible')
  await page.getByRole('button', { name: 'Copy' }).click()
  await until(page, 'the copy button should confirm', () => document.getElementById('copy').textContent === 'Copied')
  const clipboard = await page.evaluate(() => navigator.clipboard.readText())
  check(clipboard === await shown.textContent(), `copied ${JSON.stringify(clipboard)}, not the snippet`)
  await tabs.first().click()
}

const places = (page) => page.evaluate(() => JSON.stringify(['.now', 'dl', '.streams', '.own', 'footer'].map((part) => document.querySelector(part).getBoundingClientRect())))

async function checkLayout(page) {
  const before = await places(page)
  await waitForHeads(page, HEAD_MOVES)
  check(await places(page) === before, 'the layout moved while events came in')
  const { rows, logs } = await page.evaluate(() => ({ rows: document.getElementById('blocks').childElementCount, logs: document.getElementById('logs').childElementCount }))
  check(rows <= BLOCKS_KEPT && logs <= LOGS_KEPT, `the page holds ${rows} blocks and ${logs} logs`)
}

async function checkPhone(page) {
  const size = page.viewportSize()
  await page.setViewportSize({ width: PHONE_WIDTH, height: 740 })
  const width = await page.evaluate(() => document.documentElement.scrollWidth)
  check(width <= PHONE_WIDTH, `at ${PHONE_WIDTH} px the page is ${width} px wide`)
  await page.setViewportSize(size)
  return width
}

/** Cuts the socket, and sees the page say so, come back and go on. Answers how long it was away. */
async function checkRecovery(page, relay, behind) {
  await page.evaluate(() => {
    const state = document.getElementById('state')
    window.statesSeen = []
    new MutationObserver(() => window.statesSeen.push(state.dataset.state)).observe(state, { attributeFilter: ['data-state'] })
  })
  const sockets = behind.sockets.length, cutAt = performance.now()
  relay.cut()
  await until(page, 'the page should say that its connection is lost', () => window.statesSeen.includes('waiting'))
  await until(page, 'the page should reconnect', () => window.statesSeen.at(-1) === 'live')
  const awayMs = Math.round(performance.now() - cutAt)
  check(behind.sockets.length > sockets, 'the page is live again without a new socket')
  await waitForHeads(page, HEAD_MOVES)
  return awayMs
}

async function open(page, url) {
  const response = await page.goto(url).catch((error) => { throw new Failure(`${url} does not load: ${error.message.split('\n')[0]}`) })
  check(response.ok(), `${url} answers ${response.status()}`)
  return response.headers()['content-security-policy'] ?? null
}

async function visit(page, behind, url, options, relay) {
  const seen = { url, policy: await open(page, url) }
  await until(page, 'the page should be live', () => document.getElementById('state').dataset.state === 'live')
  const [socketUrl] = behind.sockets, expected = Object.assign(new URL(url), { protocol: url.startsWith('https:') ? 'wss:' : 'ws:' }).href
  check(socketUrl === expected, `the page opened ${socketUrl}, not ${expected}`)
  seen.heads = await waitForHeads(page, HEAD_MOVES)
  await until(page, 'logs should appear', () => document.querySelector('#logs .row'))
  Object.assign(seen, await checkStatus(page))
  await checkSnippets(page, socketUrl)
  await checkLayout(page)
  seen.phoneWidth = await checkPhone(page)
  seen.struck = await checkReorg(page, options['expect-reorg'])
  seen.rate = await text(page, '#rate')
  if (options.screenshot) await page.screenshot({ path: options.screenshot, fullPage: true })
  if (relay) seen.awayMs = await checkRecovery(page, relay, behind)
  seen.hosts = [...behind.hosts]
  check(String(seen.hosts) === new URL(url).host, `the page asked other hosts: ${seen.hosts}`)
  check(behind.complaints.length === 0, 'the console should stay silent')
  return seen
}

async function main() {
  const { values: options, positionals: [url] } = parseArgs({
    allowPositionals: true,
    options: { 'expect-reorg': { type: 'boolean' }, cut: { type: 'boolean' }, screenshot: { type: 'string' } },
  })
  check(url, 'usage: page.mjs URL [--expect-reorg] [--cut] [--screenshot FILE]')
  const { chromium } = loadPlaywright()
  const relay = options.cut ? await Relay.before(url) : null
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS })
  try {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, permissions: ['clipboard-read', 'clipboard-write'] })
    const page = await context.newPage(), behind = watch(page)
    const seen = await visit(page, behind, relay?.url ?? new URL(url).href, options, relay).catch((error) => {
      throw error instanceof Failure ? new Failure([error.message, ...behind.complaints].join('\n  console ')) : error
    })
    console.log(JSON.stringify(seen))
  } finally {
    await browser.close()
    relay?.close()
  }
}

main().catch((error) => {
  console.error(`page: ${error instanceof Failure ? error.message : error.stack}`)
  process.exitCode = 1
})
