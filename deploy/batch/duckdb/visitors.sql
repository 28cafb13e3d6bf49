-- Unique visitors a day: the union of the sketches of all groups, hours and nodes. Exact as long as none of them has registers.
with told as (
    select date, site, unnest(hll_list(visitors_sketch), recursive := true)
    from hourly
    where date between getvariable('first_day') and getvariable('last_day')
      and hour_start < (select complete_through from watermark)
), slots as (
    select date, site, slot, max(value) as value, count(distinct coupon) as coupons, bool_and(coupon is not null) as is_exact
    from told
    where value > 0
    group by date, site, slot
)
select date, site,
       case when bool_and(is_exact) then sum(coupons) else hll_estimate(count(*), sum(2.0 ^ -value)) end::bigint as visitors
from slots
group by date, site
order by all;
