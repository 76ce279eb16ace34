//! Processes that the kernel has killed because there was no memory left.

/// Looks for the last in the kernel's log: not every kernel counts them.
#[derive(Debug, Default)]
pub struct OutOfMemory {
    said: Option<String>,
}

impl OutOfMemory {
    /// What to say of one that was killed since the last time.
    pub fn look(&mut self) -> Option<String> {
        self.look_in(&kernel_log())
    }

    fn look_in(&mut self, log: &str) -> Option<String> {
        let line = log.lines().rev().find(|line| words(line).is_some())?;
        // By its time and its number it is another's.
        if self.said.as_deref() == Some(line) {
            return None;
        }
        self.said = Some(line.into());
        words(line).map(|words| format!("out of memory: {words}"))
    }
}

/// The kernel's words for one, in a line of its log.
fn words(line: &str) -> Option<&str> {
    line.find("Killed process").map(|at| &line[at..])
}

/// The end of the kernel's log.
fn kernel_log() -> String {
    const READ_ALL: libc::c_int = 3;
    let mut buffer = vec![0_u8; 16 << 10];
    // SAFETY: the kernel writes at most as many bytes as it is told there is room for.
    let length = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), buffer.len() as libc::c_int) };
    buffer.truncate(usize::try_from(length).unwrap_or(0));
    String::from_utf8_lossy(&buffer).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found() {
        let log = "<4>[ 9.1] tail invoked oom-killer\n<3>[ 9.1] Out of memory: Killed process 71 (tail) UID:0\n<6>x";
        let mut memory = OutOfMemory::default();
        assert_eq!(memory.look_in("<6>Run /init"), None);
        assert_eq!(memory.look_in(log).as_deref(), Some("out of memory: Killed process 71 (tail) UID:0"));
        assert_eq!(memory.look_in(log), None);
        let more = format!("{log}\n<3>[ 9.9] Memory cgroup out of memory: Killed process 80 (cat)");
        assert_eq!(memory.look_in(&more).as_deref(), Some("out of memory: Killed process 80 (cat)"));
    }
}
