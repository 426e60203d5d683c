//! What the fuzz targets run, kept in the crate so that its tests run it too (`tests/fuzz_short.rs`) and it cannot rot.

use bytes::Bytes;

use crate::args::{Args, Span};
use crate::limits::RequestLimits;
use crate::resp::decode::{decode, skip_reply};
use crate::resp::request::{ProtocolError, RequestParser, Step};

/// The arguments of one request, each with whether it came as a shared value.
pub type Request = Vec<(Vec<u8>, bool)>;

/// All that a parser makes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub requests: Vec<Request>,
    pub error: Option<ProtocolError>,
    /// Whether the stream ended within a request.
    pub is_mid_request: bool,
}

/// Parses `stream` in pieces whose lengths `piece_bytes` gives, and checks what `parse` promises on the way.
pub fn parse_stream(stream: &[u8], limits: &RequestLimits, mut piece_bytes: impl FnMut() -> usize) -> Outcome {
    let mut parser = RequestParser::default();
    let mut outcome = Outcome::default();
    // Something is there already, as with several connections' requests in one batch.
    let mut spans = vec![Span::range(1, 2)];
    let mut shared = vec![Bytes::from_static(b"before")];
    let mut rest = stream;
    while !rest.is_empty() {
        let (input, after) = rest.split_at(piece_bytes().clamp(1, rest.len()));
        rest = after;
        let mut position = 0;
        loop {
            let before = position;
            let step = parser.parse(input, &mut position, &mut spans, &mut shared, limits);
            assert!(step.is_err() || (before..=input.len()).contains(&position));
            let buffer: &[u8] = match &step {
                Ok(Step::InPlace) => input,
                Ok(Step::Carried(buffer)) => buffer,
                Ok(Step::NeedMore) | Err(_) => {
                    assert_eq!((spans.len(), shared.len()), (1, 1), "nothing is left pushed");
                    if let Err(error) = step {
                        outcome.error = Some(error);
                        return outcome;
                    }
                    assert_eq!(position, input.len());
                    assert_eq!(parser.is_mid_request(), parser.held_bytes() > 0);
                    break;
                }
            };
            assert!(position > before && !parser.is_mid_request());
            let args = Args::new(buffer, &spans[1..], &shared);
            assert!(!args.is_empty());
            let request = (0..args.len()).map(|at| (args.get(at).to_vec(), args.get_shared(at).is_some())).collect();
            outcome.requests.push(request);
            spans.truncate(1);
            shared.truncate(1);
        }
    }
    outcome.is_mid_request = parser.is_mid_request();
    outcome
}

/// Target `request`: any stream cut anywhere gives what it gives whole. The first two bytes choose limits and cuts.
pub fn request(data: &[u8]) {
    let &[flags, seed, ref stream @ ..] = data else {
        return;
    };
    let limits = RequestLimits {
        authenticated: flags & 1 == 0,
        bulk_bytes_max: if flags & 2 == 0 { 512 << 20 } else { 20 },
        ..RequestLimits::default()
    };
    let whole = parse_stream(stream, &limits, || usize::MAX);
    let bytewise = parse_stream(stream, &limits, || 1);
    assert_eq!(whole, bytewise);
    let mut state = seed as u32;
    let cut = parse_stream(stream, &limits, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Short pieces mostly, now and then a long one.
        let bits = (state >> 8) as usize;
        if bits & 7 == 0 { bits >> 3 & 0x7fff } else { bits >> 3 & 0x1f }
    });
    assert_eq!(whole, cut);
}

/// Target `reply`: both readers agree on where a reply ends, and no proper prefix of a reply is one.
pub fn reply(data: &[u8]) {
    let skipped = skip_reply(data);
    match decode(data) {
        Ok(Some((_, len))) => {
            assert_eq!(skipped, Ok(Some(len)));
            assert!(0 < len && len <= data.len());
            for end in (0..len).rev().take(64) {
                assert!(matches!(decode(&data[..end]), Ok(None)));
                assert_eq!(skip_reply(&data[..end]), Ok(None));
            }
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
