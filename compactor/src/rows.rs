//! Event rows that wait for their part, column by column as the part will have them: texts that come again are numbered when
//! they come, so that a row takes some hundred bytes, and is encoded without a look at them.

use parquet::schema::types::SchemaDescriptor;
use tallylight_proto::record::{self, Text};

use crate::batch::{Fate, Taken};
use crate::chunk::{Chunk, Encoder, Levels};
use crate::texts::{TextColumn, TextList};

/// The columns of text that events have, in the order of the file.
pub const TEXTS: [&str; 10] =
    ["site", "event", "target", "page", "item", "placement", "visitor", "user_agent", "ip", "front"];
/// Those that stand in the record as they are.
const OF_RECORD: [Text; 8] =
    [Text::Site, Text::Event, Text::Target, Text::Page, Text::Item, Text::Placement, Text::Visitor, Text::UserAgent];
/// The address, as bytes as long as it waits.
const IP: usize = 8;
const FRONT: usize = 9;
/// Where they stand in the schema.
const FIRST_TEXT: usize = 4;
const LAST_TEXT: usize = FIRST_TEXT + TEXTS.len() - 1;
const SHOWN_IP: usize = FIRST_TEXT + IP;
const KEYS: usize = 17;
const PROPERTY_VALUES: usize = 18;
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
}

impl Rows {
    /// Adds events.
    pub fn push_all(&mut self, events: &[&Taken<'_>]) {
        let mut of_column = Vec::with_capacity(events.len());
        for (n, column) in self.texts.iter_mut().enumerate() {
            of_column.clear();
            of_column.extend(events.iter().map(|taken| match n {
                IP => taken.event.ip(),
                FRONT => taken.event.front().label().as_bytes(),
                n => taken.event.text(OF_RECORD[n]),
            }));
            column.push_all(&of_column);
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for Taken { position, event, fate, .. } in events {
            self.ids.push(event.id().uuid.into_bytes());
            self.positions.push(i64::try_from(*position).expect("a log of 8 EiB"));
            self.event_at.push(event.event_at());
            self.received_at.push(event.received_at());
            let value = event.value();
            self.has_value.push(value.is_some());
            self.values.extend(value.map(|value| value.to_f64()));
            self.lost.push(event.lost().into());
            self.bots.push(*fate == Fate::Bot);
            let before = keys.len();
            for (key, value) in event.properties() {
                keys.push(key);
                values.push(value);
            }
            self.properties.push(u32::try_from(keys.len() - before).expect("a record is at most 256 KiB"));
        }
        self.keys.push_all(&keys);
        self.property_values.push_all(&values);
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
        let texts = self.texts.iter().chain([&self.keys, &self.property_values]).map(TextColumn::memory);
        self.len() * ROW_BYTES + self.keys.len() * PROPERTY_BYTES + texts.sum::<usize>()
    }

    /// How much text there is in one of their columns: what most of the work of encoding it is for.
    pub fn text_bytes(&self, place: usize) -> usize {
        self.text_column(place).map_or(0, TextColumn::memory)
    }

    /// One of their columns of text, by its place in the schema.
    fn text_column(&self, place: usize) -> Option<&TextColumn> {
        match place {
            FIRST_TEXT..=LAST_TEXT => Some(&self.texts[place - FIRST_TEXT]),
            KEYS => Some(&self.keys),
            PROPERTY_VALUES => Some(&self.property_values),
            _ => None,
        }
    }

    /// One of their columns, by its place in the schema.
    pub fn column(&self, schema: &SchemaDescriptor, place: usize, encoder: &mut Encoder) -> Chunk {
        let column = &schema.column(place);
        let one = Levels::Required;
        if let Some(texts) = self.text_column(place) {
            let (texts, numbers) = texts.parts();
            return match place {
                SHOWN_IP => encoder.texts(column, one, &shown_addresses(texts), numbers),
                KEYS | PROPERTY_VALUES => encoder.texts(column, Levels::Repeated(&self.properties), texts, numbers),
                _ => encoder.texts(column, one, texts, numbers),
            };
        }
        match place {
            0 => encoder.ids(column, &self.ids),
            1 => encoder.times(column, one, &self.positions),
            2 => encoder.times(column, one, &self.event_at),
            3 => encoder.times(column, one, &self.received_at),
            14 => encoder.doubles(column, Levels::Optional(&self.has_value), &self.values),
            15 => encoder.numbers(column, one, &self.lost),
            16 => encoder.flags(column, &self.bots),
            _ => unreachable!("the schema has 19 columns"),
        }
    }
}

/// Addresses as they are written, in the same order: those of a dictionary are written once.
fn shown_addresses(addresses: &TextList) -> TextList {
    let mut shown = TextList::default();
    for bytes in addresses.iter() {
        // as the library writes it, which takes most of what all of the column does
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            let (mut text, mut len) = ([0; 16], 0);
            for octet in octets {
                let (dotted, dotted_len) = DOTTED[usize::from(octet)];
                text[len..len + 4].copy_from_slice(&dotted);
                len += dotted_len;
            }
            shown.push(&text[..len - 1]);
        } else {
            shown.push(record::ip_of(bytes).map(|ip| ip.to_string()).unwrap_or_default().as_bytes());
        }
    }
    shown
}

/// Octets in decimal, with a dot behind them, and how long that is.
const DOTTED: [([u8; 4], usize); 256] = {
    let mut dotted = [([0; 4], 0); 256];
    let mut octet = u8::MAX;
    loop {
        let [hundreds, tens, ones] = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        dotted[octet as usize] = match octet {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            100.. => ([hundreds, tens, ones, b'.'], 4),
        };
        if octet == 0 {
            break;
        }
        octet -= 1;
    }
    dotted
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_as_everywhere() {
        let v4 = (0..=255).map(|octet| vec![octet, octet / 7, 255 - octet, octet / 3]);
        let v6 = [vec![0; 16], [[0; 10].as_slice(), &[255, 255, 192, 0, 2, 1]].concat()];
        let mut addresses = TextList::default();
        v4.chain(v6).chain([Vec::new()]).for_each(|bytes| _ = addresses.push(&bytes));
        let expected = addresses.iter().map(|bytes| record::ip_of(bytes).map_or_else(String::new, |ip| ip.to_string()));
        let shown = shown_addresses(&addresses);
        assert!(shown.iter().eq(expected.collect::<Vec<_>>().iter().map(String::as_bytes)));
    }
}
