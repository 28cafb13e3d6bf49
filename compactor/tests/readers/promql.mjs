// Reads expressions in PromQL, by Prometheus' own grammar: which series each asks for, and by which labels it goes.
//
//   node promql.mjs NODE_MODULES < expressions.json
//
// Takes a JSON array of expressions; prints one line, an array of {series: [...], labels: [...]}. What is asked not to be is among
// the series as what it is asked not to be: {reason!="x"} as {reason="x"}, which has to be there, too, or it excludes nothing.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

const [modules] = process.argv.slice(2);
const { parser } = createRequire(join(resolve(modules), 'x'))('@prometheus-io/lezer-promql');
const positive = { Neq: '=', NeqRegex: '=~' };

function read(expression) {
  const [series, labels, negations] = [new Set(), new Set(), []];
  const text = (from, to) => expression.slice(from, to);
  parser.parse(expression).iterate({
    enter({ type, from, to, node }) {
      if (type.isError) throw new Error(`at ${from} of ${expression}`);
      if (node.parent?.name === 'MatchOp' && positive[type.name]) negations.push({ type, from, to });
      if (node.parent?.name === 'GroupingLabels') labels.add(text(from, to));
    },
    leave({ type, from, to }) {
      if (type.name !== 'VectorSelector') return;
      series.add(text(from, to));
      for (const not of negations.splice(0)) series.add(text(from, not.from) + positive[not.type.name] + text(not.to, to));
    },
  });
  return { series: [...series], labels: [...labels] };
}

const expressions = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(expressions.map(read)));
