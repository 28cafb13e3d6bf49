-- Of how many views of an item a click came, by the place where it stood. Needs hourly files made with --by item,placement.
select site, placement, item,
       coalesce(sum(events) filter (event = 'view'), 0)::bigint as views,
       coalesce(sum(events) filter (event = 'click'), 0)::bigint as clicks,
       clicks / nullif(views, 0) as rate
from hourly
where date between getvariable('first_day') and getvariable('last_day')
  and hour_start < (select complete_through from watermark)
  and event in ('view', 'click') and item <> ''
group by all
having views + clicks > 0
order by all;
