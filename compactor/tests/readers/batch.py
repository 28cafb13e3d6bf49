"""The ready queries of `deploy/batch` in one of the engines: what they answer, what types the engine sees, what it opens.

usage: batch.py ENGINE OUT FIRST_DAY LAST_DAY DAY FOLDER

While the queries are about DAY alone, FOLDER has been written `begin` into, and `end` not yet.
"""

import datetime
import importlib
import json
import math
import os
import re
import sys
from pathlib import Path

engine, out, first, last, day, folder = sys.argv[1:]
first, last, day = map(datetime.date.fromisoformat, (first, last, day))
home = Path(__file__).parents[3] / "deploy/batch" / engine
QUERIES = ["clicks", "click_through", "visitors", "losses", "exact"]
MARKED = "marked"


class DuckDb:
    def __init__(self):
        import duckdb
        os.chdir(out)
        self.db = duckdb.connect()
        self.db.execute((home / "views.sql").read_text())

    def ask(self, sql):
        answer = self.db.sql(sql).to_arrow_table()
        return answer.column_names, [list(row.values()) for row in answer.to_pylist()]

    def query(self, name, first, last, before=""):
        self.db.execute(f"set variable first_day = date '{first}'; set variable last_day = date '{last}'")
        return self.ask(before + (home / f"{name}.sql").read_text())

    def types(self, table):
        return {row[0]: row[1] for row in self.ask(f"describe {table}")[1]}

    def marked(self):
        [row] = self.ask(f"""
            select lower(hex(id)), epoch_ms(received_at) - epoch_ms(event_at), value, lost, bot, props['farbe']
            from events where item = '{MARKED}'""")[1]
        return row

    def files(self):
        [[_, plan]] = self.query("clicks", day, day, "explain analyze ")[1]
        return int(re.search(r"Scanning Files: (\d+)/\d+", plan)[1])


class ClickHouse:
    def __init__(self):
        from chdb.session import Session
        os.chdir(out)
        self.session = Session()
        for statement in (home / "views.sql").read_text().split(";\n"):
            if statement.strip():
                self.session.query(statement)

    def ask(self, sql, **parameters):
        names = {"params": parameters} if parameters else {}
        answer = json.loads(self.session.query(sql, "JSONCompact", **names).bytes())
        is_time = [column["type"].startswith("DateTime64") for column in answer["meta"]]
        time = lambda text: datetime.datetime.fromisoformat(text + "Z")
        rows = [[time(cell) if is_time else cell for cell, is_time in zip(row, is_time)] for row in answer["data"]]
        return [column["name"] for column in answer["meta"]], rows

    def query(self, name, first, last):
        return self.ask((home / f"{name}.sql").read_text(), first_day=str(first), last_day=str(last))

    def types(self, table):
        return {row[0]: row[1] for row in self.ask(f"describe table {table}")[1]}

    def marked(self):
        [row] = self.ask(f"""
            select lower(hex(id)), toInt32(date_diff('ms', event_at, received_at)), value, toInt32(lost), bot, props['farbe']
            from events where item = '{MARKED}'""")[1]
        return row

    def files(self):
        opened = lambda: self.ask("select toInt32(value) from system.events where event = 'EngineFileLikeReadFiles'")[1][0][0]
        before = opened()
        self.query("clicks", day, day)
        return opened() - before - len(list(Path("watermark").iterdir()))


class Polars:
    def __init__(self):
        self.queries = importlib.import_module("queries")

    def query(self, name, first, last):
        frame = getattr(self.queries, name)(out, first, last).collect()
        return frame.columns, frame.rows()

    def types(self, table):
        return {name: str(kind) for name, kind in self.queries.table(out, table).collect_schema().items()}

    def marked(self):
        import polars as pl
        age = (pl.col("received_at") - pl.col("event_at")).dt.total_milliseconds()
        row = self.queries.table(out, "events").filter(item=MARKED).select("id", age, "value", "lost", "bot", "props").collect().row(0)
        return [row[0].hex(), *row[1:5], dict(row[5])["farbe"]]

    def files(self):
        plan = self.queries.clicks(out, day, day).explain()
        return 1 + int(re.search(r"Parquet SCAN \[.*, \.\.\. (\d+) other sources\]", plan)[1])


class Pandas:
    def __init__(self):
        self.queries = importlib.import_module("queries")

    def query(self, name, first, last):
        frame = getattr(self.queries, name)(out, first, last)
        return list(frame.columns), list(frame.itertuples(index=False, name=None))

    def types(self, table):
        # pyarrow also tells what the entries of a map are called
        return {field.name: str(field.type).replace(" ('props')", "") for field in self.queries.table(out, table).schema}

    def marked(self):
        import pyarrow.dataset as ds
        [row] = self.queries.table(out, "events").to_table(filter=ds.field("item") == MARKED).to_pandas().to_dict("records")
        age = (row["received_at"] - row["event_at"]) / datetime.timedelta(milliseconds=1)
        return [row["id"].hex(), age, row["value"], row["lost"], row["bot"], dict(row["props"])["farbe"]]

    def files(self):
        return len(list(self.queries.table(out, "hourly").get_fragments(self.queries.days(day, day))))


class Spark:
    def __init__(self):
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        from pyspark.sql import SparkSession
        self.queries = importlib.import_module("queries")
        # a machine that starts fast rather than one that runs fast
        settings = {
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "spark.sql.adaptive.enabled": "false", "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "1",
            "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
        }
        self.spark = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()

    def query(self, name, first, last):
        frame = getattr(self.queries, name)(self.spark, out, first, last)
        return frame.columns, frame.collect()

    def types(self, table):
        return dict(self.queries.table(self.spark, out, table).dtypes)

    def marked(self):
        [row] = self.queries.table(self.spark, out, "events").where(f"item = '{MARKED}'").selectExpr(
            "lower(hex(id))", "timestampdiff(MILLISECOND, event_at, received_at)", "value", "lost", "bot", "props['farbe']").collect()
        return row

    def files(self):
        frame = self.queries.clicks(self.spark, out, day, day)
        frame.collect()

        def scans(plan):
            if plan.nodeName().startswith("Scan parquet"):
                yield plan.metrics().apply("numFiles").value()
            children = plan.children()
            for n in range(children.size()):
                yield from scans(children.apply(n))

        [files] = scans(frame._jdf.queryExecution().executedPlan())
        return files


def plain(cell):
    """As JSON has it: times in milliseconds since 1970."""
    if isinstance(cell, datetime.datetime):
        # Spark gives times without a zone, in the machine's own
        return round(cell.timestamp() * 1000)
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    if cell is None or isinstance(cell, float) and math.isnan(cell):
        return None
    # NumPy's numbers
    return cell.item() if hasattr(cell, "item") else cell


def answers(first, last):
    answers = {}
    for name in QUERIES:
        columns, rows = reader.query(name, first, last)
        answers[name] = {"columns": columns, "rows": [[plain(cell) for cell in row] for row in rows]}
    return answers


sys.path.insert(0, str(home))
reader = {"duckdb": DuckDb, "clickhouse": ClickHouse, "polars": Polars, "pandas": Pandas, "spark": Spark}[engine]()
report = {
    "all": answers(first, last),
    "types": {table: reader.types(table) for table in ["hourly", "events"]},
    "marked": [plain(cell) for cell in reader.marked()],
    "files": reader.files(),
}
(Path(folder) / "begin").touch()
reader.query("clicks", day, day)
(Path(folder) / "end").touch()
report["day"] = answers(day, day)
print(json.dumps(report))
