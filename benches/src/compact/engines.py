"""What batch engines make of the same events: the roll-up that the compactor writes, or its rows.

usage: engines.py has ENGINE
       engines.py prepare EVENTS.ndjson EVENTS.parquet EXACT.parquet
       engines.py roll-up ENGINE EVENTS OUT        EVENTS is .ndjson or .parquet
       engines.py rows ENGINE EVENTS OUT
       engines.py check OUT EXACT.parquet

`has` fails if the engine is not installed. `roll-up` and `rows` print a line of JSON: wall and CPU seconds of the query
alone, all threads, without the start of Python and of the engine, and the peak RSS. Files are not synced. `check` prints
how many groups differ from the exact ones in anything but the estimate of visitors, and how far that is off.
"""

import importlib
import json
import os
import resource
import sys
import time

THREADS = len(os.sched_getaffinity(0))
MODULES = {"duckdb": "duckdb", "polars": "polars", "clickhouse": "chdb", "datafusion": "datafusion"}

# what the roll-up needs; NDJSON is read without looking at the rest
NEEDED = {
    "id": "UUID", "site": "VARCHAR", "event": "VARCHAR", "target": "VARCHAR", "visitor": "VARCHAR", "value": "DOUBLE",
    "event_at": "TIMESTAMP",
}
ALL = NEEDED | {
    "position": "BIGINT", "received_at": "TIMESTAMP", "page": "VARCHAR", "item": "VARCHAR", "placement": "VARCHAR",
    "ua": "VARCHAR", "ip": "VARCHAR", "front": "VARCHAR", "lost": "BIGINT", "props": "MAP(VARCHAR, VARCHAR)",
}


def duckdb_connection():
    import duckdb
    db = duckdb.connect()
    db.execute(f"SET threads = {THREADS}")
    return db


def duckdb_source(path, columns):
    if path.endswith(".parquet"):
        return f"read_parquet('{path}')"
    spec = ", ".join(f"{name}: '{type}'" for name, type in columns.items())
    return f"read_json('{path}', format = 'newline_delimited', columns = {{{spec}}})"


def hive(out):
    return f"'{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (date, hour), OVERWRITE)"


def duckdb_roll_up(path, out):
    db = duckdb_connection()
    return lambda: db.execute(f"""
        COPY (
            SELECT date_trunc('hour', event_at) AS hour_start, site, event, target, count(*) AS events,
                   approx_count_distinct(visitor) AS visitors, sum(value) AS value_sum,
                   min(event_at) AS first_at, max(event_at) AS last_at,
                   strftime(hour_start, '%Y-%m-%d') AS date, strftime(hour_start, '%H') AS hour
            FROM (SELECT DISTINCT ON (id) * FROM {duckdb_source(path, NEEDED)})
            GROUP BY hour_start, site, event, target
        ) TO {hive(out)}""")


def duckdb_rows(path, out):
    db = duckdb_connection()
    return lambda: db.execute(f"""
        COPY (
            SELECT *, strftime(event_at, '%Y-%m-%d') AS date, strftime(event_at, '%H') AS hour
            FROM (SELECT DISTINCT ON (id) * FROM {duckdb_source(path, ALL)})
        ) TO {hive(out)}""")


