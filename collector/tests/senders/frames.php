<?php
// php frames.php FOLDER VECTORS: prints what the sender makes of each framed vector, in hex, one a line.
require "$argv[1]/tallylight.php";

$vectors = json_decode(file_get_contents($argv[2]), true);
$zeros = str_repeat('00', 32);
$key = Tallylight::firstKey("# ours\n\n{$vectors['key']['id']} {$vectors['key']['secret']} # new\n9 $zeros\n");
foreach ($vectors['framed'] as ['source' => $source, 'sequence' => $sequence, 'body' => $body, 'key' => $id]) {
    echo bin2hex(Tallylight::frame(hex2bin($source), $sequence, $body, $id === null ? null : $key)), "\n";
}
