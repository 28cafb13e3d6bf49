//! The header `Date`, written once a second.

use std::cell::{Cell, Ref, RefCell};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::HeaderValue;
use httpdate::HttpDate;
use tallylight_host::clock;

/// The time as HTTP writes it (RFC 9110, 5.6.7).
#[derive(Debug, Default)]
pub struct Date {
    text: RefCell<Option<HeaderValue>>,
    /// From when on it is another one.
    until: Cell<Option<Instant>>,
}

impl Date {
    /// At this moment, which is now, or nearly.
    pub fn at(&self, now: Instant) -> Ref<'_, HeaderValue> {
        let is_due = self.until.get().is_none_or(|until| now >= until);
        if is_due {
            let millis = u64::try_from(clock::now()).unwrap_or(0);
            let text = HttpDate::from(UNIX_EPOCH + Duration::from_millis(millis)).to_string();
            *self.text.borrow_mut() = Some(HeaderValue::try_from(text).expect("a date is ASCII"));
            self.until.set(Some(now + Duration::from_millis(1000 - millis % 1000)));
        }
        Ref::map(self.text.borrow(), |text| text.as_ref().expect("it has been written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_clock_says() {
        let date = Date::default();
        let told = |at| {
            httpdate::parse_http_date(date.at(at).to_str().unwrap())
                .unwrap()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let (begin, before) = (Instant::now(), clock::now() / 1000);
        let first = told(begin);
        assert!((before..=clock::now() / 1000).contains(&i64::try_from(first).unwrap()));
        assert_eq!(date.at(begin).len(), 29);
        assert_eq!(told(begin), first);
        // it is asked again, and the clock has not gone on as far as that
        assert!(told(begin + Duration::from_secs(2)) <= first + 1);
    }
}
