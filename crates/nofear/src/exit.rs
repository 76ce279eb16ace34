//! What the command's end, or nofear's own failure, is as an exit status.

use agent_proto::{End, Step};
use rustix::io::Errno;

use crate::session::Ending;
use crate::text::printable;

/// nofear itself failed, or was used wrongly; the command may not have run (as `env` and container tools).
pub const FAILED: u8 = 125;
/// The program was found and could not be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
const NOT_FOUND: u8 = 127;
/// And the number of the signal that ended the command.
const SIGNALED: u8 = 128;

/// The exit status, and what there is to say. `program` is what the user called, if anything.
pub fn status(ending: Ending, program: Option<&str>, directory: Option<&str>) -> (u8, Option<String>) {
    match ending {
        Ending::Command(End::Exited(status)) => (status, None),
        Ending::Command(End::Signaled(signal)) => (SIGNALED.saturating_add(signal), None),
        Ending::Signal(signal) => (u8::try_from(128 + signal.as_raw()).unwrap_or(FAILED), None),
        Ending::NotStarted { step, errno } => not_started(step, errno, program, directory),
    }
}

fn not_started(
    step: Step,
    errno: i32,
    program: Option<&str>,
    directory: Option<&str>,
) -> (u8, Option<String>) {
    // A negative number is no error of Linux, and the guest may send any.
    let reason = std::io::Error::from_raw_os_error(errno.clamp(0, 4095));
    let is = |one: Errno| errno == one.raw_os_error();
    let missing = is(Errno::NOENT) || is(Errno::NOTDIR);
    match step {
        Step::Execute => {
            let program = printable(program.unwrap_or("the login shell"), 200);
            match missing {
                true => (NOT_FOUND, Some(format!("{program}: not found in the VM"))),
                false => (NOT_EXECUTABLE, Some(format!("{program}: can't be executed in the VM: {reason}"))),
            }
        }
        Step::WorkingDirectory => {
            let directory = printable(directory.unwrap_or("the home directory"), 200);
            match missing {
                true => (FAILED, Some(format!("{directory}: no such directory in the VM"))),
                false => (FAILED, Some(format!("{directory}: can't be entered in the VM: {reason}"))),
            }
        }
        Step::SetUp => (FAILED, Some(format!("the VM could not start the command: {reason}"))),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn the_commands_end_is_the_exit_status() {
        let of = |end| status(Ending::Command(end), Some("x"), None);
        assert_eq!(of(End::Exited(0)), (0, None));
        assert_eq!(of(End::Exited(255)), (255, None));
        assert_eq!(of(End::Signaled(9)), (137, None));
        assert_eq!(of(End::Signaled(255)), (255, None));
        assert_eq!(status(Ending::Signal(Signal::INT), None, None), (130, None));
    }

    #[test]
    fn what_could_not_be_started_says_why() {
        let of = |step, errno| status(Ending::NotStarted { step, errno }, Some("prog\x1b"), Some("/d"));
        let (code, text) = of(Step::Execute, 2);
        assert_eq!((code, text.unwrap().as_str()), (127, "prog\u{fffd}: not found in the VM"));
        let (code, text) = of(Step::Execute, 13);
        assert!(code == 126 && text.unwrap().contains("Permission denied"));
        let (code, text) = of(Step::WorkingDirectory, 2);
        assert!(code == 125 && text.unwrap().starts_with("/d: no such directory"));
        assert_eq!(of(Step::SetUp, 11).0, 125);
        assert_eq!(of(Step::SetUp, i32::MIN).0, 125);
    }
}
