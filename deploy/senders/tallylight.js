'use strict';
// Sends events to a Tallylight collector by UDP, numbered as proto/DATAGRAMS.md says, and never waits.
//
//   const {Sender} = require('./tallylight.js');
//   const sender = new Sender('127.0.0.1:5001');  // one a process; with {key: readFileSync('udp.key', 'utf8')} tagged
//   sender.send({site: 'books', event: 'click', target: url});
//
//   node tallylight.js 127.0.0.1:5001 [KEYFILE] < lines
const {createHmac, randomBytes} = require('node:crypto');
const {createSocket} = require('node:dgram');
const {isIPv6} = require('node:net');

const LINGER_MS = 10, HEARTBEAT_MS = 1000, MAX_EVENTS = 1000, MAX_QUEUE = 1 << 20;

/** A datagram's bytes; `source` is 8 bytes, `key` {id, secret}. No body: a heartbeat. */
function frame(source, sequence, body, key) {
  const head = Buffer.from([0xf5, 0x54, 0x4c, 1, key ? 1 : 0, key ? key.id : 0, 0, 0, ...source, ...Buffer.alloc(8)]);
  head.writeUIntBE(sequence, 18, 6);
  const signed = Buffer.concat([head, body]);
  if (!key) return signed;
  return Buffer.concat([signed, createHmac('sha256', key.secret).update(signed).digest().subarray(0, 16)]);
}

/** The first key of a key file, which is the one that signs: lines of `ID HEX`, # comments. */
function firstKey(text) {
  const [id, secret] = text.replace(/#.*/g, '').trim().split(/\s+/);
  return {id: Number(id), secret: Buffer.from(secret, 'hex')};
}

class Sender {
  constructor(to, {key, size = 1400} = {}) {  // so many bytes pass nearly everywhere in one piece
    const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(to);
    Object.assign(this, {host, port: Number(port), key: key && firstKey(key), most: size - (key ? 40 : 24)});
    Object.assign(this, {source: randomBytes(8), next: 1, lines: [], bytes: 0, timer: null});
    this.socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4').on('error', () => {}).unref();
    this.heart = setInterval(() => this.spoken ? this.spoken = false : this.out(''), HEARTBEAT_MS).unref();
    process.once('beforeExit', () => this.close());
  }

  /** Takes an event. False: it does not fit into a datagram. */
  send(fields) { return this.line(new URLSearchParams(fields).toString()); }

  /** The same for a query string or JSON object as it is. */
  line(line) {
    const bytes = Buffer.byteLength(line);
    if (bytes === 0 || bytes > this.most) return false;
    if (this.bytes + bytes > this.most || this.lines.length === MAX_EVENTS) this.flush();
    this.lines.push(line);
    this.bytes += bytes + 1;  // with what parts it from the next one
    this.timer ??= setTimeout(() => this.flush(), LINGER_MS);  // for others to share the datagram
    return true;
  }

  /** Sends what waits. */
  flush() {
    clearTimeout(this.timer);
    if (this.lines.length > 0) this.out(this.lines.join('\n'));
    Object.assign(this, {timer: null, lines: [], bytes: 0});
  }

  /** Sends what waits, and says that this was all. To be awaited before `process.exit()`. */
  close() {
    clearInterval(this.heart);
    this.flush();
    return new Promise((done) => this.out('', done));
  }

  out(text, done = () => {}) {
    const datagram = frame(this.source, this.next, Buffer.from(text), this.key);
    if (text !== '') { this.next += 1; this.spoken = true; }  // sent or not: the hole tells the collector
    if (this.socket.getSendQueueSize() > MAX_QUEUE) return done();
    this.socket.send(datagram, this.port, this.host, () => done());
  }
}

module.exports = {Sender, frame, firstKey};

if (require.main === module) (async () => {
  const {readFileSync} = require('node:fs');
  const [, , to, keyFile] = process.argv;
  const sender = new Sender(to, {key: keyFile && readFileSync(keyFile, 'utf8')});
  let number = 0, numberWas = 1;
  for await (const line of require('node:readline').createInterface({input: process.stdin})) {
    number += 1;
    if (line.trim() !== '' && !sender.line(line)) {
      console.error(`line ${number} does not fit into a datagram: skipped`);
      process.exitCode = 1;
    }
    if (sender.next !== numberWas) await new Promise((done) => setTimeout(done, 1));  // the collector has to keep up
    numberWas = sender.next;
  }
})();
