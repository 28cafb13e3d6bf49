"""What the rows say of a visitor, and whether all their files are alike, as pyarrow has them.

usage: erased.py OUT VISITOR
"""

import glob
import json
import sys

import pyarrow.parquet as pq

out, visitor = sys.argv[1:]
paths = sorted(glob.glob(f"{out}/events/*/*/*.parquet"))
rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
who = ["visitor", "ip", "user_agent", "page", "props"]
found = {
    "rows": len(rows),
    "theirs": sum(row["visitor"] == visitor for row in rows),
    "named": sum(visitor in str(row) for row in rows),
    "nobodys": sum(not any(row[name] for name in who) for row in rows),
    # all that was counted
    "counted": sorted(str([value for name, value in row.items() if name not in who]) for row in rows),
    # behind the object's address and the root's name
    "schemas": len({str(pq.ParquetFile(path).schema).split("\n", 2)[2] for path in paths}),
    "footers": len({str(sorted(pq.ParquetFile(path).metadata.metadata or {})) for path in paths}),
    "files": len(paths),
}
print(json.dumps(found))
