//! Target `reply`: what a server may send, read.

use crate::resp::decode::{Reply, decode, skip_reply};

/// Both readers agree on where a reply ends, no proper prefix of a reply is one, and what was read, written again, is read as
/// the same.
pub fn reply(data: &[u8]) {
    let skipped = skip_reply(data);
    match decode(data) {
        Ok(Some((reply, len))) => {
            assert_eq!(skipped, Ok(Some(len)));
            assert!(0 < len && len <= data.len());
            for end in (0..len).rev().take(64) {
                assert!(matches!(decode(&data[..end]), Ok(None)));
                assert_eq!(skip_reply(&data[..end]), Ok(None));
            }
            let mut written = Vec::new();
            write(&reply, &mut written);
            let Ok(Some((again, len))) = decode(&written) else { panic!("not read again: {reply:?}") };
            // As bytes, because no NaN equals another.
            let mut twice = Vec::new();
            write(&again, &mut twice);
            assert_eq!((len, &twice), (written.len(), &written));
        }
        Ok(None) => assert_eq!(skipped, Ok(None)),
        // `skip_reply` checks less.
        Err(_) => {}
    }
    if let Ok(Some(len)) = skipped {
        assert!(0 < len && len <= data.len());
        assert_eq!(skip_reply(&data[..len]), Ok(Some(len)));
        assert_eq!(skip_reply(&data[..len - 1]), Ok(None));
    }
}

/// Writes a reply in RESP3, errors as those that may have any bytes.
fn write(reply: &Reply, out: &mut Vec<u8>) {
    let mut line = |kind: u8, text: &[u8]| out.extend([&[kind][..], text, b"\r\n"].concat());
    let count = |elements: usize| elements.to_string().into_bytes();
    match reply {
        Reply::Simple(text) => line(b'+', text),
        Reply::Integer(value) => line(b':', value.to_string().as_bytes()),
        Reply::Null => line(b'_', b""),
        Reply::Double(value) => line(b',', value.to_string().as_bytes()),
        Reply::Boolean(value) => line(b'#', if *value { b"t" } else { b"f" }),
        Reply::BigNumber(digits) => line(b'(', digits),
        Reply::Bulk(bytes) => payload(b'$', bytes, out),
        Reply::Error(bytes) => payload(b'!', bytes, out),
        Reply::Verbatim { format, text } => payload(b'=', &[format, &b":"[..], text].concat(), out),
        Reply::Array(elements) | Reply::Set(elements) | Reply::Push(elements) => {
            let kind = match reply {
                Reply::Array(_) => b'*',
                Reply::Set(_) => b'~',
                _ => b'>',
            };
            line(kind, &count(elements.len()));
            elements.iter().for_each(|element| write(element, out));
        }
        Reply::Map(pairs) | Reply::Attribute { pairs, .. } => {
            line(if matches!(reply, Reply::Map(_)) { b'%' } else { b'|' }, &count(pairs.len()));
            for (key, value) in pairs {
                write(key, out);
                write(value, out);
            }
            if let Reply::Attribute { reply, .. } = reply {
                write(reply, out);
            }
        }
    }
}

fn payload(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}{}\r\n", kind as char, bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}
