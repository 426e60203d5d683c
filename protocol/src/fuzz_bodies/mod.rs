//! What the fuzz targets run, kept in the crate so that its tests run it too (`tests/fuzz_short.rs`) and it cannot rot.

mod inline;
mod mutate;
mod reply;

use bytes::Bytes;

use crate::args::{Args, Span};
use crate::limits::RequestLimits;
use crate::resp::request::{ProtocolError, RequestParser, Step};

pub use inline::inline;
pub use mutate::mutated;
pub use reply::reply;

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

/// Target `request`: any stream cut anywhere gives what it gives whole, and what was understood of it, written as arrays of
/// bulk strings, is understood as the same. The first two bytes choose limits and cuts.
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
    let understood = arguments(&whole);
    let written: Vec<u8> = understood.iter().flat_map(|request| written(request)).collect();
    let again = parse_stream(&written, &RequestLimits::default(), || usize::MAX);
    assert_eq!((arguments(&again), again.error, again.is_mid_request), (understood, None, false));
}

/// The arguments of all requests, however they came.
fn arguments(outcome: &Outcome) -> Vec<Vec<&[u8]>> {
    outcome.requests.iter().map(|request| request.iter().map(|(argument, _)| &argument[..]).collect()).collect()
}

/// A request as an array of bulk strings.
fn written(request: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for argument in request {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
