"""The output as pyarrow and pandas have it, and ready queries. Each takes the output folder and the days it is about, both
included.

needs: pandas, pyarrow, datasketches
"""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from datasketches import hll_sketch, hll_union

FOLDERS = ds.partitioning(pa.schema([("date", pa.date32()), ("hour", pa.int64())]), flavor="hive")


def table(out, name):
    """`hourly` or `events`. `date` and `hour` exist as folders only; a filter on them keeps files of others closed."""
    return ds.dataset(f"{out}/{name}", format="parquet", partitioning=FOLDERS)


def complete_through(out):
    """Hours before this one are complete on every node."""
    nodes = [json.loads(file.read_text()) for file in Path(out).glob("watermark/*.json")]
    return min(datetime.fromisoformat(node["complete_through"]) for node in nodes)


def days(first_day: date, last_day: date):
    return (ds.field("date") >= first_day) & (ds.field("date") <= last_day)


def complete_hours(out, first_day: date, last_day: date, columns, where=True):
    is_asked_for = days(first_day, last_day) & (ds.field("hour_start") < complete_through(out)) & where
    return table(out, "hourly").to_table(columns=columns, filter=is_asked_for).to_pandas()


def clicks(out, first_day: date, last_day: date):
    """Clicks, and what they were worth, by hour and target."""
    keys = ["hour_start", "site", "target"]
    rows = complete_hours(out, first_day, last_day, keys + ["events", "value_sum"], ds.field("event") == "click")
    # of no values at all the sum is none
    sums = rows.groupby(keys).agg(clicks=("events", "sum"), value=("value_sum", lambda values: values.sum(min_count=1)))
    return sums[sums.clicks > 0].reset_index()


def click_through(out, first_day: date, last_day: date):
    """Of how many views of an item a click came, by the place where it stood. Needs hourly files made with --by item,placement."""
    keys = ["site", "placement", "item"]
    where = ds.field("event").isin(["view", "click"]) & (ds.field("item") != "")
    rows = complete_hours(out, first_day, last_day, keys + ["event", "events"], where)
    sums = rows.pivot_table("events", keys, "event", aggfunc="sum", fill_value=0)
    sums = sums.reindex(columns=["view", "click"], fill_value=0).rename(columns={"view": "views", "click": "clicks"})
    sums = sums[sums.views + sums.clicks > 0]
    return sums.assign(rate=sums.clicks / sums.views.where(sums.views > 0)).reset_index()


def visitors(out, first_day: date, last_day: date):
    """Unique visitors a day: the union of the sketches of all groups, hours and nodes."""
    def union(sketches):
        all_of_them = hll_union(12)
        for sketch in sketches:
            all_of_them.update(hll_sketch.deserialize(sketch))
        return round(all_of_them.get_estimate())

    keys = ["date", "site"]
    rows = complete_hours(out, first_day, last_day, keys + ["visitors_sketch"])
    merged = rows.groupby(keys).agg(visitors=("visitors_sketch", union))
    return merged[merged.visitors > 0].reset_index()


def losses(out, first_day: date, last_day: date):
    """What came late (over a minute after it happened), and what clients gave up and so never came, a day."""
    keys = ["date", "site"]
    rows = complete_hours(out, first_day, last_day, keys + ["events", "late", "client_lost"])
    sums = rows.groupby(keys).sum().rename(columns={"client_lost": "lost"})
    sums = sums[sums.events > 0]
    return sums.assign(late_share=sums.late / sums.events, lost_share=sums.lost / (sums.events + sums.lost)).reset_index()


def exact(out, first_day: date, last_day: date):
    """Events and visitors a day, exactly, over all nodes: of an id that reached several nodes, the copy counts that came first.

    Copies may lie on both sides of midnight, so the days before and after are looked through as well.
    """
    day = timedelta(days=1)
    columns = ["id", "position", "event_at", "received_at", "date", "site", "event", "visitor", "bot"]
    rows = table(out, "events").to_table(columns=columns, filter=days(first_day - day, last_day + day)).to_pandas()
    once = rows.sort_values(["received_at", "position"]).drop_duplicates("id")
    once = once[once.date.between(first_day, last_day) & (once.event_at < complete_through(out)) & ~once.bot]
    known = once.visitor.where(once.visitor != "")
    return once.assign(visitor=known).groupby(["date", "site", "event"]).agg(
        events=("id", "size"), visitors=("visitor", "nunique")).reset_index()
