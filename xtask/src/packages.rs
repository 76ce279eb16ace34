//! The tools that a job needs: found, installed where we may, or named for every distribution we know.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::{env, fmt::Write as _};

use anyhow::{Result, bail};

/// A tool, and the package that has it on each distribution.
pub struct Tool {
    /// A program's name, or the absolute path of a file.
    pub proof: &'static str,
    pub debian: &'static str,
    pub fedora: &'static str,
    pub arch: &'static str,
    pub suse: &'static str,
    pub gentoo: &'static str,
}

const fn tool(
    proof: &'static str,
    debian: &'static str,
    [fedora, arch, suse, gentoo]: [&'static str; 4],
) -> Tool {
    Tool { proof, debian, fedora, arch, suse, gentoo }
}

/// What building a kernel needs.
pub const KERNEL: &[Tool] = &[
    tool("gcc", "gcc", ["gcc", "gcc", "gcc", "sys-devel/gcc"]),
    tool("make", "make", ["make", "make", "make", "dev-build/make"]),
    tool("flex", "flex", ["flex", "flex", "flex", "sys-devel/flex"]),
    tool("bison", "bison", ["bison", "bison", "bison", "sys-devel/bison"]),
    tool("bc", "bc", ["bc", "bc", "bc", "sys-devel/bc"]),
    tool("lz4", "lz4", ["lz4", "lz4", "lz4", "app-arch/lz4"]),
    tool("xz", "xz-utils", ["xz", "xz", "xz", "app-arch/xz-utils"]),
    tool("tar", "tar", ["tar", "tar", "tar", "app-arch/tar"]),
    tool("patch", "patch", ["patch", "patch", "patch", "sys-devel/patch"]),
    tool("perl", "perl", ["perl", "perl", "perl", "dev-lang/perl"]),
    tool(
        "/usr/include/gelf.h",
        "libelf-dev",
        ["elfutils-libelf-devel", "libelf", "libelf-devel", "virtual/libelf"],
    ),
    tool(
        "/usr/include/openssl/ssl.h",
        "libssl-dev",
        ["openssl-devel", "openssl", "libopenssl-devel", "dev-libs/openssl"],
    ),
];

/// What the emulated host needs beside its kernel.
pub const HOST: &[Tool] = &[
    tool(
        "qemu-system-x86_64",
        "qemu-system-x86",
        ["qemu-system-x86-core", "qemu-system-x86", "qemu-x86", "app-emulation/qemu"],
    ),
    tool(
        "/bin/busybox",
        "busybox-static",
        ["busybox", "busybox", "busybox-static", "sys-apps/busybox[static]"],
    ),
];

/// What the system tests need: the network's back end, and a world around it.
pub const SYSTEM_TESTS: &[Tool] = &[
    tool("passt", "passt", ["passt", "passt", "passt", "net-misc/passt"]),
    tool("nft", "nftables", ["nftables", "nftables", "nftables", "net-firewall/nftables"]),
    tool("ip", "iproute2", ["iproute", "iproute2", "iproute2", "sys-apps/iproute2"]),
    tool("ping", "iputils-ping", ["iputils", "iputils", "iputils", "net-misc/iputils"]),
    tool("curl", "curl", ["curl", "curl", "curl", "net-misc/curl"]),
    tool("sysctl", "procps", ["procps-ng", "procps-ng", "procps", "sys-process/procps"]),
    tool("python3", "python3", ["python3", "python", "python3", "dev-lang/python"]),
    tool("unshare", "util-linux", ["util-linux", "util-linux", "util-linux", "sys-apps/util-linux"]),
];

/// Firewalls that taps are tested beside, and Docker, which writes rules like one.
pub const FIREWALLS: &[Tool] = &[
    tool("firewalld", "firewalld", ["firewalld", "firewalld", "firewalld", "net-firewall/firewalld"]),
    tool("dbus-daemon", "dbus", ["dbus-daemon", "dbus", "dbus-1", "sys-apps/dbus"]),
    tool("ufw", "ufw", ["ufw", "ufw", "ufw", "net-firewall/ufw"]),
    tool("iptables", "iptables", ["iptables-nft", "iptables-nft", "iptables", "net-firewall/iptables"]),
    tool("dockerd", "docker.io", ["moby-engine", "docker", "docker", "app-containers/docker"]),
];

/// What tests of windows need: Xpra, and a desktop.
pub const WINDOWS: &[Tool] = &[
    tool("xpra", "xpra", ["xpra", "xpra", "xpra", "x11-wm/xpra"]),
    tool(
        "Xvfb",
        "xvfb",
        ["xorg-x11-server-Xvfb", "xorg-server-xvfb", "xorg-x11-server-Xvfb", "x11-base/xorg-server[xvfb]"],
    ),
    tool("xterm", "xterm", ["xterm", "xterm", "xterm", "x11-terms/xterm"]),
    tool("twm", "twm", ["twm", "xorg-twm", "twm", "x11-wm/twm"]),
    tool("xdotool", "xdotool", ["xdotool", "xdotool", "xdotool", "x11-misc/xdotool"]),
    tool("xclip", "xclip", ["xclip", "xclip", "xclip", "x11-misc/xclip"]),
    tool("bwrap", "bubblewrap", ["bubblewrap", "bubblewrap", "bubblewrap", "sys-apps/bubblewrap"]),
    tool("dbus-daemon", "dbus-daemon", ["dbus-daemon", "dbus", "dbus-1-daemon", "sys-apps/dbus"]),
    tool("setxkbmap", "x11-xkb-utils", ["setxkbmap", "xorg-setxkbmap", "setxkbmap", "x11-apps/setxkbmap"]),
    tool("xrdb", "x11-xserver-utils", ["xrdb", "xorg-xrdb", "xrdb", "x11-apps/xrdb"]),
    tool("xev", "x11-utils", ["xev", "xorg-xev", "xev", "x11-apps/xev"]),
    tool("xdpyinfo", "x11-utils", ["xdpyinfo", "xorg-xdpyinfo", "xdpyinfo", "x11-apps/xdpyinfo"]),
    tool("xwininfo", "x11-utils", ["xwininfo", "xorg-xwininfo", "xwininfo", "x11-apps/xwininfo"]),
];

/// What tests of sound need: a sound server and its tools, and what Xpra plays and records with. On Debian, 35 MB.
pub const SOUND: &[Tool] = &[
    tool(
        "pulseaudio",
        "pulseaudio",
        ["pulseaudio", "pulseaudio", "pulseaudio", "media-sound/pulseaudio-daemon"],
    ),
    tool(
        "parec",
        "pulseaudio-utils",
        ["pulseaudio-utils", "libpulse", "pulseaudio-utils", "media-libs/libpulse"],
    ),
];

/// And the names that Debian's packages have for the rest.
pub const SOUND_ON_DEBIAN: &[Tool] = &[
    tool(
        "/usr/lib/python3/dist-packages/gi/overrides/Gst.py",
        "python3-gst-1.0",
        ["python3-gstreamer1", "gst-python", "python3-gst", "dev-python/gst-python"],
    ),
    tool(
        "/usr/lib/x86_64-linux-gnu/girepository-1.0/GstAudio-1.0.typelib",
        "gir1.2-gst-plugins-base-1.0",
        [
            "gstreamer1-plugins-base",
            "gst-plugins-base-libs",
            "typelib-1_0-GstAudio-1_0",
            "media-libs/gst-plugins-base",
        ],
    ),
    tool(
        "/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstapp.so",
        "gstreamer1.0-plugins-base",
        [
            "gstreamer1-plugins-base",
            "gst-plugins-base",
            "gstreamer-plugins-base",
            "media-libs/gst-plugins-base",
        ],
    ),
    tool(
        "/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstpulseaudio.so",
        "gstreamer1.0-pulseaudio",
        [
            "gstreamer1-plugins-good",
            "gst-plugins-good",
            "gstreamer-plugins-good",
            "media-plugins/gst-plugins-pulse",
        ],
    ),
    tool(
        "/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstwavparse.so",
        "gstreamer1.0-plugins-good",
        [
            "gstreamer1-plugins-good",
            "gst-plugins-good",
            "gstreamer-plugins-good",
            "media-libs/gst-plugins-good",
        ],
    ),
];

/// And what Xpra needs without Debian's package saying so.
pub const WINDOWS_ON_DEBIAN: &[Tool] = &[
    tool(
        "/usr/lib/python3/dist-packages/PIL",
        "python3-pil",
        ["python3-pillow", "python-pillow", "python3-Pillow", "dev-python/pillow"],
    ),
    tool(
        "/usr/lib/python3/dist-packages/cairo",
        "python3-gi-cairo",
        ["python3-cairo", "python-cairo", "python3-cairo", "dev-python/pycairo"],
    ),
    tool(
        "/usr/lib/python3/dist-packages/lz4",
        "python3-lz4",
        ["python3-lz4", "python-lz4", "python3-lz4", "dev-python/lz4"],
    ),
];

/// What the fuzz targets need: libFuzzer is C++.
pub const FUZZ: &[Tool] = &[tool("g++", "g++", ["gcc-c++", "gcc", "gcc-c++", "sys-devel/gcc"])];

/// What unpacking Debian's kernels needs, on Debian.
pub const STOCK: &[Tool] = &[
    tool("depmod", "kmod", ["kmod", "kmod", "kmod", "sys-apps/kmod"]),
    tool("dpkg-deb", "dpkg", ["dpkg", "dpkg", "dpkg", "app-arch/dpkg"]),
];

/// What making trees of other distributions needs, on Debian.
pub const DISTRIBUTIONS: &[Tool] = &[
    tool("debootstrap", "debootstrap", ["debootstrap", "debootstrap", "debootstrap", "dev-util/debootstrap"]),
    tool("dpkg-deb", "dpkg", ["dpkg", "dpkg", "dpkg", "app-arch/dpkg"]),
];

/// Debian's own kernel source.
pub const DEBIAN_SOURCE: &str = "linux-source-6.12";

/// Makes sure that windows can be shown.
pub fn windows(purpose: &str) -> Result<()> {
    ensure(purpose, WINDOWS)?;
    if is_there("apt-get") { ensure(purpose, WINDOWS_ON_DEBIAN) } else { Ok(()) }
}

/// Makes sure that `tools` are there. `purpose` says what for, in a message.
pub fn ensure(purpose: &str, tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !is_there(tool.proof)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|tool| tool.debian).collect();
    if can_install() {
        install(purpose, &names)?;
        if let Some(tool) = missing.iter().find(|tool| !is_there(tool.proof)) {
            bail!("{purpose}: {} is still missing after the installation of {}", tool.proof, tool.debian);
        }
        return Ok(());
    }
    bail!("{}", advice(purpose, &missing));
}

