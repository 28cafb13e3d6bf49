// A visitor's hands on a real browser: Debian's Chromium, Firefox or WebKitGTK, without a window.
//
//   node hands.mjs NODE_MODULES chromium|firefox|webkit
//
// Prints {"ready": NAME} when the browser runs. Then each line of stdin is a request, {"do": …, …}, and each line of
// stdout its answer, {"ok": …} or {"error": …}. When stdin ends, which it also does when whoever started this dies,
// the browser ends, and its profile is gone. The requests are the methods of `Hands`.
//
// Each browser does what it does for a visitor: what differs from its defaults keeps it from using the network for
// itself, and nothing else. Input is what the system would send: a page sees trusted events.

import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const [modules, kind] = process.argv.slice(2);
const PATIENCE = 20_000; // less than the tests have: then they say what was waited for
const folder = await mkdtemp(join(tmpdir(), `hands-${kind}-`));
const env = { ...process.env, HOME: folder, XDG_CONFIG_HOME: '', XDG_CACHE_HOME: '', XDG_DATA_HOME: '', NO_AT_BRIDGE: '1' };
const children = [];

// Starts a program that is killed when this ends, however this ends.
function start(program, args, { stdio = ['ignore', 'ignore', 'pipe'], ...more } = {}) {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], { env: { ...env, ...more }, stdio });
  children.push(child);
  return child;
}

// What a child says, up to what is looked for in it.
function said(child, stream, pattern) {
  return new Promise((resolve, reject) => {
    let text = '';
    stream.setEncoding('utf8').on('data', (part) => {
      const found = pattern.exec(text += part);
      if (found) resolve(found[1]);
    });
    child.on('error', reject).on('exit', (status) => reject(new Error(`${child.spawnargs.join(' ')} ended, ${status}: ${text}`)));
  });
}

// Looks again and again until `look` gives something; undefined if it does not in time.
async function until(timeout, look) {
  for (const end = Date.now() + timeout; ;) {
    const found = await look();
    if (found || Date.now() >= end) return found || undefined;
    await pause(5);
  }
}

async function must(what, promise) {
  const got = await promise;
  if (!got) throw new Error(`waited in vain for ${what}`);
  return got;
}

// Runs in the page: where an element is, scrolled to if it has to be. `>>>` goes on inside of open shadow roots.
function locate(selector, focus) {
  const all = (root) => [root, ...[...root.querySelectorAll('*')].flatMap((e) => (e.shadowRoot ? all(e.shadowRoot) : []))];
  const [first, ...deeper] = selector.split('>>>').map((part) => part.trim());
  let found = [...document.querySelectorAll(first || ':root')];
  for (const part of deeper) {
    found = found.flatMap((e) => [e, ...e.querySelectorAll('*')]).filter((e) => e.shadowRoot)
      .flatMap((e) => all(e.shadowRoot)).flatMap((root) => [...root.querySelectorAll(part)]);
  }
  const [element] = found;
  if (!element) return null;
  if (focus) return element.focus();
  const box = () => [...element.getClientRects()].find((rect) => rect.width && rect.height);
  const centre = (rect) => rect && { x: rect.x + rect.width / 2, y: rect.y + rect.height / 2 };
  const seen = (at) => at && at.x >= 0 && at.y >= 0 && at.x < innerWidth && at.y < innerHeight;
  if (!seen(centre(box()))) element.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
  return centre(box());
}

// An expression whose value is awaited, as JSON: the same for every browser.
const asJson = (js) => `(async () => JSON.stringify(await (${js}\n)) ?? null)()`;

// Which document a tab shows, and how far it is. A document has begun when it answers.
const DOCUMENT = '({ id: `${performance.timeOrigin} ${location.href}`, state: document.readyState })';
const FAR_ENOUGH = { commit: ['loading', 'interactive', 'complete'], dom: ['interactive', 'complete'], load: ['complete'] };
const MODIFIERS = { ctrl: 'Control', shift: 'Shift', meta: 'Meta' };

