//! Event rows that wait for their part, column by column as the part will have them: texts are numbered when they come,
//! so that a row takes a hundred bytes whatever its texts are, and is encoded without a look at them.

use std::net::IpAddr;

use parquet::schema::types::SchemaDescriptor;
use tallylight_proto::Event;

use crate::chunk::{Chunk, Encoder, Levels};
use crate::texts::{TextColumn, Texts};

/// The columns of text that events have, in the order of the file.
pub const TEXTS: [&str; 10] =
    ["site", "event", "target", "page", "item", "placement", "visitor", "user_agent", "ip", "front"];
/// Where the address stands among them.
const IP: usize = 8;
/// What a row takes besides its texts and properties: id, three numbers, a number for each text, value and the rest.
const ROW_BYTES: usize = 16 + 3 * 8 + 4 * TEXTS.len() + 9 + 8 + 1 + 4;
/// What a property takes besides its texts.
const PROPERTY_BYTES: usize = 8;

/// Rows of an hour, at least their beginning.
#[derive(Default)]
pub struct Rows {
    ids: Vec<[u8; 16]>,
    positions: Vec<i64>,
    event_at: Vec<i64>,
    received_at: Vec<i64>,
    texts: [TextColumn; TEXTS.len()],
    has_value: Vec<bool>,
    values: Vec<f64>,
    lost: Vec<i64>,
    bots: Vec<bool>,
    /// How many properties each has.
    properties: Vec<u32>,
    keys: TextColumn,
    property_values: TextColumn,
    memory: usize,
}

impl Rows {
    /// Adds an event, whose record stands at this position.
    pub fn push(&mut self, position: u64, event: &Event<'_>, bot: bool) {
        let mut octets = [0; 16];
        let texts: [&[u8]; TEXTS.len()] = [
            event.site.as_bytes(),
            event.event.as_bytes(),
            event.target.as_bytes(),
            event.page.as_bytes(),
            event.item.as_bytes(),
            event.placement.as_bytes(),
            event.visitor.as_bytes(),
            event.user_agent.as_bytes(),
            octets_of(event.ip, &mut octets),
            event.front.label().as_bytes(),
        ];
        self.memory += ROW_BYTES;
        for (column, text) in self.texts.iter_mut().zip(texts) {
            self.memory += column.push(text);
        }
        self.ids.push(*event.id.uuid.as_bytes());
        self.positions.push(i64::try_from(position).expect("a log of 8 EiB"));
        self.event_at.push(event.event_at());
        self.received_at.push(event.received_at);
        self.has_value.push(event.value.is_some());
        self.values.extend(event.value.map(|value| value.to_f64()));
        self.lost.push(event.lost.into());
        self.bots.push(bot);
        self.properties.push(u32::try_from(event.props.len()).expect("a record is at most 256 KiB"));
        for (key, value) in &event.props {
            self.memory += PROPERTY_BYTES;
            self.memory += self.keys.push(key.as_bytes());
            self.memory += self.property_values.push(value.as_bytes());
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How much memory they take, about.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// A row group of them, in the order of the schema.
    pub fn encode(&self, schema: &SchemaDescriptor, encoder: &mut Encoder) -> Vec<Chunk> {
        let columns = &mut schema.columns().iter();
        let mut next = || columns.next().expect("the schema has all columns");
        let mut chunks = vec![
            encoder.ids(next(), &self.ids),
            encoder.times(next(), Levels::Required, &self.positions),
            encoder.times(next(), Levels::Required, &self.event_at),
            encoder.times(next(), Levels::Required, &self.received_at),
        ];
        for (n, column) in self.texts.iter().enumerate() {
            let shown;
            let texts = if n == IP {
                shown = shown_addresses(&column.texts);
                &shown
            } else {
                &column.texts
            };
            chunks.push(encoder.texts(next(), Levels::Required, texts, &column.numbers));
        }
        let properties = Levels::Repeated(&self.properties);
        chunks.extend([
            encoder.doubles(next(), Levels::Optional(&self.has_value), &self.values),
            encoder.numbers(next(), Levels::Required, &self.lost),
            encoder.flags(next(), &self.bots),
            encoder.texts(next(), properties, &self.keys.texts, &self.keys.numbers),
            encoder.texts(next(), properties, &self.property_values.texts, &self.property_values.numbers),
        ]);
        chunks
    }
}

/// An address by its octets, none if there is no address: writing it out for each row would cost more than all of the rest.
fn octets_of(ip: Option<IpAddr>, octets: &mut [u8; 16]) -> &[u8] {
    match ip {
        None => &[],
        Some(IpAddr::V4(v4)) => {
            octets[..4].copy_from_slice(&v4.octets());
            &octets[..4]
        }
        Some(IpAddr::V6(v6)) => {
            *octets = v6.octets();
            octets
        }
    }
}

/// Addresses as they are written, under the numbers that their octets have.
fn shown_addresses(octets: &Texts) -> Texts {
    let mut shown = Texts::default();
    for (number, octets) in (0..).zip(octets.iter()) {
        let text = if let Ok(v4) = <[u8; 4]>::try_from(octets) {
            IpAddr::from(v4).to_string()
        } else if let Ok(v6) = <[u8; 16]>::try_from(octets) {
            IpAddr::from(v6).to_string()
        } else {
            String::new()
        };
        let given = shown.number(text.as_bytes());
        debug_assert_eq!(given, number, "different addresses look different");
    }
    shown
}
