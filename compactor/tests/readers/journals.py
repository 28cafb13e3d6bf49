"""What senders wrote down of their events beside what was counted: nothing that was acknowledged may be missing, nothing
may be there twice, and nothing that nobody sent. Events of the sites named have ids that the collector made: they are
only counted.

usage: journals.py OUT FOLDER SITE...
"""

import json
import sys

import duckdb

out, folder, *sites = sys.argv[1:]
db = duckdb.connect()
db.execute(f"""
    create table sent as
    select * from read_csv('{folder}/*.csv', header = false, columns = {{'id': 'varchar', 'level': 'varchar'}})""")
db.execute(f"""
    create table counted as
    select lower(hex(id)) as id, count(*) as times, any_value(site) as site
    from read_parquet('{out}/events/*/*/*.parquet') group by all""")
db.execute("create table named (site varchar)")
if sites:
    db.executemany("insert into named values (?)", [[site] for site in sites])

levels = db.execute("""
    select level, count(*), count(counted.id) from sent left join counted using (id) group by level""").fetchall()


def ids(query):
    """How many there are, and some of them."""
    found = db.execute(query).fetchall()
    return {"count": len(found), "some": [row[0] for row in found[:10]]}


print(json.dumps({
    "levels": {level: {"sent": sent, "counted": counted} for level, sent, counted in levels},
    "lost": ids("select id from sent left join counted using (id) where level <> 'unknown' and times is null"),
    "twice": ids("select id from counted where times > 1"),
    "not_sent": ids("""
        select id from counted where id not in (select id from sent) and site not in (select site from named)"""),
    "sent_twice": ids("select id from sent group by id having count(*) > 1"),
    "by_site": dict(db.execute("select site, count(*) from counted join named using (site) group by site").fetchall()),
    "rows": db.execute("select sum(times)::bigint from counted").fetchone()[0],
}))
