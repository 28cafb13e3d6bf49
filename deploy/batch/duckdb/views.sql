-- The output as tables of DuckDB, for the queries beside this file. Paths are those in the output folder.

set timezone = 'UTC';

-- The days that the queries are about, both included.
set variable first_day = current_date - 7;
set variable last_day = current_date;

-- `date` and `hour` exist as folders only, and a filter on them keeps DuckDB from opening the files of others.
create or replace view hourly as
from read_parquet('hourly/*/*/*.parquet', hive_partitioning = true, hive_types = {'date': date, 'hour': bigint});

create or replace view events as
from read_parquet('events/*/*/*.parquet', hive_partitioning = true, hive_types = {'date': date, 'hour': bigint});

-- Hours before this one are complete on every node.
create or replace view watermark as
select min(complete_through) as complete_through
from read_json('watermark/*.json', columns = {'complete_through': 'timestamptz'});

-- What an HLL sketch says, as a list: the union of sketches has of each slot the highest value. Up to 384 visitors stand in a
-- sketch as coupons of 4 bytes, behind as many words as its first byte says; more as 4096 registers of a byte.
create or replace macro hll_list(sketch) as
    case when octet_length(sketch) < 4136 then
        list_transform(
            regexp_extract_all(substr(hex(sketch), 1 + 8 * ('0x' || hex(sketch)[1:2])::int), '.{8}'),
            lambda c: {'coupon': c, 'slot': ('0x' || c[4] || c[1:2])::int, 'value': ('0x' || c[7:8])::int >> 2})
    else
        list_transform(
            regexp_extract_all(substr(hex(sketch), 81), '..'),
            lambda c, n: {'coupon': null, 'slot': (n - 1)::int, 'value': ('0x' || c)::int})
    end;

-- How many visitors a union tells of, with a standard error of 1.6 %: the improved estimator of Ertl, "New cardinality
-- estimation algorithms for HyperLogLog sketches" (2017). It takes how many of the 4096 slots have a value, and the sum of
-- 2^-value over them.
create or replace macro hll_estimate(slots, sum) as
    round(4096 ^ 2 / (2 * ln(2)) / (sum + 4096 * list_sum(
        [(1 - slots / 4096) / 2] || list_transform(range(25), lambda k: (1 - slots / 4096) ^ (2 ^ k) * 2 ^ (k - 1)))));
