"""Takes visitors out of the rows of `events`: what they did stays counted, who it was goes.

usage: erase.py DATA OUT VISITOR...

Of each row of theirs the visitor, address, user agent, page and properties are emptied; what is counted stays, so that rows,
hourly files and audit go on agreeing. A file is replaced whole, and only if it has such rows. The compactor must be stopped; it may
be run again after it was interrupted. Needs pyarrow.
"""

import fcntl
import glob
import os
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

WHO = ["visitor", "ip", "user_agent", "page", "props"]
POSITION = "[0-9]" * 20


def lock(data):
    """Holds off the compactor for as long as this runs."""
    os.makedirs(f"{data}/compactor", exist_ok=True)
    held = open(f"{data}/compactor/lock", "a")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("the compactor is running: stop it first")
    return held


def emptied(column, theirs):
    """The column, with nothing in their rows."""
    if pa.types.is_map(column.type):
        values = zip(theirs.to_pylist(), column.to_pylist())
        return pa.array([[] if is_theirs else value for is_theirs, value in values], column.type)
    return pc.if_else(theirs, pa.scalar("", column.type), column)


def replace(path, table, like):
    """Puts a table where a file was, as the compactor does: aside, synced, renamed, the folder synced."""
    folder, name = os.path.split(path)
    aside = f"{folder}/.tmp-{name}~"
    was = os.stat(path)
    with open(aside, "wb") as file:
        os.fchown(file.fileno(), was.st_uid, was.st_gid)
        os.fchmod(file.fileno(), was.st_mode & 0o7777)
        with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
            writer.write_table(table, row_group_size=like.row_group(0).num_rows)
            # of the footer, which the compactor relies on
            writer.add_key_value_metadata(like.metadata)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    folder = os.open(folder, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def erase(path, visitors):
    """How many rows of a file were theirs."""
    file = pq.ParquetFile(path)
    theirs = pc.is_in(file.read(["visitor"])["visitor"], visitors)
    rows = pc.sum(theirs).as_py() or 0
    if rows > 0:
        table = file.read()
        columns = [emptied(table[name], theirs) if name in WHO else table[name] for name in table.column_names]
        replace(path, pa.Table.from_arrays(columns, schema=table.schema), file.metadata)
    return rows


if len(sys.argv) < 4:
    sys.exit(__doc__)
data, out, *visitors = sys.argv[1:]
held = lock(data)
with open(f"{data}/node") as file:
    node = file.read().strip()
paths = glob.glob(f"{glob.escape(out)}/events/*/*/{glob.escape(node)}-{POSITION}.parquet")
rows = {path: erase(path, pa.array(visitors)) for path in paths}
print(f"{sum(rows.values())} rows in {sum(count > 0 for count in rows.values())} of {len(rows)} files")
