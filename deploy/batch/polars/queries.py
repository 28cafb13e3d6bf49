"""The output as Polars has it, and ready queries: lazy ones. Each takes the output folder and the days it is about, both included.

needs: polars, datasketches
"""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
from datasketches import hll_sketch, hll_union


def table(out, name):
    """`hourly` or `events`. `date` and `hour` exist as folders only; a filter on them keeps files of others closed."""
    files = f"{name}/*/*/*.parquet"
    # otherwise footers of other days are read, too
    schema = pl.read_parquet_schema(next(Path(out).glob(files)))
    return pl.scan_parquet(f"{out}/{files}", schema=schema, hive_schema={"date": pl.Date, "hour": pl.Int64})


def complete_through(out):
    """Hours before this one are complete on every node."""
    nodes = [json.loads(file.read_text()) for file in Path(out).glob("watermark/*.json")]
    return min(datetime.fromisoformat(node["complete_through"]) for node in nodes)


def complete_hours(out, first_day: date, last_day: date):
    days = pl.col("date").is_between(first_day, last_day)
    return table(out, "hourly").filter(days, pl.col("hour_start") < complete_through(out))


def clicks(out, first_day: date, last_day: date):
    """Clicks, and what they were worth, by hour and target."""
    # of no values at all the sum is null
    value = pl.when(pl.col("value_sum").count() > 0).then(pl.col("value_sum").sum())
    return (
        complete_hours(out, first_day, last_day)
        .filter(pl.col("event") == "click")
        .group_by("hour_start", "site", "target")
        .agg(pl.col("events").sum().alias("clicks"), value.alias("value"))
        .filter(pl.col("clicks") > 0)
        .sort("hour_start", "site", "target")
    )


def click_through(out, first_day: date, last_day: date):
    """Of how many views of an item a click came, by the place where it stood. Needs hourly files made with --by item,placement."""
    of = lambda event: pl.col("events").filter(pl.col("event") == event).sum()
    return (
        complete_hours(out, first_day, last_day)
        .filter(pl.col("event").is_in(["view", "click"]), pl.col("item") != "")
        .group_by("site", "placement", "item")
        .agg(of("view").alias("views"), of("click").alias("clicks"))
        .filter(pl.col("views") + pl.col("clicks") > 0)
        .with_columns(rate=pl.when(pl.col("views") > 0).then(pl.col("clicks") / pl.col("views")))
        .sort("site", "placement", "item")
    )


def visitors(out, first_day: date, last_day: date):
    """Unique visitors a day: the union of the sketches of all groups, hours and nodes."""
    def union(sketches):
        all_of_them = hll_union(12)
        for sketch in sketches:
            all_of_them.update(hll_sketch.deserialize(sketch))
        return round(all_of_them.get_estimate())

    merged = pl.col("visitors_sketch").map_batches(union, return_dtype=pl.Int64, returns_scalar=True)
    return (
        complete_hours(out, first_day, last_day)
        .group_by("date", "site")
        .agg(merged.alias("visitors"))
        .filter(pl.col("visitors") > 0)
        .sort("date", "site")
    )


def losses(out, first_day: date, last_day: date):
    """What came late (over a minute after it happened), and what clients gave up and so never came, a day."""
    return (
        complete_hours(out, first_day, last_day)
        .group_by("date", "site")
        .agg(pl.sum("events"), pl.sum("late"), pl.sum("client_lost").alias("lost"))
        .filter(pl.col("events") > 0)
        .with_columns(
            late_share=pl.col("late") / pl.col("events"),
            lost_share=pl.col("lost") / (pl.col("events") + pl.col("lost")),
        )
        .sort("date", "site")
    )


def exact(out, first_day: date, last_day: date):
    """Events and visitors a day, exactly, over all nodes: of an id that reached several nodes, the copy counts that came first.

    Copies may lie on both sides of midnight, so the days before and after are looked through as well.
    """
    day = timedelta(days=1)
    visitor = pl.col("visitor")
    return (
        table(out, "events")
        .filter(pl.col("date").is_between(first_day - day, last_day + day))
        .sort("received_at", "position")
        .unique("id", keep="first")
        .filter(pl.col("date").is_between(first_day, last_day), pl.col("event_at") < complete_through(out), ~pl.col("bot"))
        # not by the folder's date: Polars would then read all days again for each of them
        .group_by(pl.col("event_at").dt.date().alias("date"), "site", "event")
        .agg(pl.len().cast(pl.Int64).alias("events"), visitor.filter(visitor != "").n_unique().cast(pl.Int64).alias("visitors"))
        .sort("date", "site", "event")
    )
