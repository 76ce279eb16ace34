//! A desktop of a test's own: an X server without a screen, a window manager, and what is to be seen there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The X display; each test program has a machine, or at least a moment, of its own.
const DISPLAY: &str = ":99";

/// Its resolution, which is not what X servers have by themselves.
pub const DPI: u32 = 120;

/// How long anything may take; under emulation, Python programs take a minute to start.
const PATIENCE: Duration = Duration::from_secs(400);

/// The X server's own font, and no question where a window is to be.
const WINDOW_MANAGER: &str = "RandomPlacement\nNoGrabServer\nTitleFont \"fixed\"\nMenuFont \"fixed\"\n\
    IconFont \"fixed\"\nResizeFont \"fixed\"\nIconManagerFont \"fixed\"\n\"F4\" = m : window : f.delete\n";

/// How high its titles are, in pixels.
const TITLE: usize = 18;

/// An X server and a window manager, which end with it.
pub struct Desktop {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    /// There is one at a time: the tests of a program may run beside each other.
    _alone: MutexGuard<'static, ()>,
}

static ONE: Mutex<()> = Mutex::new(());

/// A window's place on the screen, without what the window manager puts around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the left.
    pub x: usize,
    /// From the top.
    pub y: usize,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
}

impl Place {
    /// Of the title that the window manager has put above the window.
    pub fn title(self) -> Self {
        Self { y: self.y - TITLE, height: TITLE, ..self }
    }
}

/// A part of the screen, as it was at a moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Line by line, each `0x00rrggbb`.
    pixels: Vec<u32>,
}

impl Desktop {
    /// Starts it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::write(folder.path().join("twmrc"), WINDOW_MANAGER).unwrap();
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut desktop = Self { folder, processes: Vec::new(), _alone: alone };
        let mut server = Command::new("Xvfb");
        server.args([
            DISPLAY,
            "-screen",
            "0",
            "1024x768x24",
            "-dpi",
            &DPI.to_string(),
            "-nolisten",
            "tcp",
            "-ac",
            "-fbdir",
        ]);
        server.arg(desktop.folder.path());
        desktop.start(server);
        until("the X server", || desktop.command("xwininfo").arg("-root").output().unwrap().status.success());
        let mut manager = desktop.command("twm");
        manager.arg("-f").arg(desktop.folder.path().join("twmrc"));
        desktop.start(manager);
        desktop
    }

    fn start(&mut self, mut command: Command) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        self.processes
            .push(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// A program on this desktop.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.show(&mut command);
        command
    }

    /// Lets a command show its windows here.
    pub fn show(&self, command: &mut Command) {
        command.env("DISPLAY", DISPLAY).env("XAUTHORITY", "/nonexistent").env_remove("WAYLAND_DISPLAY");
    }

    /// Waits for a window of this very title, and gives its number.
    pub fn window(&self, title: &str) -> u64 {
        let mut found = None;
        until(title, || {
            found = self.find(title);
            found.is_some()
        });
        found.unwrap()
    }

    /// A window of this very title.
    pub fn find(&self, title: &str) -> Option<u64> {
        let output = self.command("xwininfo").args(["-name", title]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split("Window id: 0x").nth(1)?.split_whitespace().next()?;
        u64::from_str_radix(number, 16).ok()
    }

    /// Where a window is, when the window manager has put it there.
    pub fn settled(&self, window: u64) -> Place {
        let mut before = None;
        until("a window in its place", || {
            let now = self.place(window).filter(|place| place.y >= TITLE);
            std::mem::replace(&mut before, now) == now && now.is_some()
        });
        before.unwrap()
    }

    /// Where a window is.
    fn place(&self, window: u64) -> Option<Place> {
        let output = self.command("xwininfo").args(["-id", &window.to_string()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |name: &str| text.split(name).nth(1)?.split_whitespace().next()?.parse().ok();
        Some(Place {
            x: number("Absolute upper-left X:")?,
            y: number("Absolute upper-left Y:")?,
            width: number("Width:")?,
            height: number("Height:")?,
        })
    }

    /// Types text and Return into a window.
    pub fn type_into(&self, window: u64, text: &str) {
        let place = self.settled(window);
        // twm's windows have the focus that the pointer is in.
        let (x, y) = ((place.x + place.width / 2).to_string(), (place.y + place.height / 2).to_string());
        for arguments in [&["mousemove", &x, &y][..], &["type", "--delay", "200", text], &["key", "Return"]] {
            assert!(self.command("xdotool").args(arguments).status().unwrap().success());
        }
    }

    /// Asks a window to close, as its user does by the window manager.
    pub fn close(&self, window: u64) {
        let place = self.settled(window);
        let (x, y) = ((place.x + place.width / 2).to_string(), (place.y + place.height / 2).to_string());
        for arguments in [&["mousemove", &x, &y][..], &["key", "alt+F4"]] {
            assert!(self.command("xdotool").args(arguments).status().unwrap().success());
        }
    }

    /// Moves the pointer out of the way.
    pub fn park_pointer(&self) {
        assert!(self.command("xdotool").args(["mousemove", "1020", "760"]).status().unwrap().success());
    }

    /// The whole screen.
    pub fn screenshot(&self) -> Picture {
        let bytes = fs::read(self.folder.path().join("Xvfb_screen0")).unwrap();
        // X Window dump: a header of 32-bit numbers, a name, a colour map, pixels.
        let field = |index: usize| u32::from_be_bytes(bytes[4 * index..][..4].try_into().unwrap()) as usize;
        let (header, width, height, line, colours) = (field(0), field(4), field(5), field(12), field(19));
        assert_eq!((field(1), field(11), field(7)), (7, 32, 0), "a picture of another kind");
        let start = header + 12 * colours;
        let pixel = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap()) & 0xff_ffff;
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| start + y * line + 4 * x)).map(pixel);
        Picture { width, height, pixels: pixels.collect() }
    }

    /// Waits until a part of the screen has what is wanted, and does not change any more; gives it.
    pub fn picture(&self, place: Place, what: &str, wanted: impl Fn(&Picture) -> bool) -> Picture {
        let start = Instant::now();
        let mut before = None;
        loop {
            let picture = self.screenshot().part(place);
            if wanted(&picture) && before.as_ref() == Some(&picture) {
                return picture;
            }
            before = Some(picture);
            if start.elapsed() > PATIENCE {
                let kept = self.screenshot().keep("failed");
                panic!("waited in vain for {what}; the screen is in {}", kept.display());
            }
            thread::sleep(Duration::from_secs(2));
        }
    }
}

