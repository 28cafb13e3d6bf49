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

import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { PATIENCE, children, folder, kind, must, until } from './processes.mjs';
import { Puppeteer } from './puppeteer.mjs';
import { WebKit } from './webkit.mjs';

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

// Which document a tab shows, and how far it is. A document has begun when it answers.
const DOCUMENT = '({ id: `${performance.timeOrigin} ${location.href}`, url: location.href, state: document.readyState })';
const FAR_ENOUGH = { commit: ['loading', 'interactive', 'complete'], dom: ['interactive', 'complete'], load: ['complete'] };
const MODIFIERS = { ctrl: 'Control', shift: 'Shift', meta: 'Meta' };

// What can be asked for, of any browser.
class Hands {
  constructor(browser) { this.browser = browser; }

  async open({ url, until }) {
    const tab = await this.browser.open();
    if (url) await this.go({ tab, url, until });
    return tab;
  }
  go({ tab, url, until }) { return this.#leave(tab, until, () => this.browser.navigate(tab, url), 'about:blank'); }
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
  cookies({ tab }) { return this.browser.cookies(tab); }
  layouts({ tab }) { return this.browser.layouts(tab); }
  url({ tab }) { return this.browser.url(tab); }

  // A tab that is just leaving its page gives no answer, or none ever.
  #document(tab) { return Promise.race([this.browser.eval(tab, DOCUMENT).catch(() => ({})), pause(2000, {})]); }

  async wait_url({ tab, starts, timeout_ms = PATIENCE }) {
    return await until(timeout_ms, async () => (await this.url({ tab }).catch(() => '')).startsWith(starts)) ?? false;
  }

  // Until another document is there, and as far as it is to be. A new tab of Firefox has several empty ones.
  async #leave(tab, far = 'load', leave, passing) {
    const before = (await this.browser.eval(tab, DOCUMENT)).id;
    let failed;
    leave().catch((error) => { failed = error; });
    await must(`another page (${far})`, until(PATIENCE, async () => {
      if (failed) throw failed;
      const { id, url, state } = await this.#document(tab);
      return id !== undefined && id !== before && url !== passing && FAR_ENOUGH[far].includes(state);
    }));
  }

  #locate(tab, selector, focus) { return this.browser.eval(tab, `(${locate})(${JSON.stringify(selector)}, ${focus})`); }

  async #find(tab, selector) {
    const at = await this.#locate(tab, selector, false);
    if (!at) throw new Error(`there is nothing at ${selector}`);
    return at;
  }

  async hover({ tab, selector }) {
    const { x, y } = await this.#find(tab, selector);
    this.hovers = (this.hovers ?? 0) + 1;
    await this.browser.move(tab, { x: x + this.hovers % 2, y });
  }

  // Waits for nothing that comes of it. What the page does at once may cut off the answer to the input.
  async click({ tab, selector, how }) {
    const at = await this.#find(tab, selector);
    const input = async () => {
      if (how === 'enter') return this.browser.key(tab, 'Enter', 'press');
      const modifier = MODIFIERS[how];
      if (modifier) await this.browser.key(tab, modifier, 'down');
      await this.browser.mouse(tab, at, modifier ? 'left' : how);
      if (modifier) await this.browser.key(tab, modifier, 'up');
    };
    if (how === 'enter') await this.#locate(tab, selector, true);
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
  }).catch((error) => answer({ error: `${error.message}`.split('\n')[0] }));
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