// Chromium by the DevTools protocol, Firefox by WebDriver BiDi.
class Puppeteer {
  #tabs = []; // a number is an index
  #numbers = new Map();
  #visitors = [];
  #console = new Map();
  #first; // what the browser opened by itself: Firefox would end without it

  static async start(kind) {
    const { default: puppeteer, CDPSessionEvent } = createRequire(join(modules, 'x'))('puppeteer-core');
    const common = { defaultViewport: null, networkEnabled: false, protocolTimeout: PATIENCE };
    const self = new this();
    self.events = CDPSessionEvent;
    self.browser = await this[kind](puppeteer, common);
    self.#first = new Set(await self.browser.pages());
    self.#visitors.push(self.browser.defaultBrowserContext());
    self.browser.on('targetcreated', (target) => target.type() === 'page' && target.page().then((page) => self.#number(page)).catch(() => {}));
    self.name = await self.browser.version();
    return self;
  }

  // None of Puppeteer's own flags: some of them change what pages see. It ends when its pipe does.
  static async chromium(puppeteer, common) {
    const args = ['--headless=new', `--user-data-dir=${folder}/profile`, '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-default-apps', '--disable-sync',
      '--disable-breakpad', '--password-store=basic', '--mute-audio', 'about:blank'];
    // the sandbox does not work for root, and the pages are ours
    if (process.getuid() === 0) args.unshift('--no-sandbox');
    const browser = await puppeteer.launch({ ...common, executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      ignoreDefaultArgs: true, args, pipe: true, env, timeout: PATIENCE });
    children.push(browser.process());
    return browser;
  }

  // Started here: Puppeteer would put all sites in one process. Firefox itself turns off its use of the network
  // (remote.prefs.recommended) when it is driven.
  static async firefox(puppeteer, common) {
    const prefs = { 'browser.startup.page': 0, 'browser.aboutwelcome.enabled': false };
    const lines = Object.entries(prefs).map(([key, value]) => `user_pref(${JSON.stringify(key)}, ${JSON.stringify(value)});\n`);
    await writeFile(`${folder}/user.js`, lines.join(''));
    const child = start(process.env.FIREFOX ?? '/usr/bin/firefox-esr',
      ['--headless', '--no-remote', '--profile', folder, '--remote-debugging-port', '0', 'about:blank']);
    const endpoint = await said(child, child.stderr, /^WebDriver BiDi listening on (ws:\/\/\S+)/m);
    return puppeteer.connect({ ...common, browserWSEndpoint: `${endpoint}/session`, protocol: 'webDriverBiDi' });
  }

  async end() {
    await this.browser.close();
  }

  // A tab is heard from the moment that it is known.
  #number(page) {
    if (this.#numbers.has(page)) return this.#numbers.get(page);
    if (this.#first.has(page)) return undefined;
    const tab = this.#tabs.push(page) - 1;
    this.#numbers.set(page, tab);
    this.#console.set(tab, new Map());
    this.#hear(page, this.#console.get(tab));
    return tab;
  }

  // Puppeteer's own events know neither time nor page. A browser says all again when it goes back to a page that it
  // kept; the same at the same time is the same. The limits of violations are those of Chromium's developer tools.
  #hear(page, heard) {
    const add = (at, text, from) => heard.has(at + text) || heard.set(at + text, { text, from });
    if (kind === 'firefox') {
      const { browsingContext } = page.mainFrame();
      const url = (realm) => browsingContext.userContext.browser.session
        .send('script.evaluate', { expression: 'location.href', target: { realm }, awaitPromise: false })
        .then(({ result }) => result.result.value).catch(() => page.url());
      browsingContext.on('log', ({ entry }) => {
        const text = entry.type === 'javascript' ? `uncaught: ${entry.text}` : `${entry.method ?? entry.level}: ${entry.text}`;
        add(entry.timestamp, text, url(entry.source.realm));
      });
      return;
    }
    const limits = { longTask: 200, longLayout: 30, blockedEvent: 100, blockedParser: -1, handler: 150, recurringHandler: 50, discouragedAPIUse: -1 };
    const config = Object.entries(limits).map(([name, threshold]) => ({ name, threshold }));
    const plain = (value) => value.value ?? value.unserializableValue ?? value.description?.split('\n')[0] ?? value.type;
    const name = (level) => (level === 'warning' ? 'warn' : level);
    // A session that is attached to a page by itself, and not by its tab, would turn prerendering off: this one is
    // Puppeteer's. A page that is prerendered has another one.
    const listen = (session) => {
      const url = () => (session === page._client() ? page.url() : session.target().url());
      session.on('Runtime.consoleAPICalled', ({ timestamp, type, args }) => add(timestamp, `${name(type)}: ${args.map(plain).join(' ')}`, url()));
      session.on('Runtime.exceptionThrown', ({ timestamp, exceptionDetails: { exception, text } }) => add(timestamp, `uncaught: ${exception ? plain(exception) : text}`, url()));
      session.on('Log.entryAdded', ({ entry }) => add(entry.timestamp,
        entry.source === 'violation' ? `violation: ${entry.text}` : `${name(entry.level)}: ${entry.text}${entry.url ? ` (${entry.url})` : ''}`, url()));
      session.send('Log.enable').catch(() => {});
      session.send('Log.startViolationsReport', { config }).catch(() => {}); // the tab may be closed already
    };
    listen(page._client());
    page._client().parentSession().on(this.events.Ready, (session) => session.target().type() === 'page' && listen(session));
  }

  #page(tab) {
    const page = this.#tabs[tab];
    if (!page || page.isClosed()) throw new Error(`no tab ${tab}`);
    return page;
  }

  async visitor() { return this.#visitors.push(await this.browser.createBrowserContext()) - 1; }
  async open(visitor) { return this.#number(await this.#visitors[visitor].newPage()); }
  async close(tab) { await this.#page(tab).close(); }
  async front(tab) { await this.#page(tab).bringToFront(); }
  async eval(tab, js) { return JSON.parse(await this.#page(tab).evaluate(asJson(js))); }
  async console(tab) {
    return Promise.all([...this.#console.get(tab).values()].map(async ({ text, from }) => ({ page: await from, text })));
  }
  async tabs() { return this.#tabs.flatMap((page, tab) => (page.isClosed() ? [] : [tab])); }
  // Chromium answers nothing that is evaluated while a page is being left, and Puppeteer knows where it is. Of Firefox
  // it knows that only when the page is whole.
  async url(tab) { return kind === 'chromium' ? this.#page(tab).url() : this.eval(tab, 'location.href'); }

  // Ends when the browser gives up or has what it went for, whichever is first. That is looked for by whoever called.
  async navigate(tab, url) { await this.#page(tab).goto(url, { waitUntil: 'domcontentloaded', timeout: PATIENCE }); }
  async traverse(tab) {
    if (kind === 'firefox') return this.#page(tab).mainFrame().browsingContext.traverseHistory(-1);
    await this.#page(tab).goBack({ waitUntil: 'domcontentloaded', timeout: PATIENCE });
  }

  async mouse(tab, { x, y }, button) { await this.#page(tab).mouse.click(x, y, { button }); }
  async key(tab, key, what) { await this.#page(tab).keyboard[what](key); }

  async layouts(tab) {
    const { LayoutCount, RecalcStyleCount } = await this.#page(tab).metrics();
    if (LayoutCount === undefined) throw new Error('only Chromium counts layouts');
    return { layouts: LayoutCount, styles: RecalcStyleCount };
  }
}

// WebKitGTK's MiniBrowser by W3C WebDriver, on a display of its own. There is one session, so all visitors are the
// same one; and there is no console, which is silent here.
class WebKit {
  #windows = []; // a number is an index
  #at;

  static async start() {
    const self = new this();
    const display = start('Xvfb', ['-displayfd', '3', '-screen', '0', '1280x1024x24', '-nolisten', 'tcp'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
    const DISPLAY = `:${await said(display, display.stdio[3], /^(\d+)\n/)}`;
    const port = await new Promise((resolve) => {
      const free = createServer().listen(0, '127.0.0.1', () => { const { port } = free.address(); free.close(() => resolve(port)); });
    });
    start('WebKitWebDriver', ['--host=127.0.0.1', `--port=${port}`], { stdio: 'ignore', DISPLAY });
    self.base = `http://127.0.0.1:${port}`;
    await must('WebKitWebDriver', until(PATIENCE, () => fetch(`${self.base}/status`).then((reply) => reply.ok, () => false)));
    // what is waited for is waited for here
    const wanted = { alwaysMatch: { pageLoadStrategy: 'none', timeouts: { script: PATIENCE } } };
    const { sessionId, capabilities } = await self.#call('POST', '/session', { capabilities: wanted });
    self.base += `/session/${sessionId}`;
    self.#at = self.first = await self.#call('GET', '/window');
    self.unused = true;
    self.name = `${capabilities.browserName}/${capabilities.browserVersion}`;
    return self;
  }

  async #call(method, path, body) {
    const reply = await fetch(this.base + path, { method, body: body && JSON.stringify(body), headers: { 'content-type': 'application/json' } });
    const { value } = await reply.json();
    if (!reply.ok) throw new Error(`${method} ${path}: ${value.error}: ${value.message}`);
    return value;
  }

  async #in(tab, method, path, body) {
    const window = this.#windows[tab];
    if (window === undefined) throw new Error(`no tab ${tab}`);
    if (this.#at !== window) await this.#call('POST', '/window', { handle: window });
    this.#at = window;
    return this.#call(method, path, body);
  }

  async end() { await this.#call('DELETE', ''); }
  async visitor() { return 0; }
  // A new tab would stay behind, and what is not seen takes no input: a window each.
  async open() {
    const window = this.unused ? this.first : (await this.#call('POST', '/window/new', { type: 'window' })).handle;
    this.unused = false;
    return this.#windows.push(window) - 1;
  }
  async close(tab) { await this.#in(tab, 'DELETE', '/window'); this.#at = undefined; }
  async front(tab) { await this.#in(tab, 'GET', '/window'); }
  async console() { return []; }
  async layouts() { throw new Error('only Chromium counts layouts'); }
  async navigate(tab, url) { await this.#in(tab, 'POST', '/url', { url }); }
  async traverse(tab) { await this.#in(tab, 'POST', '/back', {}); }

  async eval(tab, js) {
    const script = `const done = arguments[0]; ${asJson(js)}.then((json) => done({ json }), (error) => done({ error: String(error) }));`;
    const { json, error } = await this.#in(tab, 'POST', '/execute/async', { script, args: [] });
    if (error) throw new Error(error);
    return JSON.parse(json);
  }

  async url(tab) { return this.eval(tab, 'location.href'); }
  async tabs() {
    const open = (await this.#call('GET', '/window/handles')).filter((window) => !this.unused || window !== this.first);
    this.#windows.push(...open.filter((window) => !this.#windows.includes(window)));
    return [...this.#windows.keys()].filter((tab) => open.includes(this.#windows[tab]));
  }

  async mouse(tab, { x, y }, button) {
    const press = { button: ['left', 'middle', 'right'].indexOf(button) };
    const actions = [{ type: 'pointerMove', x: Math.floor(x), y: Math.floor(y) }, { type: 'pointerDown', ...press }, { type: 'pointerUp', ...press }];
    await this.#in(tab, 'POST', '/actions', { actions: [{ type: 'pointer', id: 'mouse', actions }] });
  }

  async key(tab, key, what) {
    const value = { Enter: '\uE007', Control: '\uE009', Shift: '\uE008', Meta: '\uE03D' }[key];
    const actions = (what === 'press' ? ['Down', 'Up'] : [what[0].toUpperCase() + what.slice(1)]).map((way) => ({ type: `key${way}`, value }));
    await this.#in(tab, 'POST', '/actions', { actions: [{ type: 'key', id: 'keys', actions }] });
  }
}

// What can be asked for, of any browser.
class Hands {
  constructor(browser) { this.browser = browser; }

  visitor() { return this.browser.visitor(); }
  async open({ visitor = 0, url, until }) {
    const tab = await this.browser.open(visitor);
    if (url) await this.go({ tab, url, until });
    return tab;
  }
  go({ tab, url, until }) { return this.#leave(tab, until, () => this.browser.navigate(tab, url)); }
  back({ tab, until }) { return this.#leave(tab, until, () => this.browser.traverse(tab)); }
  close({ tab }) { return this.browser.close(tab); }
  front({ tab }) { return this.browser.front(tab); }
  eval({ tab, js }) { return this.browser.eval(tab, js); }
  async tabs() {
    const tabs = [];
    for (const tab of await this.browser.tabs()) tabs.push({ tab, url: await this.url({ tab }).catch(() => '') });
    return tabs;
  }
  console({ tab }) { return this.browser.console(tab); }
  layouts({ tab }) { return this.browser.layouts(tab); }
  url({ tab }) { return this.browser.url(tab); }

  // A tab that is just leaving its page gives no answer.
  #document(tab) { return this.browser.eval(tab, DOCUMENT).catch(() => ({})); }

  async wait_url({ tab, starts, timeout_ms = PATIENCE }) {
    return await until(timeout_ms, async () => (await this.url({ tab }).catch(() => '')).startsWith(starts)) ?? false;
  }

  // Until another document is there, and as far as it is to be.
  async #leave(tab, far = 'load', leave) {
    const before = (await this.browser.eval(tab, DOCUMENT)).id;
    let failed;
    leave().catch((error) => { failed = error; });
    await must(`another page (${far})`, until(PATIENCE, async () => {
      if (failed) throw failed;
      const { id, state } = await this.#document(tab);
      // a new tab of Firefox is blank twice
      return id !== undefined && id !== before && !id.endsWith('about:blank') && FAR_ENOUGH[far].includes(state);
    }));
  }

  // Waits for nothing that comes of it. What the page does at once may cut off the answer to the input.
  async click({ tab, selector, how }) {
    const find = (focus) => this.browser.eval(tab, `(${locate})(${JSON.stringify(selector)}, ${focus})`);
    const at = await find(false);
    if (!at) throw new Error(`nothing to click at ${selector}`);
    const input = async () => {
      if (how === 'enter') return this.browser.key(tab, 'Enter', 'press');
      const modifier = MODIFIERS[how];
      if (modifier) await this.browser.key(tab, modifier, 'down');
      await this.browser.mouse(tab, at, modifier ? 'left' : how);
      if (modifier) await this.browser.key(tab, modifier, 'up');
    };
    if (how === 'enter') await find(true);
    await Promise.race([input().catch((error) => console.error(`${how} on ${selector}: ${error.message}`)), pause(1000)]);
  }
}

let browser;
let ending = false;
async function end(status) {
  if (ending) return;
  ending = true;
  await Promise.race([browser?.end().catch(() => {}), pause(3000)]);
  for (const child of children) child.kill('SIGKILL');
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  process.exit(status);
}

// One after the other, as they come.
let turn = Promise.resolve();
const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
createInterface({ input: process.stdin }).on('close', () => end(0)).on('line', (line) => {
  turn = turn.then(async () => {
    const request = JSON.parse(line);
    answer({ ok: (await new Hands(browser)[request.do](request)) ?? null });
  }).catch((error) => answer({ error: error.message }));
});
process.stdout.on('error', () => end(0));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end(1));
process.on('unhandledRejection', (error) => console.error(error));

try {
  browser = await (kind === 'webkit' ? WebKit : Puppeteer).start(kind);
  answer({ ready: browser.name });
} catch (error) {
  answer({ error: error.message });
  await end(1);
}
