"""Sends events to a Tallylight collector by UDP, numbered as proto/DATAGRAMS.md says, and never waits.

    from tallylight import Sender
    sender = Sender("127.0.0.1:5001")  # one a process; with key=open("udp.key").read() tagged
    sender.send(site="books", event="click", target=url)

    python3 tallylight.py 127.0.0.1:5001 [KEYFILE] < lines
"""
import atexit, hmac, os, socket, struct, sys, threading, time
from urllib.parse import urlencode

LINGER, HEARTBEAT, MAX_EVENTS = 0.01, 1.0, 1000


def frame(source, sequence, body, key=None):
    """A datagram's bytes; `key` is its id and secret. No body: a heartbeat."""
    head = struct.pack(">4sBBHQQ", b"\xf5TL\x01", bool(key), key[0] if key else 0, 0, source, sequence)
    return head + body + (hmac.digest(key[1], head + body, "sha256")[:16] if key else b"")


def first_key(text):
    """The first key of a key file, which is the one that signs: lines of `ID HEX`, # comments."""
    number, secret = next(words for line in text.splitlines() if (words := line.split("#")[0].split()))
    return int(number), bytes.fromhex(secret)


class Sender:
    def __init__(self, to, key=None, size=1400):  # so many bytes pass nearly everywhere in one piece
        host, port = to.rsplit(":", 1)
        family, kind, *_, addr = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(family, kind)
        self.socket.connect(addr)
        self.socket.setblocking(False)
        self.key, self.most = key and first_key(key), size - (40 if key else 24)
        self._start()
        os.register_at_fork(after_in_child=self._start)  # two must not use the same numbers
        atexit.register(self.flush)

    def _start(self):
        self.source, self.next, self.body = int.from_bytes(os.urandom(8), "big"), 1, b""
        self.lock, self.wake = threading.RLock(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, **fields):
        """Takes an event. False: it does not fit into a datagram."""
        return self.line(urlencode(fields).encode())

    def line(self, line):
        """The same for a query string or JSON object as it is."""
        if not 0 < len(line) <= self.most:
            return False
        with self.lock:
            if len(self.body) + 1 + len(line) > self.most or self.body.count(b"\n") == MAX_EVENTS - 1:
                self.flush(heartbeat=False)
            self.body += b"\n" + line if self.body else line
        self.wake.set()
        return True

    def flush(self, heartbeat=True):
        """Sends what waits, and says that this was all."""
        with self.lock:
            if self.body:
                self._out(self.body)
                self.body, self.next = b"", self.next + 1  # sent or not: the hole tells the collector
            if heartbeat:
                self._out(b"")

    def _out(self, body):
        for _ in range(2):
            try:
                return self.socket.send(frame(self.source, self.next, body, self.key))
            except OSError:  # of an earlier datagram, when nobody listened; twice the same bytes would do no harm
                pass

    def _run(self):
        while True:
            is_woken = self.wake.wait(HEARTBEAT)
            if is_woken:
                time.sleep(LINGER)  # for others to share the datagram
                self.wake.clear()
            self.flush(heartbeat=not is_woken)


if __name__ == "__main__":
    sender = Sender(sys.argv[1], key=open(sys.argv[2]).read() if len(sys.argv) > 2 else None)
    number_was, skipped = 1, 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        if (line := line.strip()) and not sender.line(line):
            print(f"line {number} does not fit into a datagram: skipped", file=sys.stderr)
            skipped += 1
        if sender.next != number_was:
            time.sleep(0.001)  # the collector has to keep up
            number_was = sender.next
    sys.exit(skipped > 0)