impl Default for Desktop {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Picture {
    /// One colour.
    pub fn blank(width: usize, height: usize, colour: u32) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// A part of it.
    pub fn part(&self, place: Place) -> Self {
        let Place { x, y, width, height } = place;
        assert!(x + width <= self.width && y + height <= self.height, "{place:?} is not on the screen");
        let lines = (y..y + height).flat_map(|line| &self.pixels[line * self.width + x..][..width]);
        Self { width, height, pixels: lines.copied().collect() }
    }

    /// Whether a frame of this width at its edges has this colour, and nothing else.
    pub fn has_border(&self, width: usize, colour: u32) -> bool {
        self.points().filter(|(x, y, _)| !self.is_inside(*x, *y, width)).all(|(_, _, pixel)| pixel == colour)
    }

    /// Whether all inside a frame of this width has this colour.
    pub fn has_inside(&self, width: usize, colour: u32) -> bool {
        self.points().filter(|(x, y, _)| self.is_inside(*x, *y, width)).all(|(_, _, pixel)| pixel == colour)
    }

    /// The pixels inside a frame that differ from another picture of the same size; all, if the sizes differ.
    pub fn differences(&self, other: &Self, frame: usize) -> usize {
        if (self.width, self.height) != (other.width, other.height) {
            return self.pixels.len();
        }
        let both = self.points().zip(&other.pixels);
        both.filter(|((x, y, pixel), theirs)| self.is_inside(*x, *y, frame) && pixel != *theirs).count()
    }

    fn points(&self) -> impl Iterator<Item = (usize, usize, u32)> + '_ {
        self.pixels.iter().enumerate().map(|(at, pixel)| (at % self.width, at / self.width, *pixel))
    }

    fn is_inside(&self, x: usize, y: usize, frame: usize) -> bool {
        (frame..self.width.saturating_sub(frame)).contains(&x)
            && (frame..self.height.saturating_sub(frame)).contains(&y)
    }

    /// Keeps it for people, beside what was built.
    pub fn keep(&self, name: &str) -> PathBuf {
        let mut bytes = format!("P6\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(self.pixels.iter().flat_map(|pixel| pixel.to_be_bytes().into_iter().skip(1)));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
        let path = folder.join(format!("{name}.ppm"));
        // Not everywhere can be written; the test does not need it.
        let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, bytes));
        if let Err(e) = kept {
            eprintln!("{} is not kept: {e}", path.display());
        }
        path
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_secs(1));
    }
}
