"""Whether both outputs tell the same: DuckDB groups `events` by itself and compares with `hourly`, group by group.

usage: agree.py OUT
"""

import json
import sys

import duckdb

out = sys.argv[1]
db = duckdb.connect()
# date and hour exist as folders only
folders = "hive_partitioning = true, hive_types = {'date': varchar, 'hour': varchar}"
db.execute(f"create view events as select * from read_parquet('{out}/events/*/*/*.parquet', {folders})")
db.execute(f"create view hourly as select * from read_parquet('{out}/hourly/*/*/*.parquet', {folders})")

db.execute("""
    create table ours as
    select epoch_ms(event_at) // 3600000 as hour_no, site, event, target,
           count(distinct id) filter (not bot) as events,
           count(distinct id) filter (bot) as bot_events,
           count(*) filter (not bot and epoch_ms(received_at) - epoch_ms(event_at) > 60000) as late,
           coalesce(sum(lost) filter (not bot), 0) as client_lost,
           sum(value) filter (not bot) as value_sum,
           min(epoch_ms(event_at)) filter (not bot) as first_at,
           max(epoch_ms(event_at)) filter (not bot) as last_at
    from events group by all""")
# a group of copies alone has no row in events
db.execute("""
    create table theirs as
    select epoch_ms(hour_start) // 3600000 as hour_no, site, event, target, events, bot_events, late, client_lost,
           value_sum, epoch_ms(first_at) as first_at, epoch_ms(last_at) as last_at
    from hourly where events > 0 or bot_events > 0""")

keys = ["hour_no", "site", "event", "target"]
exact = ["events", "bot_events", "late", "client_lost", "first_at", "last_at"]
same = " and ".join(f"ours.{name} is not distinct from theirs.{name}" for name in exact)
# DuckDB adds doubles in no particular order, hourly is exact
near = "coalesce(abs(ours.value_sum - theirs.value_sum) < 1e-6, ours.value_sum is null and theirs.value_sum is null)"
differing = db.execute(f"select * from ours full join theirs using ({', '.join(keys)}) where not ({same} and {near})").fetchall()

folder = "strftime(make_timestamp(ms * 1000), '%Y-%m-%d/%H') <> date || '/' || hour"
[misplaced] = db.execute(f"""
    select count(*) from (
        select epoch_ms(event_at) as ms, date, hour from events
        union all select epoch_ms(hour_start), date, hour from hourly)
    where {folder}""").fetchone()
by_kind = db.execute("""
    select site, event, target, count(distinct id) filter (not bot), count(distinct id) filter (bot)
    from events group by all order by all""").fetchall()
numbers = db.execute("select count(*), count(distinct id), count(distinct item), min(item::bigint), max(item::bigint) from events").fetchone()

print(json.dumps({
    "groups": db.execute("select count(*) from theirs").fetchone()[0],
    "differing": [str(row) for row in differing],
    "misplaced": misplaced,
    "by_kind": by_kind,
    "numbers": dict(zip(["rows", "ids", "items", "first", "last"], numbers)),
}))
