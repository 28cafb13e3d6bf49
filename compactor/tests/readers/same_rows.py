"""Whether two outputs have the same rows of events in the same order; where parts are cut may differ.

usage: same_rows.py OUT OUT
"""

import glob
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq


def hours(out):
    """The rows of each hour: its parts in the order of their names, which is that of the log."""
    parts = sorted(glob.glob(f"{out}/events/*/*/*.parquet"))
    by_hour = {}
    for part in parts:
        by_hour.setdefault(os.path.relpath(os.path.dirname(part), out), []).append(part)
    # the folder is not part of the row
    return {hour: pa.concat_tables([pq.ParquetFile(part).read() for part in parts]) for hour, parts in by_hour.items()}


one, other = (hours(out) for out in sys.argv[1:])
names = sorted(one.keys() | other.keys())
differing = [name for name in names if name not in one or name not in other or not one[name].equals(other[name])]
print(json.dumps({"hours": len(names), "rows": sum(table.num_rows for table in one.values()), "differing": differing}))
