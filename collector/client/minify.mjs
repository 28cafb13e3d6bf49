// Prints what is served as /beacon.js: beacon.js made small.
//
//   node minify.mjs NODE_MODULES > beacon.min.js
//
// NODE_MODULES is a folder with uglify-js in it; `make client` has one.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [modules] = process.argv.slice(2);
const { minify } = createRequire(import.meta.url)(resolve(modules, 'uglify-js'));

const source = readFileSync(new URL('beacon.js', import.meta.url), 'utf8');
const { code, error } = minify(source, { compress: { passes: 4, unsafe: true, unsafe_math: true } });
if (error) throw error;
process.stdout.write(code);
