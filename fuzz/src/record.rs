//! Payloads of records: events and ledger entries.

use tallylight_proto::record::{Record, decode, encode_event, encode_ledger, flag_as_last, front};
use tallylight_proto::segment::MAX_PAYLOAD;

/// Bytes of a record → what it says. Whatever can be read is written again and means the same.
pub fn record(bytes: &[u8]) {
    match decode(bytes) {
        Ok(Record::Event(event)) => {
            assert_eq!(front(bytes), Some(event.front));
            let mut again = Vec::new();
            encode_event(&event, &mut again);
            assert_eq!(decode(&again), Ok(Record::Event(event.clone())));
            flag_as_last(&mut again);
            let Ok(Record::Event(flagged)) = decode(&again) else { panic!("flagging spoils nothing") };
            assert!(flagged.origin.is_none_or(|origin| origin.is_last));
            assert_eq!((flagged.id, &flagged.props), (event.id, &event.props));
        }
        Ok(Record::Ledger(ledger)) => {
            assert!(front(bytes).is_none());
            let mut again = Vec::new();
            encode_ledger(&ledger, &mut again);
            let grown = again.len().saturating_sub(bytes.len());
            assert!(grown < MAX_PAYLOAD, "{grown} bytes more than it was read from");
            assert_eq!(decode(&again), Ok(Record::Ledger(ledger)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
