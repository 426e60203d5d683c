//! Target `batch`: what a batch says of itself, and its records.

use crate::fuzz::Input;
use crate::limits::LOG_BATCH_BYTES_MAX;
use crate::log::format::{
    BATCH_HEADER_BYTES, BATCH_IS_SEAL, BatchContent, BatchHeader, BatchMoment, BatchOwner, pages_up,
};
use crate::log::record::Reader;

use super::encoded;

/// A batch that was written is read as it was; any bytes at all are one or are not, and of those that are records what is read,
/// written again, is read as the same.
pub fn batch(data: &[u8]) {
    if let Some(header) = BatchHeader::parse(data)
        && let Some(payload) = header.payload(data)
    {
        assert!(payload.len() + BATCH_HEADER_BYTES <= data.len());
        assert!(BatchHeader::resembles(data, &header.owner, header.first_lsn));
    }
    let mut input = Input(data);
    let owner =
        BatchOwner { salt: input.u64(), generation: input.u64(), segment: input.byte().into(), shard: input.u16() };
    let (first_lsn, durable_lsn, last_txid, wall_ms) = (input.u64(), input.u64(), input.u64(), input.u64());
    let (flags, count, previous_crc) = (input.byte(), input.byte().into(), input.byte().into());
    let (is_seal, is_header_durable) = (flags & 1 != 0, flags & 2 != 0);
    let payload = input.0;
    if BATCH_HEADER_BYTES + payload.len() > LOG_BATCH_BYTES_MAX {
        return;
    }
    let flags = if is_seal { BATCH_IS_SEAL } else { 0 };
    let mut bytes = vec![0; pages_up(BATCH_HEADER_BYTES + payload.len())];
    bytes[BATCH_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
    BatchContent { payload_bytes: payload.len(), count, owner, first_lsn, flags, last_txid }.encode(&mut bytes);
    let (batch_bytes, crc) = BatchMoment { durable_lsn, previous_crc, is_header_durable, wall_ms }.complete(&mut bytes);
    assert_eq!(batch_bytes, bytes.len());
    let header = BatchHeader::parse(&bytes).expect("it was just written");
    let payload_bytes = payload.len() as u32;
    let written = BatchHeader {
        crc,
        payload_bytes,
        count,
        owner,
        first_lsn,
        durable_lsn,
        previous_crc,
        is_seal,
        is_header_durable,
        wall_ms,
        last_txid,
    };
    assert_eq!((header, header.batch_bytes(), header.payload(&bytes)), (written, batch_bytes, Some(payload)));
    assert_eq!(header.end_lsn(), first_lsn.saturating_add(count.into()));
    // What is cut off is missed, wherever that is.
    assert_eq!(header.payload(&bytes[..bytes.len() - 1]), None);

    let mut reader = Reader(payload);
    while let Some(raw) = reader.record() {
        if let Some(record) = raw.whole() {
            let bytes = encoded(&record);
            // Numbers may have been written in more bytes than they take.
            assert!(bytes.len() <= payload.len());
            let mut again = Reader(&bytes);
            assert_eq!(again.record().and_then(|raw| raw.whole()), Some(record));
            assert!(again.0.is_empty());
        }
    }
}
