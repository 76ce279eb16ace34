//! What to install so that windows can be shown, by distribution.

/// A part of Xpra that distributions pack apart, by the word that a failure has of it.
const PARTS: [(&str, [&str; 5]); 5] = [
    ("PIL", ["python3-pil", "python3-pillow", "python-pillow", "python3-Pillow", "dev-python/pillow"]),
    ("cairo", ["python3-gi-cairo", "python3-cairo", "python-cairo", "python3-cairo", "dev-python/pycairo"]),
    ("lz4", ["python3-lz4", "python3-lz4", "python-lz4", "python3-lz4", "dev-python/lz4"]),
    ("gi", ["python3-gi", "python3-gobject", "python-gobject", "python3-gobject", "dev-python/pygobject"]),
    ("Gtk", ["gir1.2-gtk-3.0", "gtk3", "gtk3", "typelib-1_0-Gtk-3_0", "x11-libs/gtk+:3"]),
];

/// Each distribution's way to install, and what windows need there beside the parts.
const DISTRIBUTIONS: [(&str, &str); 5] = [
    ("Debian, Ubuntu: apt install", "xpra xvfb python3-pil python3-gi-cairo python3-lz4"),
    ("Fedora: dnf install", "xpra xorg-x11-server-Xvfb"),
    ("Arch: pacman -S", "xpra xorg-server-xvfb"),
    ("openSUSE: zypper install", "xpra xorg-x11-server-Xvfb"),
    ("Gentoo: emerge", "x11-wm/xpra x11-base/xorg-server"),
];

/// How to install all of it, or these parts alone.
pub fn install(parts: &[[&str; 5]]) -> String {
    let one = |(index, (how, all)): (usize, &(&str, &str))| {
        let mut names: Vec<&str> = parts.iter().map(|part| part[index]).collect();
        names.dedup();
        format!("{how} {}", if names.is_empty() { (*all).into() } else { names.join(" ") })
    };
    let list: Vec<String> = DISTRIBUTIONS.iter().enumerate().map(one).collect();
    format!("install it ({})", list.join("; "))
}

/// What Xpra needs for sound beside a sound server, on the same distributions.
const SOUND: [&str; 5] = [
    "python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
     gstreamer1.0-pulseaudio pulseaudio-utils",
    "python3-gstreamer1 gstreamer1-plugins-good pulseaudio-utils",
    "gst-python gst-plugins-good libpulse",
    "python3-gst gstreamer-plugins-good pulseaudio-utils",
    "dev-python/gst-python media-plugins/gst-plugins-pulse media-libs/gst-plugins-good",
];

/// How to install what sound needs.
pub fn install_sound() -> String {
    install(&[SOUND])
}

/// Whether these words of Xpra's server, which may be a guest's, say that it can't have sound.
pub fn is_about_sound(words: &str) -> bool {
    words.contains("failed to query sound subsystem") || words.contains("failed to query audio subsystem")
}

/// What would help against a failure that Xpra has described in these words, which may be a guest's.
pub fn for_words(words: &str) -> Option<String> {
    let missing = |part: &str| {
        ["No module named", "cannot import name", "Namespace", "ImportError", "requires"].iter().any(
            |phrase| {
                words.lines().any(|line| {
                    line.contains(phrase)
                        && line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == part)
                })
            },
        )
    };
    let parts: Vec<[&str; 5]> =
        PARTS.iter().filter(|(word, _)| missing(word)).map(|(_, names)| *names).collect();
    (!parts.is_empty()).then(|| install(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_part_is_named_for_each_distribution() {
        let advice = for_words("Traceback\nModuleNotFoundError: No module named 'PIL'\n").unwrap();
        for name in
            ["apt install python3-pil;", "python3-pillow", "pacman -S python-pillow", "dev-python/pillow"]
        {
            assert!(advice.contains(name), "{advice}");
        }
        let advice = for_words("ImportError: cannot import name 'cairo' from 'gi.repository'").unwrap();
        assert!(advice.contains("python3-gi-cairo"), "{advice}");
        assert_eq!(for_words("failed to connect to PIL"), None);
        assert!(install(&[]).contains("apt install xpra xvfb"));
    }
}