fn advice(purpose: &str, missing: &[&Tool]) -> String {
    type Names = fn(&Tool) -> &'static str;
    let lines: [(&str, &str, Names); 5] = [
        ("Debian, Ubuntu", "apt-get install", |tool| tool.debian),
        ("Fedora", "dnf install", |tool| tool.fedora),
        ("Arch", "pacman -S", |tool| tool.arch),
        ("openSUSE", "zypper install", |tool| tool.suse),
        ("Gentoo", "emerge", |tool| tool.gentoo),
    ];
    let proofs: Vec<&str> = missing.iter().map(|tool| tool.proof).collect();
    let mut text = format!("{purpose}: missing {}. Install:", proofs.join(", "));
    for (distribution, command, name) in lines {
        let mut names: Vec<&str> = missing.iter().map(|tool| name(tool)).collect();
        names.dedup();
        // Writing to a string can't fail.
        let _ = write!(text, "\n  {distribution:<15} {command} {}", names.join(" "));
    }
    text
}

/// Whether a program is in `PATH`, or a file exists.
pub fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        return Path::new(proof).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // System programs live in sbin, which is not in an ordinary user's PATH.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(proof).is_file())
}

/// Whether packages can be installed without asking a person: Debian's tool, and root or `sudo -n`.
pub fn can_install() -> bool {
    is_there("apt-get") && (is_root() || sudo_works())
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn sudo_works() -> bool {
    let quiet = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Installs Debian packages, quietly: apt's words are shown only if it fails.
pub fn install(purpose: &str, names: &[&str]) -> Result<()> {
    eprintln!("xtask: {purpose}: installing {}", names.join(" "));
    // Old lists may name packages that are gone.
    update();
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(names);
    let Err(first) = apt(&arguments) else { return Ok(()) };
    if names.contains(&"qemu-system-x86") {
        // A newer qemu-utils than the distribution's, from a backport, blocks it: let that one go.
        arguments.push("qemu-utils-");
        if apt(&arguments).is_ok() {
            return Ok(());
        }
    }
    bail!("{purpose}: apt-get {} failed:\n{first}", arguments.join(" "))
}

/// Fetches the package lists, once. A failure still lets what is known be installed.
pub fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = apt(&["update"]) {
            eprintln!("xtask: apt-get update failed; going on with the old package lists:\n{error}");
        }
    });
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root() {
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
    }
    let output = command
        // Another apt at work, as on a machine that has just started, is waited for.
        .args(["-qq", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Err(lines[lines.len().saturating_sub(8)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_for_each_distribution() {
        let text = advice("build", &[&KERNEL[10], &HOST[0]]);
        for name in
            ["libelf-dev", "elfutils-libelf-devel", "pacman -S libelf", "qemu-x86", "app-emulation/qemu"]
        {
            assert!(text.contains(name), "{name} in {text}");
        }
    }

    #[test]
    fn a_program_and_a_file_are_found() {
        assert!(is_there("sh"));
        assert!(is_there("/bin/sh"));
        assert!(!is_there("no-such-program-at-all"));
    }
}
