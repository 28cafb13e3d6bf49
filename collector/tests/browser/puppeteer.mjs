import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { PATIENCE, asJson, children, env, folder, kind, modules, must, said, start, until } from './processes.mjs';

// Chromium by the DevTools protocol, Firefox by WebDriver BiDi.
export class Puppeteer {
  #tabs = []; // a number is an index
  #numbers = new Map();
  #console = new Map();
  #urls = new WeakMap(); // of what a session of Chromium's shows: Puppeteer misses that a prerendered page is shown
  #first; // what the browser opened by itself: Firefox would end without it

  static async start(kind) {
    const { default: puppeteer, CDPSessionEvent } = createRequire(join(modules, 'x'))('puppeteer-core');
    const common = { defaultViewport: null, networkEnabled: false, protocolTimeout: PATIENCE };
    const self = new this();
    self.events = CDPSessionEvent;
    self.browser = await this[kind](puppeteer, common);
    self.#first = new Set(await self.browser.pages());
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
  // kept; the same at the same time is the same. Of what Chromium calls violations, those that no slow machine commits.
  #hear(page, heard) {
    const add = (at, text, from) => heard.has(at + text) || heard.set(at + text, { text, from });
    if (kind === 'firefox') {
      const url = (realm) => this.#evaluate(page, { realm }, 'location.href').catch(() => page.url());
      page.mainFrame().browsingContext.on('log', ({ entry }) => {
        const text = entry.type === 'javascript' ? `uncaught: ${entry.text}` : `${entry.method ?? entry.level}: ${entry.text}`;
        add(entry.timestamp, text, url(entry.source.realm));
      });
      return;
    }
    const config = ['blockedParser', 'discouragedAPIUse'].map((name) => ({ name, threshold: -1 }));
    const plain = (value) => value.value ?? value.unserializableValue ?? value.description?.split('\n')[0] ?? value.type;
    const name = (level) => (level === 'warning' ? 'warn' : level);
    // A session that is attached to a page by itself, and not by its tab, would turn prerendering off: this one is
    // Puppeteer's. A page that is prerendered has another one.
    const listen = (session) => {
      const url = () => this.#at(page, session);
      session.on('Page.frameNavigated', ({ frame }) => frame.parentId || this.#urls.set(session, frame.url));
      session.on('Page.navigatedWithinDocument', ({ frameId, url }) => frameId === page.mainFrame()._id && this.#urls.set(session, url));
      session.on('Runtime.consoleAPICalled', ({ timestamp, type, args }) => add(timestamp, `${name(type)}: ${args.map(plain).join(' ')}`, url()));
      session.on('Runtime.exceptionThrown', ({ timestamp, exceptionDetails: { exception, text } }) => add(timestamp, `uncaught: ${exception ? plain(exception) : text}`, url()));
      session.on('Log.entryAdded', ({ entry }) => add(entry.timestamp,
        entry.source === 'violation' ? `violation: ${entry.text}` : `${name(entry.level)}: ${entry.text}${entry.url ? ` (${entry.url})` : ''}`, url()));
      for (const [method, how] of [['Log.enable'], ['Log.startViolationsReport', { config }], ['Performance.enable']]) {
        session.send(method, how).catch(() => {}); // the tab may be closed already
      }
    };
    this.#urls.set(page._client(), page.url());
    listen(page._client());
    page._client().parentSession().on(this.events.Ready, (session) => session.target().type() === 'page' && listen(session));
  }

  #page(tab) {
    const page = this.#tabs[tab];
    if (!page || page.isClosed()) throw new Error(`no tab ${tab}`);
    return page;
  }

  async cookies(tab) { return (await this.#page(tab).browserContext().cookies()).length; }
  async open() { return this.#number(await this.browser.newPage()); }
  async close(tab) {
    const page = this.#page(tab);
    await page.close();
    await must('the end of a tab', until(PATIENCE, () => page.isClosed()));
  }
  async front(tab) { await this.#page(tab).bringToFront(); }
  // Puppeteer's own way would count as a touch of the visitor's, and finds no page that Chromium kept and came back to.
  async eval(tab, js) {
    const page = this.#page(tab);
    if (kind === 'firefox') return JSON.parse(await this.#evaluate(page, { context: page.mainFrame()._id }, asJson(js)));
    const asked = { expression: asJson(js), awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await page._client().send('Runtime.evaluate', asked);
    if (exceptionDetails) throw new Error(result.description ?? exceptionDetails.text);
    return JSON.parse(result.value);
  }
  async console(tab) {
    return Promise.all([...this.#console.get(tab).values()].map(async ({ text, from }) => ({ page: await from, text })));
  }
  async tabs() { return this.#tabs.flatMap((page, tab) => (page.isClosed() ? [] : [tab])); }
  // Chromium answers nothing that is evaluated while a page is being left.
  async url(tab) { return kind === 'chromium' ? this.#at(this.#page(tab)) : this.eval(tab, 'location.href'); }
  #at(page, session = page._client()) { return this.#urls.get(session) ?? session.target().url(); }

  // Fails if the browser does. Whether it is there is looked for by whoever called.
  async navigate(tab, url) {
    const page = this.#page(tab);
    if (kind === 'firefox') return page.goto(url, { waitUntil: 'domcontentloaded', timeout: PATIENCE });
    const { errorText } = await page._client().send('Page.navigate', { url, transitionType: 'typed' });
    if (errorText) throw new Error(`${errorText} at ${url}`);
  }
  async traverse(tab) {
    const page = this.#page(tab);
    if (kind === 'firefox') return page.mainFrame().browsingContext.traverseHistory(-1);
    const { currentIndex, entries } = await page._client().send('Page.getNavigationHistory');
    await page._client().send('Page.navigateToHistoryEntry', { entryId: entries[currentIndex - 1].id });
  }

  async move(tab, { x, y }) { await this.#page(tab).mouse.move(x, y); }
  async mouse(tab, { x, y }, button) { await this.#page(tab).mouse.click(x, y, { button }); }
  async key(tab, key, what) { await this.#page(tab).keyboard[what](key); }

  // Firefox.
  async #evaluate(page, target, expression) {
    const { session } = page.mainFrame().browsingContext.userContext.browser;
    const { result } = await session.send('script.evaluate', { expression, target, awaitPromise: true });
    if (result.type !== 'success') throw new Error(result.exceptionDetails.text);
    return result.result.value;
  }

  async layouts(tab) {
    if (kind !== 'chromium') throw new Error('only Chromium counts layouts');
    const { metrics } = await this.#page(tab)._client().send('Performance.getMetrics');
    const count = (name) => metrics.find((metric) => metric.name === name).value;
    return { layouts: count('LayoutCount'), styles: count('RecalcStyleCount') };
  }
}
