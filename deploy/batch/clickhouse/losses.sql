-- What came late (over a minute after it happened), and what clients gave up and so never came, a day.
select date, site,
       sum(hourly.events) as events, sum(hourly.late) as late, sum(client_lost) as lost,
       late / events as late_share,
       lost / (events + lost) as lost_share
from hourly
where date between {first_day:Date} and {last_day:Date}
  and hour_start < (select complete_through from watermark)
group by date, site
having events > 0
order by all;
