// Drives Debian's Chromium like a visitor and prints what happened as one JSON object a line.
//
//   node pages.mjs PLAYWRIGHT_CORE SCENARIO
//
// SCENARIO is `origin`: the two pages that this project was made for, unchanged, on a site of their own;
// `credentialed`: beacons that a page sends to the collector with credentials, which ask for permission first;
// `demo`: the bookshop that the collector itself serves with --demo.
// The collector is at http://localhost:5000, its default, which those pages name literally.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [playwright, scenario] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const COLLECTOR = 'http://localhost:5000';

const page = (title, body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>${body}</html>`;

const PAGES = {
  '/returns-true': page('a', `
    <a id="link" href="/destination"
       onclick="(new Image()).src = 'http://localhost:5000/api/beacon'; return true">a book</a>`),
  '/waits-for-image': page('b', `
    <script>
      function track(link) {
        var image = new Image();
        image.onload = image.onerror = function () { location.href = link.href; };
        image.src = 'http://localhost:5000/api/beacon';
        return false;
      }
    </script>
    <a id="link" href="/destination" onclick="return track(this)">a book</a>`),
  '/credentialed': page('c', '<p>a page of a customer</p>'),
  '/destination': page('destination', '<p>arrived</p>'),
};

// The customer's site. Its destination takes as long as a near server does: with an answer in no time at all
// Chromium may drop an image that it has only just been asked for.
const site = createServer((request, response) => {
  const body = PAGES[request.url];
  if (body === undefined) return response.writeHead(request.url === '/favicon.ico' ? 204 : 404).end();
  setTimeout(() => {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(body);
  }, request.url === '/destination' ? 100 : 0);
});
await new Promise((listening) => site.listen(0, '127.0.0.1', listening));
const origin = `http://127.0.0.1:${site.address().port}`;

// The sandbox of Chromium does not work for root, and the pages are ours.
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox'],
});

// A new visitor each: runs `visit` on a page and prints what it gave, with what the console said.
async function visitor(name, visit) {
  const context = await browser.newContext();
  const tab = await context.newPage();
  const said = [];
  tab.on('console', (message) => said.push(`${message.type()}: ${message.text()}`));
  tab.on('pageerror', (error) => said.push(`uncaught: ${error.message}`));
  const result = await visit(tab);
  console.log(JSON.stringify({ name, origin, ...result, console: said }));
  await context.close();
}

async function clickThrough(tab, path) {
  await tab.goto(origin + path);
  await tab.click('#link', { noWaitAfter: true });
  await tab.waitForURL('**/destination');
  return { arrived: await tab.title() };
}

const scenarios = {
  async origin() {
    await visitor('returns-true', (tab) => clickThrough(tab, '/returns-true'));
    await visitor('waits-for-image', (tab) => clickThrough(tab, '/waits-for-image'));
  },

  async credentialed() {
    await visitor('credentialed', async (tab) => {
      await tab.goto(`${origin}/credentialed`);
      const statuses = await tab.evaluate(async (url) => {
        const post = (url, name) => fetch(url, {
          method: 'POST',
          credentials: 'include',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ event: 'credentialed', item: name }),
        });
        const first = (await post(url, 'fetch')).status;
        // a frame without an origin of its own: its Origin is "null"
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts';
        frame.srcdoc = `<script>
          (${post})('${url}', 'sandboxed frame')
            .then((response) => parent.postMessage(response.status, '*'), (error) => parent.postMessage(String(error), '*'));
        </script>`;
        const answer = new Promise((done) => addEventListener('message', (message) => done(message.data), { once: true }));
        document.body.append(frame);
        const second = await answer;
        const queued = navigator.sendBeacon(url, new Blob(
          [JSON.stringify({ event: 'credentialed', item: 'sendBeacon' })], { type: 'application/json' }));
        return [first, second, queued];
      }, `${COLLECTOR}/api/beacon`);
      // a beacon tells the page nothing: give it the time that a visitor would
      await tab.waitForTimeout(500);
      return { statuses, cookies: (await tab.context().cookies()).length };
    });
  },

  async demo() {
    await visitor('demo', async (tab) => {
      await tab.goto(`${COLLECTOR}/demo/`);
      const home = await tab.title();
      const link = tab.locator('a[data-placement="recommended"]').first();
      const { href, item } = await link.evaluate((a) => ({ href: a.href, item: a.dataset.item }));
      await link.click();
      await tab.waitForURL(href);
      return { home, href, item, arrived: tab.url(), heading: await tab.locator("#book h1").innerText() };
    });
    await visitor('demo-middle-click', async (tab) => {
      await tab.goto(`${COLLECTOR}/demo/`);
      const link = tab.locator('a[data-placement="recommended"]').nth(1);
      const { href, item } = await link.evaluate((a) => ({ href: a.href, item: a.dataset.item }));
      const opened = tab.context().waitForEvent('page');
      await link.click({ button: 'middle' });
      const other = await opened;
      await other.waitForURL(href);
      return { href, item, arrived: other.url() };
    });
  },
};

try {
  await scenarios[scenario]();
} finally {
  await browser.close();
  site.close();
  site.closeAllConnections();
}
