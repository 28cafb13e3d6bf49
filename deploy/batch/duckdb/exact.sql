-- Events and visitors a day, exactly, over all nodes: of an id that reached several nodes, the copy counts that came first.
-- Copies may lie on both sides of midnight, so the days before and after are looked through as well.
with once as (
    select *
    from events
    where date between getvariable('first_day') - 1 and getvariable('last_day') + 1
    qualify row_number() over (partition by id order by received_at, position) = 1
)
select date, site, event, count(*) as events, count(distinct nullif(visitor, '')) as visitors
from once
where date between getvariable('first_day') and getvariable('last_day')
  and event_at < (select complete_through from watermark)
  and not bot
group by all
order by all;
