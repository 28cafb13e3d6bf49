-- Clicks, and what they were worth, by hour and target.
select hour_start, site, target, sum(events)::bigint as clicks, sum(value_sum) as value
from hourly
where date between getvariable('first_day') and getvariable('last_day')
  and hour_start < (select complete_through from watermark)
  and event = 'click'
group by all
having clicks > 0
order by all;
