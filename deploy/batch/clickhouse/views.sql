-- The output as tables of ClickHouse, for the queries beside this file. Paths are those in the output folder: of a server, below
-- its user_files; s3(…) in the place of file(…) reads the same from a bucket.

-- `date` and `hour` exist as folders only, and a filter on them keeps ClickHouse from opening the files of others.
create or replace view hourly as
select * from file('hourly/*/*/*.parquet', Parquet) settings use_hive_partitioning = 1;

create or replace view events as
select * from file('events/*/*/*.parquet', Parquet) settings use_hive_partitioning = 1;

-- Hours before this one are complete on every node.
create or replace view watermark as
select min(parseDateTimeBestEffort(node.complete_through, 'UTC')) as complete_through
from file('watermark/*.json', JSONEachRow, 'complete_through String') as node;

-- What an HLL sketch says, as (coupon, slot, value): the union of sketches has of each slot the highest value. Up to 384
-- visitors stand in a sketch as coupons of 4 bytes, behind as many words as its first byte says; more as 4096 registers of a byte.
create or replace function hll_list as (sketch) ->
    if(length(sketch) < 4136,
        arrayMap(c -> (toNullable(c), toInt32(bitAnd(c, 4095)), toInt32(bitShiftRight(c, 26))),
            arrayMap(at -> reinterpretAsUInt32(substring(sketch, at + 1, 4)),
                range(4 * toUInt32(reinterpretAsUInt8(substring(sketch, 1, 1))), toUInt32(length(sketch)), 4))),
        arrayMap(slot -> (null, toInt32(slot), toInt32(reinterpretAsUInt8(substring(sketch, slot + 41, 1)))), range(4096)));

-- How many visitors a union tells of, with a standard error of 1.6 %: the improved estimator of Ertl, "New cardinality
-- estimation algorithms for HyperLogLog sketches" (2017). It takes how many of the 4096 slots have a value, and the sum of
-- 2^-value over them.
create or replace function hll_estimate as (slots, sum) ->
    round(pow(4096, 2) / (2 * log(2)) / (sum + 4096 * ((1 - slots / 4096) / 2
        + arraySum(arrayMap(k -> pow(1 - slots / 4096, exp2(k)) * exp2(k - 1), range(25))))));