def polars_roll_up(path, out):
    import polars as pl
    columns = list(NEEDED)
    if path.endswith(".parquet"):
        events = pl.scan_parquet(path).select(columns)
    else:
        types = {name: pl.Float64 if name == "value" else pl.String for name in columns}
        events = pl.scan_ndjson(path, schema=types).with_columns(
            pl.col("event_at").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms"))
    once = events.unique(subset="id", keep="any")
    groups = once.with_columns(hour_start=pl.col("event_at").dt.truncate("1h")).group_by(
        "hour_start", "site", "event", "target").agg(
        events=pl.len(), visitors=pl.col("visitor").approx_n_unique(), value_sum=pl.col("value").sum(),
        first_at=pl.col("event_at").min(), last_at=pl.col("event_at").max())
    groups = groups.with_columns(date=pl.col("hour_start").dt.strftime("%Y-%m-%d"),
                                 hour=pl.col("hour_start").dt.strftime("%H"))
    target = pl.PartitionBy(out, key=["date", "hour"], include_key=False)
    return lambda: groups.sink_parquet(target, compression="zstd", mkdir=True)


def clickhouse_roll_up(path, out):
    import chdb
    types = {"UUID": "UUID", "VARCHAR": "String", "DOUBLE": "Nullable(Float64)", "TIMESTAMP": "DateTime64(3)"}
    if path.endswith(".parquet"):
        source = f"file('{path}', 'Parquet')"
    else:
        structure = ", ".join(f"{name} {types[type]}" for name, type in NEEDED.items())
        source = f"file('{path}', 'JSONEachRow', '{structure}')"
    hour = "formatDateTime(hour_start, 'date=%Y-%m-%d/hour=%H', 'UTC')"
    return lambda: chdb.query(f"""
        INSERT INTO FUNCTION file('{out}/{{_partition_id}}/part.parquet', 'Parquet') PARTITION BY {hour}
        SELECT toStartOfHour(event_at) AS hour_start, site, event, target, count() AS events, uniq(visitor) AS visitors,
               sum(value) AS value_sum, min(event_at) AS first_at, max(event_at) AS last_at
        FROM (SELECT DISTINCT ON (id) id, site, event, target, visitor, value, event_at FROM {source})
        GROUP BY hour_start, site, event, target
        SETTINGS max_threads = {THREADS}, output_format_parquet_compression_method = 'zstd',
                 date_time_input_format = 'best_effort', session_timezone = 'UTC',
                 input_format_skip_unknown_fields = 1, max_partitions_per_insert_block = 0""")


def datafusion_roll_up(path, out):
    from datafusion import SessionConfig, SessionContext
    context = SessionContext(SessionConfig().with_target_partitions(THREADS))
    if path.endswith(".parquet"):
        context.register_parquet("input", path)
    else:
        context.register_json("input", path, file_extension=".ndjson")
    return lambda: context.sql(f"""
        COPY (
            SELECT date_trunc('hour', event_at) AS hour_start, site, event, target, count(*) AS events,
                   approx_distinct(visitor) AS visitors, sum(value) AS value_sum,
                   min(event_at) AS first_at, max(event_at) AS last_at,
                   to_char(date_trunc('hour', event_at), '%Y-%m-%d') AS date,
                   to_char(date_trunc('hour', event_at), '%H') AS hour
            FROM (SELECT DISTINCT ON (id) id, site, event, target, visitor, value, event_at::timestamp AS event_at
                  FROM input)
            GROUP BY 1, 2, 3, 4
        ) TO '{out}/' STORED AS PARQUET PARTITIONED BY (date, hour)
        OPTIONS ('format.compression' 'zstd(1)')""").collect()


WORK = {
    "roll-up": {
        "duckdb": duckdb_roll_up, "polars": polars_roll_up, "clickhouse": clickhouse_roll_up,
        "datafusion": datafusion_roll_up,
    },
    "rows": {"duckdb": duckdb_rows},
}


def measure(prepare, path, out):
    run = prepare(path, out)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    measured = {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(measured))


def prepare(lines, parquet, exact):
    """Makes the same events a Parquet file, and what a roll-up of them must say."""
    db = duckdb_connection()
    db.execute(f"COPY (FROM {duckdb_source(lines, ALL)}) TO '{parquet}' (FORMAT parquet, COMPRESSION zstd)")
    db.execute(f"""
        COPY (
            SELECT date_trunc('hour', event_at) AS hour_start, site, event, target, count(*) AS events,
                   count(DISTINCT visitor) AS visitors, sum(value) AS value_sum,
                   min(event_at) AS first_at, max(event_at) AS last_at
            FROM (SELECT DISTINCT ON (id) * FROM read_parquet('{parquet}'))
            GROUP BY ALL
        ) TO '{exact}' (FORMAT parquet)""")


def check(out, exact):
    db = duckdb_connection()
    db.execute("SET TimeZone = 'UTC'")
    columns = """hour_start::TIMESTAMP AS hour_start, site, event, target, events::BIGINT AS events, visitors,
        round(coalesce(value_sum, 0), 2) AS value_sum, first_at::TIMESTAMP AS first_at, last_at::TIMESTAMP AS last_at"""
    [groups, events, differ, error] = db.execute(f"""
        WITH ours AS (SELECT {columns} FROM read_parquet('{out}/*/*/*.parquet', hive_partitioning = false)),
             exact AS (SELECT {columns} FROM read_parquet('{exact}'))
        SELECT count(ours.events), sum(ours.events)::BIGINT,
               count(*) FILTER (ours.events IS DISTINCT FROM exact.events OR ours.value_sum <> exact.value_sum
                   OR ours.first_at <> exact.first_at OR ours.last_at <> exact.last_at),
               avg(abs(ours.visitors::DOUBLE / exact.visitors - 1)) FILTER (exact.visitors >= 1000)
        FROM ours FULL JOIN exact USING (hour_start, site, event, target)""").fetchone()
    print(json.dumps({"groups": groups, "events": events, "differ": differ, "error": error}))


def main(what, *arguments):
    if what == "has":
        importlib.import_module(MODULES[arguments[0]])
    elif what == "prepare":
        prepare(*arguments)
    elif what == "check":
        check(*arguments)
    else:
        engine, path, out = arguments
        measure(WORK[what][engine], path, out)


main(*sys.argv[1:])
