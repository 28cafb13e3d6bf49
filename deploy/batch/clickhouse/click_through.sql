-- Of how many views of an item a click came, by the place where it stood. Needs hourly files made with --by item,placement.
select site, placement, item,
       sumIf(events, event = 'view') as views,
       sumIf(events, event = 'click') as clicks,
       clicks / nullIf(views, 0) as rate
from hourly
where date between {first_day:Date} and {last_day:Date}
  and hour_start < (select complete_through from watermark)
  and event in ('view', 'click') and item <> ''
group by site, placement, item
having views + clicks > 0
order by all;
