//! Text of the guest, made fit for the user's terminal.

/// At most `limit` characters in one line, without those that could drive the terminal or change the order of
/// what is read. A line break becomes a space: what follows it would look like a message of this program's own.
pub fn printable(text: &str, limit: usize) -> String {
    let shown = |c: char| match c {
        '\t' => c,
        '\n' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ if c.is_control() => '\u{fffd}',
        _ => c,
    };
    text.chars().take(limit).map(shown).collect()
}

/// Lines of the guest's, without what could drive the terminal.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => printable(line.trim_end_matches('\r'), usize::MAX) + "\n",
            None => printable(line, usize::MAX),
        })
        .collect()
}

/// A name of the guest's, in one line, from which its bytes can be told: what is no printable text, and what could
/// drive the terminal or change the order of what is read, is written as `\\xNN` for each byte.
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        text.extend(bytes.iter().map(|byte| format!("\\x{byte:02x}")));
    };
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            // A backslash too, or a name could be written like the escaped form of another.
            if c == '\\' || printable(c.encode_utf8(&mut [0; 4]), 1) != String::from(c) || c == '\t' {
                escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// What a kernel says when it gives up; why follows in the same line.
pub const PANIC: &str = "Kernel panic - not syncing: ";

/// How many lines of a kernel's console are shown of one that panicked, at most: its words, its registers and
/// whom it was called by.
const PANIC_LINES: usize = 120;

/// How many are, of one that did not.
const LAST_LINES: usize = 30;

/// The last lines of a kernel's console, printable: of one that panicked, from its words on, however deep it was
/// in calls.
pub fn last_lines(console: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let usual = all.len().saturating_sub(LAST_LINES);
    let first = match all.iter().rposition(|line| line.contains(PANIC)) {
        Some(panic) => panic.min(usual),
        None => usual,
    };
    let shown = &all[first..];
    shown[..shown.len().min(PANIC_LINES)].iter().map(|line| printable(line, 400)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_the_guest_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\tc\nd\u{9b}e", 99), "a\u{fffd}[2Jb\tc d\u{fffd}e");
        assert_eq!(printable("abcdef", 3), "abc");
    }

    #[test]
    fn text_of_the_guest_is_one_line_in_its_own_order() {
        let forged = "x\nnofear: all is well\u{202e}\u{2066}\u{2028}";
        assert_eq!(printable(forged, 99), "x nofear: all is well\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_hostile_name_is_shown_byte_for_byte_and_harmless() {
        assert_eq!(escaped("/home/ä b".as_bytes()), "/home/ä b");
        assert_eq!(escaped(b"a\x1b[2J\n\tb\xff\\x"), r"a\x1b[2J\x0a\x09b\xff\x5cx");
        assert_eq!(escaped("\u{202e}".as_bytes()), r"\xe2\x80\xae");
    }

    #[test]
    fn the_end_of_the_console_is_its_last_lines_without_empty_ones() {
        let console = b"one\r\n\r\ntwo\x1b[0m\r\n\xff three\r\n";
        assert_eq!(last_lines(console), ["one", "two\u{fffd}[0m", "\u{fffd} three"]);
        assert!(last_lines(b"").is_empty());
        let many = "boots\n".repeat(100) + "last\n";
        assert_eq!(last_lines(many.as_bytes()).len(), LAST_LINES);
        assert_eq!(last_lines(many.as_bytes()).last().unwrap(), "last");
    }

    #[test]
    fn a_panic_is_shown_from_its_words_on() {
        let panic = |deep: usize| {
            format!("{}[ 1.0] {PANIC}why\nCall Trace:\n{}", "boots\n".repeat(50), " ? f+0x1\n".repeat(deep))
        };
        let shown = last_lines(panic(60).as_bytes());
        assert_eq!(
            (shown.len(), shown[0].as_str(), shown[1].as_str()),
            (62, "[ 1.0] Kernel panic - not syncing: why", "Call Trace:")
        );
        // What led to a short one is of use, and one without an end is cut.
        let shown = last_lines(panic(5).as_bytes());
        assert!(shown.len() == LAST_LINES && shown[0] == "boots");
        let shown = last_lines(panic(5_000).as_bytes());
        assert!(shown.len() == PANIC_LINES && shown[1] == "Call Trace:");
    }
}
