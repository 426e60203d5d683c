//! Before anything is served: does this machine allow what Torc is built on? Asked of real rings, because versions and
//! flags say less than the kernel, the sysctl, the container and the limits together. Takes a few milliseconds.
//!
//! Each refusal says what is missing and the command that allows it. Only a lost wake-up is not fatal: event descriptors
//! do the same at a somewhat higher price.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::ring::{Completion, Errno, Key, Ring, SyncMethod};

/// The oldest kernel with all that is needed (DEFER_TASKRUN came last).
pub const KERNEL_MIN: (u32, u32) = (6, 1);

/// How long one probe may take before it counts as failed.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// How long a ring that finds no memory is tried again.
const MEMORY_MAX: Duration = Duration::from_millis(300);
const MEMORY_STEP: Duration = Duration::from_millis(5);

/// What the machine refuses.
#[derive(Debug, Error)]
pub enum ProbeError {
    #[error(
        "Linux 6.1 or newer is needed, this is {release}; install a newer kernel \
         (Debian 11: apt install -t bullseye-backports linux-image-amd64; Debian 12 and Ubuntu 24.04 have one)"
    )]
    Kernel { release: String },
    #[error(
        "this kernel has no io_uring (ENOSYS): it was built without CONFIG_IO_URING, or a sandbox such as gVisor hides it; \
         run Torc on a kernel with CONFIG_IO_URING=y, outside such a sandbox"
    )]
    Absent,
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}); \
         allow it with: sysctl -w kernel.io_uring_disabled=0"
    )]
    Disabled { value: u32 },
    #[error(
        "io_uring is forbidden (EPERM) though the kernel has it: a container's seccomp profile blocks it; start the container \
         with: docker run --security-opt seccomp=unconfined (or a profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register)"
    )]
    Seccomp,
    #[error(
        "there is not enough memory for the io_urings (ENOMEM); each shard's counts as some 300 KiB of locked memory, and that \
         limit may be too low: ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit, or fewer --cores"
    )]
    Memory,
    #[error(
        "the process may not open enough files (EMFILE); allow more with: ulimit -n 65536, or LimitNOFILE=65536 in the \
         systemd unit"
    )]
    Files,
    #[error("this kernel's io_uring refuses SINGLE_ISSUER and DEFER_TASKRUN (EINVAL); install Linux 6.1 or newer")]
    Flags,
    #[error("probing the machine failed at {step}: {source}")]
    Other { step: &'static str, source: io::Error },
    #[error(
        "a multishot receive into provided buffers does not work on this kernel ({detail}); install Linux 6.1 or newer"
    )]
    Receive { detail: String },
    #[error("writing and syncing a file in {dir} through io_uring failed: {source}")]
    Sync { dir: String, source: io::Error },
}

/// What the machine is like.
#[derive(Debug)]
pub struct Report {
    /// Linux release.
    pub release: String,
    /// A message between rings wakes a parked one.
    pub ring_wakes: bool,
    /// Whether files can be written in `dir`.
    pub dir_writable: bool,
}

/// Asks the machine. `dir` is where files are going to be.
pub fn probe(dir: &Path) -> Result<Report, ProbeError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    check_kernel(&release)?;
    let mut ring = make_ring()?;
    check_receive(&mut ring)?;
    let dir_writable = check_sync(&mut ring, dir)?;
    let ring_wakes = check_wake(&mut ring)?;
    Ok(Report { release, ring_wakes, dir_writable })
}

fn check_kernel(release: &str) -> Result<(), ProbeError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_MIN {
        return Err(ProbeError::Kernel { release: release.to_string() });
    }
    Ok(())
}

/// A ring, or what refuses it. The locked memory of a ring that was closed is free some milliseconds later (the probe's own,
/// or those of the process before this one), hence the patience.
pub fn make_ring() -> Result<Ring, ProbeError> {
    let deadline = Instant::now() + MEMORY_MAX;
    loop {
        match Ring::new() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && Instant::now() < deadline => {
                thread::sleep(MEMORY_STEP);
            }
            result => return result.map_err(setup_error),
        }
    }
}

/// What the errno of io_uring_setup means here.
fn setup_error(error: io::Error) -> ProbeError {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let disabled = sysctl.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    explain_setup(error, disabled)
}

fn explain_setup(error: io::Error, disabled: u32) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => ProbeError::Absent,
        Some(libc::EPERM | libc::EACCES) if disabled != 0 => ProbeError::Disabled { value: disabled },
        Some(libc::EPERM | libc::EACCES) => ProbeError::Seccomp,
        Some(libc::ENOMEM) => ProbeError::Memory,
        Some(libc::EMFILE | libc::ENFILE) => ProbeError::Files,
        Some(libc::EINVAL) => ProbeError::Flags,
        _ => ProbeError::Other { step: "io_uring_setup", source: error },
    }
}

