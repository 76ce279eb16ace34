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

/// The last `lines` lines of a kernel's console, printable.
pub fn last_lines(console: &[u8], lines: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let first = all.len().saturating_sub(lines);
    all[first..].iter().map(|line| printable(line, 400)).collect()
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
    fn the_end_of_the_console_is_its_last_lines_without_empty_ones() {
        let console = b"one\r\n\r\ntwo\x1b[0m\r\n\xff three\r\n";
        assert_eq!(last_lines(console, 2), ["two\u{fffd}[0m", "\u{fffd} three"]);
        assert!(last_lines(b"", 5).is_empty());
    }
}
