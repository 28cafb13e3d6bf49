"""What stands in the two outputs, counted by DuckDB: in all, and for each target.

usage: totals.py OUT
"""

import json
import sys

import duckdb

out = sys.argv[1]
db = duckdb.connect()
events = f"read_parquet('{out}/events/*/*/*.parquet')"
hourly = f"read_parquet('{out}/hourly/*/*/*.parquet')"


def rows(query):
    answer = db.execute(query)
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row)) for row in answer.fetchall()]


[in_events] = rows(f"""
    select count(*) as rows, count(distinct id) as ids, count(distinct position) as positions,
           count(*) filter (bot) as bots
    from {events}""")
[in_hourly] = rows(f"""
    select sum(events)::bigint as events, sum(bot_events)::bigint as bot_events, sum(duplicates)::bigint as duplicates,
           sum(late)::bigint as late, sum(client_lost)::bigint as client_lost, sum(value_sum) as value_sum
    from {hourly}""")
by_target = rows(f"""
    select target, sum(events)::bigint as events, sum(bot_events)::bigint as bot_events,
           sum(duplicates)::bigint as duplicates
    from {hourly} group by target""")
rows_by_target = dict(db.execute(f"select target, count(*) from {events} group by target").fetchall())

targets = {row.pop("target"): row for row in by_target}
for target, row in targets.items():
    row["rows"] = rows_by_target.pop(target, 0)
assert not rows_by_target, f"in events, but not in hourly: {rows_by_target}"
print(json.dumps({"events": in_events, "hourly": in_hourly, "targets": targets}))
