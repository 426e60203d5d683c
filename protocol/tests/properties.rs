//! What holds for any input: cuts do not matter to the request parser, what was encoded comes back, and every reply
//! that the writer writes is read back by the decoder, in both dialects.

use proptest::collection::vec;
use proptest::prelude::*;
use torc_protocol::fuzz_bodies::parse_stream;
use torc_protocol::limits::{RequestLimits, SHARED_BYTES_MIN};
use torc_protocol::resp::decode::{Reply, decode, skip_reply};
use torc_protocol::resp::reply::{Dialect, ReplyBuffer, ReplyWriter};

fn bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..len_max)
}

fn argument() -> impl Strategy<Value = Vec<u8>> {
    let long = (SHARED_BYTES_MIN - 2..SHARED_BYTES_MIN + 3, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
    prop_oneof![20 => bytes(20), 5 => bytes(300), 1 => long]
}

fn encode(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// A piece of a stream: a request, a line, or something near one.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let near: &[&[u8]] = &[
        b"*0\r\n",
        b"*-1\r\n",
        b"\r\n",
        b"*2\r\n",
        b"$3\r\nabc\r\n",
        b"$17000\r\n",
        b"$21\r\n",
        b"*12\r\n",
        b"$-1\r\n",
        b"*\r",
        b"\"a b\" 'c'\r\n",
        b"\"a b\\x4",
    ];
    prop_oneof![
        6 => vec(argument(), 1..6).prop_map(|args| encode(&args)),
        3 => "[ -~]{0,30}\r?\n".prop_map(String::into_bytes),
        3 => proptest::sample::select(near).prop_map(<[u8]>::to_vec),
        1 => bytes(40),
    ]
}

fn limits() -> impl Strategy<Value = RequestLimits> {
    (any::<bool>(), prop_oneof![Just(20), Just(512 << 20)]).prop_map(|(authenticated, bulk_bytes_max)| RequestLimits {
        authenticated,
        bulk_bytes_max,
        ..RequestLimits::default()
    })
}

/// Piece lengths, used in a circle.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), vec(1..30usize, 1..20), vec(1..20_000usize, 1..5)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_matter(pieces in vec(piece(), 0..12), limits in limits(), cuts in cuts()) {
        let stream = pieces.concat();
        let whole = parse_stream(&stream, &limits, || usize::MAX);
        let mut cuts = cuts.iter().copied().cycle();
        prop_assert_eq!(whole, parse_stream(&stream, &limits, || cuts.next().unwrap()));
    }

    #[test]
    fn requests_come_back_as_encoded(requests in vec(vec(argument(), 1..15), 0..6), cuts in cuts()) {
        let stream: Vec<u8> = requests.iter().flat_map(|args| encode(args)).collect();
        let mut cuts = cuts.iter().copied().cycle();
        let outcome = parse_stream(&stream, &RequestLimits::default(), || cuts.next().unwrap());
        prop_assert_eq!((outcome.error, outcome.is_mid_request), (None, false));
        let expected: Vec<Vec<(Vec<u8>, bool)>> = requests
            .into_iter()
            .map(|args| args.into_iter().map(|arg| (arg.clone(), arg.len() > SHARED_BYTES_MIN)).collect())
            .collect();
        prop_assert_eq!(outcome.requests, expected);
    }

    #[test]
    fn written_replies_are_read_back(value in value()) {
        for dialect in [Dialect::Resp2, Dialect::Resp3] {
            let mut buffer = ReplyBuffer::default();
            write(&value, &mut ReplyWriter::new(&mut buffer, dialect));
            let written = buffer.to_vec();
            prop_assert_eq!(buffer.len(), written.len());
            let len = written.len();
            prop_assert_eq!(decode(&written), Ok(Some((expected(&value, dialect), len))));
            prop_assert_eq!(skip_reply(&written), Ok(Some(len)));
            prop_assert_eq!(decode(&written[..len - 1]), Ok(None));
            prop_assert_eq!(skip_reply(&written[..len / 2]), Ok(None));
        }
    }
}

