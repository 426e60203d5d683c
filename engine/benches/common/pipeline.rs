//! A client that sends one kind of command in pipelines, and the shards that serve it.

use torc_engine::id::ShardId;
use torc_engine::limits::BATCH_COMMANDS;
use torc_engine::message::Frame;
use torc_engine::route::Route;
use torc_engine::shard::Input;
use torc_sim::{Connection, Shards, encode};

use super::{KEY_BYTES, KeyBytes, VALUE};

pub const HOME: usize = 0;
pub const OWNER: usize = 1;

/// What the client sends.
#[derive(Clone, Copy)]
pub enum Verb {
    Get,
    Set,
}

impl Verb {
    pub fn request(self, key: &KeyBytes) -> Vec<u8> {
        match self {
            Verb::Get => encode(&[b"GET", &key[..]]),
            Verb::Set => encode(&[b"SET", &key[..], VALUE]),
        }
    }

    pub fn request_bytes(self) -> u64 {
        self.request(&[b'?'; KEY_BYTES]).len() as u64
    }

    fn reply_bytes(self) -> usize {
        match self {
            Verb::Get => "$32\r\n\r\n".len() + VALUE.len(),
            Verb::Set => "+OK\r\n".len(),
        }
    }
}

/// As many shards, which have all of `keys`.
pub fn serving(shards: usize, keys: &[KeyBytes]) -> Shards {
    let mut shards = Shards::new(shards);
    let client = shards.connect(HOME);
    for batch in keys.chunks(BATCH_COMMANDS) {
        let bytes: Vec<u8> = batch.iter().flat_map(|key| Verb::Set.request(key)).collect();
        let replies = shards.exchange(client, &bytes);
        assert_eq!(replies.len(), batch.len() * Verb::Set.reply_bytes());
    }
    shards
}

/// Those of `keys` that `owner` owns when there are two shards.
pub fn owned_by(owner: usize, keys: &[KeyBytes]) -> Vec<KeyBytes> {
    let route = Route::new(2);
    keys.iter().filter(|key| route.owner(&key[..]) == ShardId(owner as u16)).copied().collect()
}

/// A client of the home shard. Its pipeline lies in a receive buffer that is made once; only the keys in it are exchanged.
pub struct Pipeline<'a> {
    shards: &'a mut Shards,
    client: Connection,
    arena: Vec<u8>,
    inputs: [Input; 1],
    /// Where the key of each command lies in the arena.
    places: Vec<usize>,
    /// Bytes of the replies to one pipeline.
    reply_bytes: usize,
}

impl<'a> Pipeline<'a> {
    pub fn new(shards: &'a mut Shards, verb: Verb, commands: usize) -> Pipeline<'a> {
        let client = shards.connect(HOME);
        let key = [b'?'; KEY_BYTES];
        let request = verb.request(&key);
        let place = request.windows(KEY_BYTES).position(|bytes| bytes == key).expect("the request has the key");
        let arena = request.repeat(commands);
        let inputs = [Input { session: client.session, start: 0, len: arena.len() as u32 }];
        let places = (0..commands).map(|command| command * request.len() + place).collect();
        Pipeline { shards, client, arena, inputs, places, reply_bytes: commands * verb.reply_bytes() }
    }

    /// The keys of the next pipeline, one for each command.
    pub fn choose(&mut self, keys: &[KeyBytes]) {
        assert_eq!(keys.len(), self.places.len());
        for (&place, key) in self.places.iter().zip(keys) {
            self.arena[place..place + KEY_BYTES].copy_from_slice(key);
        }
    }

    /// One turn of the home shard with the pipeline's bytes.
    pub fn turn_home(&mut self) {
        let Shards { shards, machine, .. } = &mut *self.shards;
        shards[HOME].turn(machine.now, machine, 0, &self.arena, &self.inputs);
    }

    /// What a shard has to say to the other after its turn.
    pub fn take_frame(&mut self, from: usize, to: usize) -> Option<Frame> {
        self.shards.take_frame(from, to)
    }

    /// One turn of a shard with nothing but the other's frame, which must be there.
    pub fn turn_for_frame(&mut self, shard: usize, from: usize, frame: &mut Option<Frame>) {
        let frame = frame.take().expect("the other shard had something to say");
        self.shards.give_frame(from, shard, frame);
        let Shards { shards, machine, .. } = &mut *self.shards;
        shards[shard].turn(machine.now, machine, 0, &[], &[]);
    }

    /// Takes the replies as the worker does when all are sent at once. They must be the whole pipeline's: what is missing,
    /// refused or not found would be another measurement.
    pub fn take_replies(&mut self) {
        let home = &mut self.shards.shards[HOME];
        let mut taken = 0;
        while let Some(session) = home.poll_session() {
            let (buffer, sent) = home.output(session);
            let unsent = buffer.len() - sent;
            home.handle_sent(session, unsent);
            taken += unsent;
        }
        assert_eq!(taken, self.reply_bytes, "every command is answered");
    }
}
