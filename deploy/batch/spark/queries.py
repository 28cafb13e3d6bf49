"""The output as Spark has it, and ready queries. Each takes a session, the output folder and the days it is about, both
included. `spark.sql.session.timeZone` should be UTC: it is what times are shown in.

needs: pyspark 3.5 or later, whose Apache DataSketches merge the sketches
"""

from datetime import date, timedelta

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as f


def table(spark: SparkSession, out, name):
    """`hourly` or `events`. `date` and `hour` exist as folders only; a filter on them keeps files of others closed."""
    return spark.read.parquet(f"{out}/{name}")


def complete_through(spark: SparkSession, out):
    """Hours before this one are complete on every node."""
    nodes = spark.read.json(f"{out}/watermark", schema="complete_through timestamp", multiLine=True)
    # as a number: a time would come without its zone
    millis = nodes.agg(f.min(f.unix_millis("complete_through"))).first()[0]
    return f.timestamp_millis(f.lit(millis))


def complete_hours(spark: SparkSession, out, first_day: date, last_day: date):
    is_complete = f.col("hour_start") < complete_through(spark, out)
    return table(spark, out, "hourly").where(f.col("date").between(first_day, last_day) & is_complete)


def clicks(spark: SparkSession, out, first_day: date, last_day: date):
    """Clicks, and what they were worth, by hour and target."""
    return (
        complete_hours(spark, out, first_day, last_day)
        .where(f.col("event") == "click")
        .groupBy("hour_start", "site", "target")
        .agg(f.sum("events").alias("clicks"), f.sum("value_sum").alias("value"))
        .where("clicks > 0")
        .orderBy("hour_start", "site", "target")
    )


def click_through(spark: SparkSession, out, first_day: date, last_day: date):
    """Of how many views of an item a click came, by the place where it stood. Needs hourly files made with --by item,placement."""
    of = lambda event: f.sum(f.when(f.col("event") == event, f.col("events")).otherwise(0))
    return (
        complete_hours(spark, out, first_day, last_day)
        .where(f.col("event").isin("view", "click") & (f.col("item") != ""))
        .groupBy("site", "placement", "item")
        .agg(of("view").alias("views"), of("click").alias("clicks"))
        .where("views + clicks > 0")
        .withColumn("rate", f.expr("clicks / nullif(views, 0)"))
        .orderBy("site", "placement", "item")
    )


def visitors(spark: SparkSession, out, first_day: date, last_day: date):
    """Unique visitors a day: the union of the sketches of all groups, hours and nodes."""
    return (
        complete_hours(spark, out, first_day, last_day)
        .groupBy("date", "site")
        .agg(f.hll_sketch_estimate(f.hll_union_agg("visitors_sketch")).alias("visitors"))
        .where("visitors > 0")
        .orderBy("date", "site")
    )


def losses(spark: SparkSession, out, first_day: date, last_day: date):
    """What came late (over a minute after it happened), and what clients gave up and so never came, a day."""
    return (
        complete_hours(spark, out, first_day, last_day)
        .groupBy("date", "site")
        .agg(f.sum("events").alias("events"), f.sum("late").alias("late"), f.sum("client_lost").alias("lost"))
        .where("events > 0")
        .withColumn("late_share", f.expr("late / events"))
        .withColumn("lost_share", f.expr("lost / (events + lost)"))
        .orderBy("date", "site")
    )


def exact(spark: SparkSession, out, first_day: date, last_day: date):
    """Events and visitors a day, exactly, over all nodes: of an id that reached several nodes, the copy counts that came first.

    Copies may lie on both sides of midnight, so the days before and after are looked through as well.
    """
    day = timedelta(days=1)
    copies = Window.partitionBy("id").orderBy("received_at", "position")
    return (
        table(spark, out, "events")
        .where(f.col("date").between(first_day - day, last_day + day))
        .withColumn("copy", f.row_number().over(copies))
        .where("copy = 1")
        .where(f.col("date").between(first_day, last_day) & (f.col("event_at") < complete_through(spark, out)) & ~f.col("bot"))
        .groupBy("date", "site", "event")
        .agg(f.count("*").alias("events"), f.countDistinct(f.nullif("visitor", f.lit(""))).alias("visitors"))
        .orderBy("date", "site", "event")
    )
