import { createServer } from 'node:net';
import { PATIENCE, asJson, must, said, start, until } from './processes.mjs';

// WebKitGTK's MiniBrowser by W3C WebDriver, on a display of its own. There is one session, so all visitors are the
// same one; and there is no console, which is silent here.
export class WebKit {
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
    self.name = `${capabilities.browserName}/${capabilities.browserVersion}`;
    return self;
  }

  async #call(method, path, body) {
    const reply = await fetch(this.base + path, { method, body: body && JSON.stringify(body), headers: { 'content-type': 'application/json' }, signal: AbortSignal.timeout(PATIENCE) });
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
  // A new tab would stay behind, and what is not seen takes no input: a window each. The first one stays, since the
  // session ends with the last.
  async open() {
    return this.#windows.push((await this.#call('POST', '/window/new', { type: 'window' })).handle) - 1;
  }
  async close(tab) {
    await this.#in(tab, 'DELETE', '/window');
    await this.#call('POST', '/window', { handle: this.first });
    this.#at = this.first;
  }
  async front(tab) { await this.#in(tab, 'GET', '/window'); }
  async cookies(tab) { return (await this.#in(tab, 'GET', '/cookie')).length; } // of this site
  async console() { return []; }
  async layouts() { throw new Error('only Chromium counts layouts'); }
  async navigate(tab, url) { await this.#in(tab, 'POST', '/url', { url }); }
  async traverse(tab) { await this.#in(tab, 'POST', '/back', {}); }

  async eval(tab, js) {
    return JSON.parse(await this.#in(tab, 'POST', '/execute/sync', { script: `return ${asJson(js)}`, args: [] }));
  }

  async url(tab) { return this.eval(tab, 'location.href'); }
  async tabs() {
    const open = (await this.#call('GET', '/window/handles')).filter((window) => window !== this.first);
    this.#windows.push(...open.filter((window) => !this.#windows.includes(window)));
    return [...this.#windows.keys()].filter((tab) => open.includes(this.#windows[tab]));
  }

  async move(tab, at) { await this.#point(tab, at, []); }
  async mouse(tab, at, button) {
    const press = { button: ['left', 'middle', 'right'].indexOf(button) };
    await this.#point(tab, at, [{ type: 'pointerDown', ...press }, { type: 'pointerUp', ...press }]);
  }

  async #point(tab, { x, y }, then) {
    const actions = [{ type: 'pointerMove', x: Math.floor(x), y: Math.floor(y) }, ...then];
    await this.#in(tab, 'POST', '/actions', { actions: [{ type: 'pointer', id: 'mouse', actions }] });
  }

  async key(tab, key, what) {
    const value = { Enter: '\uE007', Control: '\uE009', Shift: '\uE008', Meta: '\uE03D' }[key];
    const actions = (what === 'press' ? ['Down', 'Up'] : [what[0].toUpperCase() + what.slice(1)]).map((way) => ({ type: `key${way}`, value }));
    await this.#in(tab, 'POST', '/actions', { actions: [{ type: 'key', id: 'keys', actions }] });
  }
}
