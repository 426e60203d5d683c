//! What a client can do wrong, with the exact texts of Redis: clients compare them.

use std::fmt::Write;

use torc_protocol::args::Args;

/// A client's mistake. Small and `Copy`; the text is made when the reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Syntax,
    NotAnInteger,
    NotAFloat,
    Overflow,
    NanOrInfinity,
    DecrementOverflow,
    OffsetOutOfRange,
    StringTooLong,
    /// More than `maxmemory` is used.
    OutOfMemory,
    /// Not of Redis, which has no bound.
    ReplyTooLong,
    InvalidExpire,
    InvalidCursor,
    DbIndexOutOfRange,
    WrongArity,
    NoAuth,
    Loading,
    /// The log has failed.
    LogFailed,
    /// The disk is full.
    DiskFull,
    /// The last save failed, and there are save points.
    SaveFailed,
    /// The disk does not answer.
    DiskStuck,
    /// The log of another shard takes no writes.
    OtherLog,
    NoPasswordSet,
    WrongPassword,
    NoProto,
    ProtocolVersionNotANumber,
    /// HELLO with an option it does not know: which argument.
    HelloSyntax {
        argument: usize,
    },
    /// HELLO without login where one is needed.
    HelloNoAuth,
    BadClientName,
    BadLibName,
    BadLibVersion,
    /// An option that EXPIRE does not know: which argument.
    UnsupportedOption {
        argument: usize,
    },
    /// A database number that is not even a 32-bit integer.
    NotInIntRange,
    NxAndOther,
    GtAndLt,
    /// A feature that does not exist yet: what, in a few words.
    NotBuilt(&'static str),
    /// DEBUG, and `enable-debug-command` does not let this client.
    DebugNotAllowed,
    /// A text of its own, code included.
    Text(&'static str),
}

impl Error {
    /// The complete reply without the leading `-`, for the command `name` (`config|get`) with these arguments.
    pub fn text(self, name: &str, args: Args<'_>) -> Vec<u8> {
        let text = match self {
            Error::Syntax => "ERR syntax error",
            Error::NotAnInteger => "ERR value is not an integer or out of range",
            Error::NotAFloat => "ERR value is not a valid float",
            Error::Overflow => "ERR increment or decrement would overflow",
            Error::NanOrInfinity => "ERR increment would produce NaN or Infinity",
            Error::DecrementOverflow => "ERR decrement would overflow",
            Error::OffsetOutOfRange => "ERR offset is out of range",
            Error::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Error::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Error::ReplyTooLong => "ERR the reply would be longer than Torc allows, ask for less at a time",
            Error::InvalidCursor => "ERR invalid cursor",
            Error::DbIndexOutOfRange => "ERR DB index is out of range",
            Error::NoAuth => "NOAUTH Authentication required.",
            Error::LogFailed => {
                "MISCONF Errors writing to the AOF file: the log has failed, and what was being written may be lost. Writes are \
                refused until a snapshot is taken and a log begun behind it, which is tried every few seconds; Torc's messages say what \
                the system answered"
            }
            Error::DiskFull => {
                "MISCONF Errors writing to the AOF file: No space left on device. Writes are refused until there is room on the \
                disk; those that free memory are let in as long as the log has room for them"
            }
            Error::DiskStuck => {
                "MISCONF Errors writing to the AOF file: the disk does not answer. Writes are refused until it does"
            }
            Error::OtherLog => {
                "MISCONF Errors writing to the AOF file: the log of another shard takes no writes, and this command concerns \
                all shards; Torc's messages say why"
            }
            Error::SaveFailed => {
                "MISCONF Torc is configured to save snapshots, but it's currently unable to persist to disk. Commands that may \
                modify the data set are disabled, because this instance is configured to report errors during writes if a \
                save fails (stop-writes-on-bgsave-error option). Torc's messages say what the system answered"
            }
            Error::Loading => "LOADING Torc is loading the dataset in memory",
            Error::NoPasswordSet => {
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?"
            }
            Error::WrongPassword => "WRONGPASS invalid username-password pair or user is disabled.",
            Error::NoProto => "NOPROTO unsupported protocol version",
            Error::ProtocolVersionNotANumber => "ERR Protocol version is not an integer or out of range",
            Error::HelloNoAuth => {
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time"
            }
            Error::BadClientName => "ERR Client names cannot contain spaces, newlines or special characters.",
            Error::BadLibName => "ERR lib-name cannot contain spaces, newlines or special characters.",
            Error::NotInIntRange => "ERR value is out of range, value must between -2147483648 and 2147483647",
            Error::BadLibVersion => "ERR lib-ver cannot contain spaces, newlines or special characters.",
            Error::NxAndOther => "ERR NX and XX, GT or LT options at the same time are not compatible",
            Error::GtAndLt => "ERR GT and LT options at the same time are not compatible",
            Error::DebugNotAllowed => {
                "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it \
                 from a local connection, otherwise you need to set this option in the configuration file, and then \
                 restart the server."
            }
            Error::Text(text) => text,
            Error::HelloSyntax { argument } => {
                let mut text = b"ERR Syntax error in HELLO option '".to_vec();
                text.extend_from_slice(args.get(argument));
                text.push(b'\'');
                return text;
            }
            Error::UnsupportedOption { argument } => {
                let mut text = b"ERR Unsupported option ".to_vec();
                text.extend_from_slice(args.get(argument));
                return text;
            }
            Error::InvalidExpire | Error::WrongArity | Error::NotBuilt(_) => {
                let mut text = String::new();
                let written = match self {
                    Error::InvalidExpire => write!(text, "ERR invalid expire time in '{name}' command"),
                    Error::NotBuilt(what) => write!(text, "ERR {what} is not supported by Torc yet"),
                    _ => write!(text, "ERR wrong number of arguments for '{name}' command"),
                };
                written.expect("writing to a String does not fail");
                return text.into_bytes();
            }
        };
        text.as_bytes().to_vec()
    }
}