/// One call of each method of the writer.
#[derive(Clone, Debug)]
enum Value {
    Ok,
    Simple(String),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Shared(Vec<u8>),
    BulkInteger(i64),
    Null,
    NullArray,
    Boolean(bool),
    Double(f64),
    Verbatim(Vec<u8>),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Ok),
        "[ -~]{0,20}".prop_map(Value::Simple),
        bytes(30).prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        (-2..12i64).prop_map(Value::Integer),
        argument().prop_map(Value::Bulk),
        argument().prop_map(Value::Shared),
        any::<i64>().prop_map(Value::BulkInteger),
        Just(Value::Null),
        Just(Value::NullArray),
        any::<bool>().prop_map(Value::Boolean),
        (-1e9..1e9f64).prop_map(Value::Double),
        bytes(30).prop_map(Value::Verbatim),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec(inner.clone(), 0..6).prop_map(Value::Set),
            vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
        ]
    })
}

fn write(value: &Value, out: &mut ReplyWriter) {
    match value {
        Value::Ok => out.ok(),
        Value::Simple(text) => out.simple(text),
        Value::Error(text) => out.error(text),
        Value::Integer(value) => out.integer(*value),
        Value::Bulk(value) => out.bulk(value),
        Value::Shared(value) => out.bulk_shared(&value.clone().into()),
        Value::BulkInteger(value) => out.bulk_integer(*value),
        Value::Null => out.null(),
        Value::NullArray => out.null_array(),
        Value::Boolean(value) => out.boolean(*value),
        Value::Double(value) => out.double(&value.to_string()),
        Value::Verbatim(text) => out.verbatim(text),
        Value::Array(values) => {
            out.array(values.len());
            values.iter().for_each(|value| write(value, out));
        }
        Value::Set(values) => {
            out.set(values.len());
            values.iter().for_each(|value| write(value, out));
        }
        Value::Map(pairs) => {
            out.map(pairs.len());
            pairs.iter().for_each(|(key, value)| {
                write(key, out);
                write(value, out);
            });
        }
    }
}

fn expected(value: &Value, dialect: Dialect) -> Reply {
    let resp3 = dialect == Dialect::Resp3;
    let all = |values: &[Value]| values.iter().map(|value| expected(value, dialect)).collect::<Vec<Reply>>();
    match value {
        Value::Ok => Reply::Simple(b"OK".to_vec()),
        Value::Simple(text) => Reply::Simple(text.clone().into_bytes()),
        Value::Error(text) => {
            Reply::Error(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect())
        }
        Value::Integer(value) => Reply::Integer(*value),
        Value::Bulk(value) | Value::Shared(value) => Reply::Bulk(value.clone()),
        Value::BulkInteger(value) => Reply::Bulk(value.to_string().into_bytes()),
        Value::Null | Value::NullArray => Reply::Null,
        Value::Boolean(value) if resp3 => Reply::Boolean(*value),
        Value::Boolean(value) => Reply::Integer(*value as i64),
        Value::Double(value) if resp3 => Reply::Double(*value),
        Value::Double(value) => Reply::Bulk(value.to_string().into_bytes()),
        Value::Verbatim(text) if resp3 => Reply::Verbatim { format: *b"txt", text: text.clone() },
        Value::Verbatim(text) => Reply::Bulk(text.clone()),
        Value::Array(values) => Reply::Array(all(values)),
        Value::Set(values) if resp3 => Reply::Set(all(values)),
        Value::Set(values) => Reply::Array(all(values)),
        Value::Map(pairs) if resp3 => {
            Reply::Map(pairs.iter().map(|(key, value)| (expected(key, dialect), expected(value, dialect))).collect())
        }
        Value::Map(pairs) => Reply::Array(
            pairs.iter().flat_map(|(key, value)| [expected(key, dialect), expected(value, dialect)]).collect(),
        ),
    }
}
