// node frames.js FOLDER VECTORS: prints what the sender makes of each framed vector, in hex, one a line.
const {readFileSync} = require('node:fs');
const {join, resolve} = require('node:path');

const {firstKey, frame} = require(join(resolve(process.argv[2]), 'tallylight.js'));
const vectors = JSON.parse(readFileSync(process.argv[3], 'utf8'));
const ours = firstKey(`# ours\n\n${vectors.key.id} ${vectors.key.secret} # new\n9 ${'00'.repeat(32)}\n`);
for (const {source, sequence, body, key} of vectors.framed) {
  console.log(frame(Buffer.from(source, 'hex'), sequence, Buffer.from(body), key === null ? undefined : ours).toString('hex'));
}
