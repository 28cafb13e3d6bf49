"""What stands in `hourly` for each item, counted by DuckDB. Made with `--by item`.

usage: by_item.py OUT
"""

import json
import sys

import duckdb

query = f"""
    select item, sum(events)::bigint, sum(duplicates)::bigint
    from read_parquet('{sys.argv[1]}/hourly/*/*/*.parquet') group by item"""
rows = duckdb.connect().execute(query).fetchall()
print(json.dumps({item: {"events": events, "duplicates": duplicates} for item, events, duplicates in rows}))
