<?php
// Sends events to a Tallylight collector by UDP, numbered as proto/DATAGRAMS.md says, and never waits for it.
//
//   require 'tallylight.php';
//   $sender = new Tallylight('127.0.0.1:5001');  // with key: file_get_contents('udp.key') tagged
//   $sender->send(['site' => 'books', 'event' => 'click', 'target' => $url]);
//
//   php tallylight.php 127.0.0.1:5001 [KEYFILE] < lines
//
// What is sent in a request leaves at its end, or when a datagram is full. For PHP each request is a start. A source
// each would flood the collector's table, and nothing would ever be missing between numbers; so the source and its
// next number outlive the request, shared by all processes of this user: in APCu, or else in a small file.
final class Tallylight
{
    private const MAX_EVENTS = 1000;
    private const BASE = 1 << 50;
    private $socket;
    private ?array $key;
    private int $most;
    private string $name;
    private array $lines = [];
    private int $bytes = 0;
    private ?array $own = null;

    public function __construct(string $to, ?string $key = null, int $size = 1400) // passes nearly everywhere in one piece
    {
        $this->socket = @stream_socket_client("udp://$to");
        $this->socket && stream_set_blocking($this->socket, false);
        $this->key = $key === null ? null : self::firstKey($key);
        $this->most = $size - ($key === null ? 24 : 40);
        // numbers belong to one collector and one key
        $this->name = 'tallylight-' . substr(hash('sha256', $to . ' ' . ($this->key[0] ?? '')), 0, 16);
        register_shutdown_function([$this, 'flush']);
    }

    /** Takes an event. False: it does not fit into a datagram. */
    public function send(array $fields): bool
    {
        return $this->line(http_build_query($fields));
    }

    /** The same for a query string or JSON object as it is. */
    public function line(string $line): bool
    {
        if ($line === '' || strlen($line) > $this->most) {
            return false;
        }
        if ($this->bytes + strlen($line) > $this->most || count($this->lines) === self::MAX_EVENTS) {
            $this->flush();
        }
        $this->lines[] = $line;
        $this->bytes += strlen($line) + 1; // with what parts it from the next one
        return true;
    }

    /** Sends what waits. A program that runs for long calls it now and then. */
    public function flush(bool $is_last = false): void
    {
        if ($this->lines !== []) {
            [$source, $number, $heartbeat] = $this->number(); // used up, sent or not: the hole tells the collector
            $this->out(self::frame($source, $number, implode("\n", $this->lines), $this->key));
            ($heartbeat || $is_last) && $this->out(self::frame($source, $number + 1, '', $this->key));
            [$this->lines, $this->bytes] = [[], 0];
        }
    }

    /** A datagram's bytes; `$source` is 8 bytes, `$key` an id and a secret. No body: a heartbeat. */
    public static function frame(string $source, int $sequence, string $body, ?array $key = null): string
    {
        $signed = "\xf5TL\x01" . pack('CCn', $key === null ? 0 : 1, $key[0] ?? 0, 0) . $source . pack('J', $sequence) . $body;
        return $signed . ($key === null ? '' : substr(hash_hmac('sha256', $signed, $key[1], true), 0, 16));
    }

    /** The first key of a key file, which is the one that signs: lines of `ID HEX`, # comments. */
    public static function firstKey(string $text): array
    {
        [$id, $secret] = preg_split('/\s+/', trim(preg_replace('/#.*/', '', $text)));
        return [(int) $id, hex2bin($secret)];
    }

    private function out(string $datagram): void
    {
        // false: nobody listened to an earlier one. If it means anything else, the same bytes again do no harm
        $this->socket && (@fwrite($this->socket, $datagram) || @fwrite($this->socket, $datagram));
    }

    /** The source, a number that nobody else has, and whether a heartbeat is due, which is once a second. */
    private function number(): array
    {
        if (function_exists('apcu_enabled') && apcu_enabled()) {
            return $this->numberFromApcu();
        }
        return $this->numberFromFile() ?? $this->numberOfMyOwn();
    }

    private function numberFromApcu(): array
    {
        $name = $this->name;
        for (;;) {
            $source = apcu_entry($name, function () use ($name) {
                $source = random_bytes(8);
                apcu_store($name . $source, self::BASE);
                return $source;
            });
            // a counter that was cleared away begins again far below the base: then source and all are drawn anew
            $number = (int) apcu_inc($name . $source) - self::BASE;
            if ($number > 0) {
                return [$source, $number, apcu_add("$name heartbeat", 1, 1)];
            }
            apcu_delete($name);
        }
    }

    /** Null if there is no file that is ours alone. */
    private function numberFromFile(): ?array
    {
        // in a folder of our own, so that nobody else can put anything in its place
        $probe = @tmpfile();
        if (!$probe) {
            return null;
        }
        $me = fstat($probe)['uid'];
        $folder = sys_get_temp_dir() . "/tallylight-$me";
        @mkdir($folder, 0700);
        $is = @lstat($folder) ?: ['mode' => 0, 'uid' => -1];
        if ($is['mode'] !== 040700 || $is['uid'] !== $me || !($file = @fopen("$folder/$this->name", 'c+'))) {
            return null;
        }
        chmod("$folder/$this->name", 0600);
        flock($file, LOCK_EX);
        // what a power cut left may be old, and numbers must not go back: a source does not outlive the boot
        $boot = trim((string) @file_get_contents('/proc/sys/kernel/random/boot_id')) ?: '-';
        $known = preg_match('/^(\S+) (\w{16}) (\d{15}) (\d{10})\n/', stream_get_contents($file), $is) && $is[1] === $boot;
        [$source, $number, $heartbeat] = $known ? [$is[2], (int) $is[3], (int) $is[4]] : [bin2hex(random_bytes(8)), 1, 0];
        $now = time();
        rewind($file);
        // of one length, so that one write replaces it
        $state = sprintf("%s %s %015d %010d\n", $boot, $source, $number + 1, $now);
        $isKept = @fwrite($file, $state) === strlen($state) && @fflush($file);
        fclose($file);
        if (!$isKept) {
            // the next request would use the same number again
            return null;
        }
        return [hex2bin($source), $number, $heartbeat < $now];
    }

    /** Better a source for a request than no number. */
    private function numberOfMyOwn(): array
    {
        $this->own ??= [random_bytes(8), 0, true];
        $this->own[1] += 1;
        return $this->own;
    }
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    $sender = new Tallylight($argv[1], isset($argv[2]) ? file_get_contents($argv[2]) : null);
    for ($number = 1, $skipped = 0; ($line = fgets(STDIN)) !== false; $number++) {
        $line = trim($line);
        if ($line !== '' && !$sender->line($line)) {
            fwrite(STDERR, "line $number does not fit into a datagram: skipped\n");
            $skipped++;
        }
        $number % 20 || usleep(1000); // the collector has to keep up
    }
    $sender->flush(true);
    exit($skipped > 0 ? 1 : 0);
}
