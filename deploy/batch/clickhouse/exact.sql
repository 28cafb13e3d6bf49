-- Events and visitors a day, exactly, over all nodes: of an id that reached several nodes, the copy counts that came first.
-- Copies may lie on both sides of midnight, so the days before and after are looked through as well.
with once as (
    select *
    from events
    where date between {first_day:Date} - 1 and {last_day:Date} + 1
    order by received_at, position
    limit 1 by id
)
select date, site, event, count() as events, uniqExactIf(visitor, visitor <> '') as visitors
from once
where date between {first_day:Date} and {last_day:Date}
  and event_at < (select complete_through from watermark)
  and not bot
group by date, site, event
order by all;
