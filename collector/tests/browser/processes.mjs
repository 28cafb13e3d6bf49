// What a browser needs around it: a folder that is its home, processes that do not outlive this one, and patience.

import { spawn } from 'node:child_process';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const [modules, kind] = process.argv.slice(2);
export const PATIENCE = 14_000; // twice that is less than the tests have: then it is said here what was waited for
export const folder = await mkdtemp(join(tmpdir(), `hands-${kind}-`));
export const env = { ...process.env, HOME: folder, TMPDIR: folder, XDG_CONFIG_HOME: '', XDG_CACHE_HOME: '', XDG_DATA_HOME: '', NO_AT_BRIDGE: '1' };
export const children = [];

// Starts a program that is killed when this ends, however this ends.
export function start(program, args, { stdio = ['ignore', 'ignore', 'pipe'], ...more } = {}) {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], { env: { ...env, ...more }, stdio });
  children.push(child);
  return child;
}

// What a child says, up to what is looked for in it.
export function said(child, stream, pattern) {
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
export async function until(timeout, look) {
  for (const end = Date.now() + timeout; ;) {
    const found = await look();
    if (found || Date.now() >= end) return found || undefined;
    await pause(5);
  }
}

export async function must(what, promise) {
  const got = await promise;
  if (!got) throw new Error(`waited in vain for ${what}`);
  return got;
}

// An expression whose value is awaited, as JSON: the same for every browser.
export const asJson = (js) => `(async () => JSON.stringify(await (${js}\n)) ?? 'null')()`;