/// A multishot receive gives two texts in two buffers.
fn check_receive(ring: &mut Ring) -> Result<(), ProbeError> {
    let step = "a receive";
    // A ring was made, so it is io_uring_enter that is forbidden.
    let other = |source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => ProbeError::Seccomp,
        _ => ProbeError::Other { step, source },
    };
    let (mut client, server) = UnixStream::pair().map_err(other)?;
    let key = Key::new(1, 1);
    ring.receive_multishot(&server, key);
    for text in [b"one", b"two"] {
        client.write_all(text).map_err(other)?;
        let refused = |detail: String| Err(ProbeError::Receive { detail });
        match next(ring, PROBE_MAX).map_err(other)? {
            Some(Completion::Received { result: Ok(Some(received)), more: true, .. }) => {
                let bytes = &ring.arena()[received.start as usize..][..received.len as usize];
                if bytes != text {
                    return refused("other bytes than were sent".into());
                }
                ring.give_back(received.buffer);
                ring.publish_buffers();
            }
            Some(Completion::Received { result: Err(error), .. }) => {
                return refused(io::Error::from(error).to_string());
            }
            unexpected => return refused(format!("{unexpected:?}")),
        }
    }
    ring.cancel_receive(key);
    while let Some(completion) = next(ring, PROBE_MAX).map_err(other)? {
        if matches!(completion, Completion::Received { more: false, .. }) {
            break;
        }
    }
    Ok(())
}

/// A linked write and fdatasync. False: no file can be made there, which matters only to what keeps files.
fn check_sync(ring: &mut Ring, dir: &Path) -> Result<bool, ProbeError> {
    let path = dir.join(format!(".torc-probe-{}", std::process::id()));
    let Ok(file) = File::options().write(true).create_new(true).open(&path) else {
        return Ok(false);
    };
    // The name is not needed; the file lasts until it is closed.
    let _ = fs::remove_file(&path);
    let fail = |source| ProbeError::Sync { dir: dir.display().to_string(), source };
    let file = Arc::new(file);
    ring.write_at_then_sync(&file, Arc::new(b"torc".to_vec()), 0, SyncMethod::Linked, Key::new(0, 0));
    // A busy disk may take its time.
    match next(ring, PROBE_MAX * 20).map_err(fail)? {
        Some(Completion::Written { result: Ok(()), .. }) => Ok(true),
        Some(Completion::Written { result: Err(fault), .. }) => match fault.errno {
            // A full disk hurts what keeps files, like a folder that is not ours.
            Errno(libc::ENOSPC | libc::EDQUOT) => Ok(false),
            errno => Err(fail(errno.into())),
        },
        Some(_) => Err(fail(io::Error::other("an unexpected completion"))),
        None => Err(fail(io::ErrorKind::TimedOut.into())),
    }
}

/// Whether a message wakes a ring that is parked on another thread.
fn check_wake(ring: &mut Ring) -> Result<bool, ProbeError> {
    let step = "a wake-up between rings";
    let (sender, receiver) = mpsc::channel();
    let sleeper = thread::Builder::new().name("torc-probe".into()).spawn(move || -> Result<bool, ProbeError> {
        let mut ring = make_ring()?;
        // The receiver is gone only if the probe has failed already.
        let _ = sender.send(ring.descriptor());
        let start = Instant::now();
        ring.wait(PROBE_MAX).map_err(|source| ProbeError::Other { step, source })?;
        // The message may be there although it woke nobody.
        let in_time = start.elapsed() < PROBE_MAX / 2;
        Ok(in_time && matches!(ring.next_completion(), Some(Completion::Woken)))
    });
    let sleeper = sleeper.map_err(|source| ProbeError::Other { step: "starting a thread", source })?;
    if let Ok(descriptor) = receiver.recv() {
        // Time to park. If that was too short the probe proves less, and is not wrong.
        thread::sleep(Duration::from_millis(2));
        ring.wake(descriptor, 0);
        ring.submit().map_err(|source| ProbeError::Other { step, source })?;
    }
    sleeper.join().map_err(|_| ProbeError::Other { step, source: io::Error::other("a panic") })?
}

/// The next completion, if one comes in time.
fn next(ring: &mut Ring, patience: Duration) -> io::Result<Option<Completion>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(completion) = ring.next_completion() {
            return Ok(Some(completion));
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        ring.wait(deadline - now)?;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        let report = probe(&std::env::temp_dir()).unwrap();
        assert!(report.dir_writable);
        assert!(!probe(Path::new("/nonexistent")).unwrap().dir_writable);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for good in ["6.1.0", "6.1.0-13-amd64", "6.18.44-fc-v657", "7.0-rc1", "10.0"] {
            assert!(check_kernel(good).is_ok(), "{good}");
        }
        for old in ["5.15.0-91-generic", "6.0.19", "4.19", ""] {
            let error = check_kernel(old).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Linux 6.1 or newer is needed, this is {old}; install")), "{error}");
        }
    }

    #[test]
    fn every_refusal_names_the_command_that_helps() {
        for (errno, disabled, part) in [
            (libc::ENOSYS, 0, "CONFIG_IO_URING=y"),
            (libc::EPERM, 2, "kernel.io_uring_disabled = 2); allow it with: sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, 1, "kernel.io_uring_disabled = 1"),
            (libc::EPERM, 0, "docker run --security-opt seccomp=unconfined"),
            (libc::ENOMEM, 0, "ulimit -l unlimited"),
            (libc::EMFILE, 0, "ulimit -n 65536"),
            (libc::EINVAL, 0, "install Linux 6.1"),
            (libc::EIO, 0, "probing the machine failed at io_uring_setup: Input/output error"),
        ] {
            let text = explain_setup(io::Error::from_raw_os_error(errno), disabled).to_string();
            assert!(text.contains(part), "{errno}: {text}");
            assert!(!text.contains('\n') && !text.contains("  "), "one line: {text}");
        }
    }
}
