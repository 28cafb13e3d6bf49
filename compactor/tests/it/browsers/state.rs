//! What a collector can be doing while somebody clicks.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::browsers::way::Way;
use crate::harness::Collector;

/// What the collector does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    AnswersAfter(Duration),
    ConnectsLate,
    LosesSyns,
    Refuses,
    Hangs,
    IsFull,
    RefusesOneEvent,
    Dies,
}

impl State {
    /// In the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Up,
        Self::AnswersAfter(Duration::from_millis(300)),
        Self::AnswersAfter(Duration::from_millis(1000)),
        Self::ConnectsLate,
        Self::LosesSyns,
        Self::Refuses,
        Self::Hangs,
        Self::IsFull,
        Self::RefusesOneEvent,
        Self::Dies,
    ];

    /// As it stands in the table.
    pub fn words(self) -> String {
        match self {
            Self::Up => "up".to_owned(),
            Self::AnswersAfter(time) => format!("up, answers after {} ms", time.as_millis()),
            Self::ConnectsLate => "up, 1 s to connect".to_owned(),
            Self::LosesSyns => "SYNs lost for 3 s".to_owned(),
            Self::Refuses => "down: refuses connections".to_owned(),
            Self::Hangs => "hangs: accepts, never answers".to_owned(),
            Self::IsFull => "disk full: 503".to_owned(),
            Self::RefusesOneEvent => "down, and one of several events is a 400".to_owned(),
            Self::Dies => "dies between the clicks, comes back".to_owned(),
        }
    }

    /// How long after a click no SYN gets through, so that the browser's kernel asks again after 1, or 1 and 3 seconds.
    pub fn without_syns(self) -> Option<Duration> {
        match self {
            Self::ConnectsLate => Some(Duration::from_millis(500)),
            Self::LosesSyns => Some(Duration::from_millis(2500)),
            _ => None,
        }
    }

    /// Whether it takes all clicks without a second visit.
    pub fn takes_all_at_once(self) -> bool {
        matches!(self, Self::Up | Self::AnswersAfter(_) | Self::ConnectsLate | Self::LosesSyns)
    }
}

/// A collector that can be brought into every state and back, and how to reach it.
pub struct Patient {
    collector: Collector,
    way: Way,
    data: PathBuf,
    addr: SocketAddr,
}

impl Patient {
    /// One that is up, on every address of the loopback interface.
    pub fn new(data: &Path, port: u16) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let collector = Collector::start_at(addr, data, &[]);
        let way = Way::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { collector, way, data: data.to_owned(), addr }
    }

    /// The port that browsers reach it at while it is in this state.
    pub fn port(&self, state: State) -> u16 {
        let is_way = matches!(state, State::AnswersAfter(_) | State::ConnectsLate | State::LosesSyns);
        if is_way { self.way.port } else { self.addr.port() }
    }

    /// From up to this state, as far as it is one that lasts.
    pub fn fall_into(&mut self, state: State) {
        match state {
            State::AnswersAfter(time) => self.way.delay_answers(time),
            State::Refuses | State::RefusesOneEvent => self.collector.kill9(),
            State::Hangs => self.collector.stop(),
            State::IsFull => {
                self.collector.kill9();
                self.collector = Collector::start_without_room_at(self.addr, &self.data);
            }
            State::Up | State::ConnectsLate | State::LosesSyns | State::Dies => {}
        }
    }

    /// From this state to up.
    pub fn recover(&mut self, state: State) {
        match state {
            State::AnswersAfter(_) => self.way.delay_answers(Duration::ZERO),
            State::Hangs => {
                self.collector.kill9();
                self.collector.start_again();
            }
            State::Refuses | State::RefusesOneEvent | State::Dies => self.collector.start_again(),
            State::IsFull => {
                self.collector.kill9();
                self.collector = Collector::start_at(self.addr, &self.data, &[]);
            }
            State::Up | State::ConnectsLate | State::LosesSyns => {}
        }
    }

    /// In the middle of the clicks.
    pub fn die(&mut self) {
        self.collector.kill9();
    }

    /// Whether those that want to connect hear nothing.
    pub fn lose_syns(&self, lose: bool) {
        self.way.lose_packets(lose);
    }

    /// It ends, in order, and what it said must not be that something is lost.
    pub fn end(mut self) {
        assert_eq!(self.collector.terminate().code(), Some(0), "{}", self.collector.stderr());
    }
}
