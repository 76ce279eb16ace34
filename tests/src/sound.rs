//! A sound server that plays into nothing, and an ear for one tone.

use std::{
    f64::consts::TAU,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::desktop::until;

/// Samples a second, of one channel.
const RATE: u32 = 16_000;

/// What is played, in hertz: nothing else on the way has it.
pub const TONE: f64 = 1234.0;

/// How long it may take from the player's start to the tone.
const PATIENCE: Duration = Duration::from_secs(300);

/// A second of it, as `pacat` takes it: 16 bits, little-endian, one channel, 16 kHz.
pub fn tone() -> Vec<u8> {
    samples(TONE).flat_map(|sample| (sample as i16).to_le_bytes()).collect()
}

/// The same as a file of the format WAV.
pub fn wav(samples: &[u8]) -> Vec<u8> {
    let length = |more: usize| u32::try_from(samples.len() + more).unwrap().to_le_bytes();
    let format = [
        &16_u32.to_le_bytes()[..],
        &[1, 0, 1, 0],
        &RATE.to_le_bytes(),
        &(2 * RATE).to_le_bytes(),
        &[2, 0, 16, 0],
    ];
    [b"RIFF", &length(36)[..], b"WAVEfmt ", &format.concat(), b"data", &length(0), samples].concat()
}

/// A second of a frequency.
pub fn samples(frequency: f64) -> impl Iterator<Item = f64> {
    (0..RATE).map(move |at| 9000.0 * (TAU * frequency * f64::from(at) / f64::from(RATE)).sin())
}

/// A sound server that plays into nothing, and ends with it.
pub struct Speaker {
    server: Child,
    socket: PathBuf,
}

impl Speaker {
    /// Starts it.
    pub fn new(runtime: &Path, home: &Path) -> Self {
        let mut command = Command::new("pulseaudio");
        command.args([
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
            "--log-level=error",
        ]);
        // What is cheap to emulate.
        command.args(["--realtime=no", "--high-priority=no", "--resample-method=trivial"]);
        command.arg("--load=module-null-sink sink_name=Host");
        command.arg("--load=module-native-protocol-unix auth-cookie-enabled=0");
        command.env("XDG_RUNTIME_DIR", runtime).env("HOME", home);
        let server = command.stdin(Stdio::null()).spawn().unwrap();
        let socket = runtime.join("pulse/native");
        until("the sound server", || socket.exists());
        Self { server, socket }
    }

    /// For `PULSE_SERVER`.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PULSE_SERVER", self.address());
        command
    }

    /// Its streams of a kind, a line each: `sink-inputs`, `source-outputs`.
    pub fn list(&self, what: &str) -> String {
        let listed = self.command("pactl").args(["list", "short", what]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).into_owned()
    }

    /// Waits until it has played this tone, and next to nothing else, for half a second.
    #[track_caller]
    pub fn hears(&self, frequency: f64) {
        let mut ear = self.command("parec");
        ear.args(["-d", "Host.monitor", "--format=s16le", "--channels=1", &format!("--rate={RATE}")]);
        let mut ear = ear.stdout(Stdio::piped()).spawn().unwrap();
        let mut from = ear.stdout.take().unwrap();
        // On a slow machine the tone has gaps: a twentieth of a second at a time.
        let start = Instant::now();
        let mut heard = 0;
        while heard < 10 {
            let mut bytes = vec![0; 2 * RATE as usize / 20];
            from.read_exact(&mut bytes).unwrap();
            let samples = bytes.chunks_exact(2).map(|two| f64::from(i16::from_le_bytes([two[0], two[1]])));
            heard += usize::from(part_at(&samples.collect::<Vec<_>>(), frequency) > 0.9);
            assert!(start.elapsed() < PATIENCE, "the tone is not heard");
        }
        ear.kill().unwrap();
        ear.wait().unwrap();
        until("the end of the ear", || self.list("source-outputs").is_empty());
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// How much of the power a frequency has, by Goertzel's algorithm.
pub fn part_at(samples: &[f64], frequency: f64) -> f64 {
    let factor = 2.0 * (TAU * frequency / f64::from(RATE)).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        (last, before) = (sample + factor * last - before, last);
    }
    let power = last * last + before * before - factor * last * before;
    let all: f64 = samples.iter().map(|sample| sample * sample).sum();
    if all < 1.0 { 0.0 } else { 2.0 * power / all / samples.len() as f64 }
}
