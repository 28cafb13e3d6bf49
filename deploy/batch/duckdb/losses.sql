-- What came late (over a minute after it happened), and what clients gave up and so never came, a day.
select date, site,
       sum(events)::bigint as events, sum(late)::bigint as late, sum(client_lost)::bigint as lost,
       sum(late) / sum(events) as late_share,
       sum(client_lost) / (sum(events) + sum(client_lost)) as lost_share
from hourly
where date between getvariable('first_day') and getvariable('last_day')
  and hour_start < (select complete_through from watermark)
group by date, site
having sum(events) > 0
order by all;
