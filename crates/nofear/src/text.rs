//! Text of the guest, made fit for the user's terminal.

/// At most `limit` characters without control characters, which could drive the terminal. Lines and tabs are
/// kept.
pub fn printable(text: &str, limit: usize) -> String {
    let keep = |c: char| matches!(c, '\n' | '\t') || !c.is_control();
    text.chars().take(limit).map(|c| if keep(c) { c } else { '\u{fffd}' }).collect()
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
        assert_eq!(printable("a\x1b[2Jb\tc\nd\u{9b}e", 99), "a\u{fffd}[2Jb\tc\nd\u{fffd}e");
        assert_eq!(printable("abcdef", 3), "abc");
    }

    #[test]
    fn the_end_of_the_console_is_its_last_lines_without_empty_ones() {
        let console = b"one\r\n\r\ntwo\x1b[0m\r\n\xff three\r\n";
        assert_eq!(last_lines(console, 2), ["two\u{fffd}[0m", "\u{fffd} three"]);
        assert!(last_lines(b"", 5).is_empty());
    }
}
