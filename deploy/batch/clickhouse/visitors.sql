-- Unique visitors a day: the union of the sketches of all groups, hours and nodes. Exact as long as none of them has registers.
with told as (
    select date, site, arrayJoin(hll_list(visitors_sketch)) as told
    from hourly
    where date between {first_day:Date} and {last_day:Date}
      and hour_start < (select complete_through from watermark)
), slots as (
    select date, site, told.2 as slot, max(told.3) as value, uniqExact(told.1) as coupons, min(told.1 is not null) as is_exact
    from told
    where told.3 > 0
    group by date, site, slot
)
select date, site,
       toInt64(if(min(is_exact), sum(coupons), hll_estimate(count(), sum(exp2(-value))))) as visitors
from slots
group by date, site
order by all;
