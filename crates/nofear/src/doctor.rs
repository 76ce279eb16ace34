//! `nofear doctor`: what this machine has of what nofear needs, and what to do about the rest.

use std::fs;
use std::io::Write;
use std::path::Path;

use vmm::probe::{self, Verdict};

use crate::gui::confine::Confinement;
use crate::gui::xpra::Xpra;
use crate::images::Image;
use crate::text::printable;
use crate::{gui, network};

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// It is there.
    Good(String),
    /// It can be done without; what is lost, and what to do.
    Lacking(String),
    /// Nothing runs without; what to do.
    Missing(String),
}

/// Looks at everything, and prints a line for each. The exit status is 1 when nothing can run.
pub fn run() -> u8 {
    let findings = [
        ("KVM", kvm()),
        ("kernel", image(Image::Kernel)),
        ("guest", image(Image::Initramfs)),
        ("network", passt()),
        ("windows", windows()),
        ("display", display()),
        ("confinement of windows", confinement()),
        ("user namespaces", namespaces(Path::new("/proc/sys"))),
        ("Landlock", landlock()),
        ("sound", sound()),
    ];
    let mut status = 0;
    for (what, finding) in findings {
        let (word, text) = match finding {
            Finding::Good(text) => ("good", text),
            Finding::Lacking(text) => ("lacking", text),
            Finding::Missing(text) => {
                status = 1;
                ("MISSING", text)
            }
        };
        // Fails only when there is nobody to read it.
        let _ = writeln!(std::io::stdout(), "{word:<8} {what}: {}", printable(&text, 600));
    }
    status
}

fn kvm() -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Finding::Missing(
                "you may not use /dev/kvm: 'sudo usermod -aG kvm $USER', and log in again".into(),
            );
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Finding::Missing(
                "there is no /dev/kvm: switch virtualisation (VT-x or SVM) on in the firmware, and load the module \
                 kvm_intel or kvm_amd"
                    .into(),
            );
        }
        Err(e) => return Finding::Missing(format!("/dev/kvm: {e}")),
        Ok(_) => {}
    }
    match probe::linux_capable() {
        Ok(Verdict::Capable) => Finding::Good("/dev/kvm can start Linux".into()),
        Ok(Verdict::Incapable { step, found }) => {
            Finding::Missing(format!("/dev/kvm can't start Linux: a guest does not survive {step}: {found}"))
        }
        Err(e) => Finding::Missing(format!("/dev/kvm: {e}")),
    }
}

fn image(image: Image) -> Finding {
    match image.find() {
        Ok(path) => Finding::Good(path.display().to_string()),
        Err(e) => Finding::Missing(format!("{e:#}")),
    }
}

fn passt() -> Finding {
    match network::passt::find() {
        Some(path) => Finding::Good(format!("{}", path.display())),
        None => Finding::Lacking(format!("programs have no network: {}", network::passt::ADVICE)),
    }
}

fn windows() -> Finding {
    match Xpra::find() {
        Ok(xpra) => Finding::Good(format!("{}, {}", xpra.program.display(), xpra.version)),
        Err(e) => Finding::Lacking(format!("'run -g' does not work: {e:#}")),
    }
}

fn display() -> Finding {
    match gui::host_display() {
        Ok(display) if display.tcp_port.is_some() => Finding::Good("reached over the network".into()),
        Ok(display) => {
            Finding::Good(display.files.first().map(|file| file.display().to_string()).unwrap_or_default())
        }
        Err(e) => Finding::Lacking(format!("{e:#}")),
    }
}

/// For both ends: programs of the guest play on a server of its own, and that is heard on this machine's.
fn sound() -> Finding {
    let here = gui::sound::server(|name| std::env::var_os(name), Path::exists);
    match (gui::sound::Kind::find(), here) {
        (Ok(_), Ok(server)) => Finding::Good(format!("played at {}", server.display())),
        (Err(e), _) | (_, Err(e)) => Finding::Lacking(format!("'run -g --sound' does not work: {e:#}")),
    }
}

fn confinement() -> Finding {
    match Confinement::find() {
        Confinement::Namespaces(program) => Finding::Good(format!("by namespaces ({})", program.display())),
        Confinement::Landlock if vmm::landlock_abi() > 0 => Finding::Good(
            "by Landlock; with bubblewrap installed ('apt install bubblewrap'), by namespaces, too".into(),
        ),
        Confinement::Landlock => Finding::Lacking(
            "the client that shows windows runs with all of your rights: install bubblewrap ('apt install \
             bubblewrap')"
                .into(),
        ),
    }
}

/// By the kernel's settings, below `folder`. Without them a VM is confined by what is left.
fn namespaces(folder: &Path) -> Finding {
    let setting = |path: &str| fs::read_to_string(folder.join(path)).ok()?.trim().parse::<u64>().ok();
    if setting("user/max_user_namespaces") == Some(0) {
        return Finding::Lacking(
            "switched off, so VMs stay in this machine's: 'sysctl user.max_user_namespaces=10000' switches them on".into(),
        );
    }
    if setting("kernel/unprivileged_userns_clone") == Some(0) {
        return Finding::Lacking(
            "for root only, so VMs stay in this machine's: 'sysctl kernel.unprivileged_userns_clone=1' changes that".into(),
        );
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Finding::Lacking(
            "for programs with an AppArmor profile only, as bubblewrap's of some distributions; VMs stay in this \
             machine's".into(),
        );
    }
    match setting("user/max_user_namespaces") {
        Some(_) => Finding::Good("for every user".into()),
        None => {
            Finding::Lacking("this kernel has none (CONFIG_USER_NS), so VMs stay in this machine's".into())
        }
    }
}

fn landlock() -> Finding {
    match vmm::landlock_abi() {
        0 => Finding::Lacking(
            "this kernel has none: boot with 'lsm=landlock,...', or a kernel from 5.13 on".into(),
        ),
        version => Finding::Good(format!("version {version}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_settings_for_namespaces_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let set = |path: &str, value: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        let is_good = || matches!(namespaces(folder.path()), Finding::Good(_));
        assert!(!is_good());
        set("user/max_user_namespaces", "12345\n");
        assert!(is_good());
        for setting in ["kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns"] {
            let (off, on) = if setting.contains("apparmor") { ("1\n", "0\n") } else { ("0\n", "1\n") };
            set(setting, off);
            assert!(!is_good(), "{setting}");
            set(setting, on);
            assert!(is_good(), "{setting}");
        }
        set("user/max_user_namespaces", "0\n");
        assert!(!is_good());
    }
}
