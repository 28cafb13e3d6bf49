"""How good the estimates of visitors are: DuckDB counts them exactly, Apache DataSketches reads and merges the sketches.

usage: uniques.py OUT
"""

import json
import math
import sys

import duckdb
from datasketches import hll_sketch, hll_union, tgt_hll_type

out = sys.argv[1]
LG_K = 12
db = duckdb.connect()
counted = "count(distinct visitor) filter (not bot and visitor <> '')"
exact_rows = db.execute(f"""
    select epoch_ms(event_at) // 3600000, site, event, target, {counted}
    from read_parquet('{out}/events/*/*/*.parquet') group by 1, 2, 3, 4""").fetchall()
exact_merged = db.execute(f"""
    select site, event, target, {counted}
    from read_parquet('{out}/events/*/*/*.parquet') group by 1, 2, 3""").fetchall()
hourly = db.execute(f"""
    select epoch_ms(hour_start) // 3600000, site, event, target, visitors, visitors_sketch
    from read_parquet('{out}/hourly/*/*/*.parquet')""").fetchall()


def errors(estimates, exact, above):
    """Relative errors of the estimates of what is more than `above`."""
    return [estimates[key] / number - 1 for key, number in exact.items() if number > above]


def summary(relative):
    root_mean_square = math.sqrt(sum(error * error for error in relative) / max(len(relative), 1))
    return {"groups": len(relative), "rms": root_mean_square, "worst": max(map(abs, relative), default=0)}


# a row's number is what DataSketches says of its sketch, rounded
other_numbers = []
rows, unions = {}, {}
for hour, site, event, target, visitors, image in hourly:
    sketch = hll_sketch.deserialize(image)
    assert sketch.lg_config_k == LG_K and sketch.tgt_type == tgt_hll_type.HLL_8, (sketch.lg_config_k, sketch.tgt_type)
    if abs(sketch.get_estimate() - visitors) > 0.5:
        other_numbers.append([hour, site, event, target, visitors, sketch.get_estimate()])
    rows[hour, site, event, target] = visitors
    unions.setdefault((site, event, target), hll_union(LG_K)).update(sketch)

exact_rows = {tuple(row[:-1]): row[-1] for row in exact_rows}
exact_merged = {tuple(row[:-1]): row[-1] for row in exact_merged}
merged = {key: union.get_estimate() for key, union in unions.items()}
print(json.dumps({
    "rows": summary(errors(rows, exact_rows, 10_000)),
    "merged": summary(errors(merged, exact_merged, 10_000)),
    "other_numbers": other_numbers,
    "hours": len({key[0] for key in rows}),
}))
