"""The two outputs by site, counted by DuckDB.

usage: by_site.py OUT
"""

import json
import sys

import duckdb

out = sys.argv[1]
db = duckdb.connect()
events = f"read_parquet('{out}/events/*/*/*.parquet')"
hourly = f"read_parquet('{out}/hourly/*/*/*.parquet')"

sites = {}
for site, rows, ids, items in db.execute(f"""
        select site, count(*), count(distinct id), count(distinct item) from {events} group by site""").fetchall():
    sites[site] = {"rows": rows, "ids": ids, "items": items}
for site, counted, duplicates in db.execute(f"""
        select site, sum(events)::bigint, sum(duplicates)::bigint from {hourly} group by site""").fetchall():
    sites[site] |= {"events": counted, "duplicates": duplicates}
print(json.dumps(sites))
