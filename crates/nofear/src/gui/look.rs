//! What a VM's windows are told by: their title's beginning and their border's colour.

use sha2::{Digest, Sha256};

use super::arguments::Look;

/// Colours that contrast with light and dark desktops and with each other, each a hue of its own.
const COLOURS: [&str; 12] = [
    "#e6194b", "#3cb44b", "#c79a00", "#4363d8", "#f58231", "#911eb4", "#00a5b5", "#f032e6", "#7fb800",
    "#a0522d", "#008080", "#6a5acd",
];

/// The look of a profile's windows; without a profile, of those of a temporary VM. `colour` is what the user has
/// set.
pub fn of(profile: Option<&str>, colour: Option<&str>) -> Look {
    let name = profile.unwrap_or("temporary");
    let colour = colour.unwrap_or_else(|| match profile {
        Some(profile) => of_name(profile),
        None => "#808080",
    });
    Look { name: name.into(), colour: colour.into() }
}

/// The same for a name on every machine and in every version of this program.
fn of_name(name: &str) -> &'static str {
    let hash = Sha256::digest(name.as_bytes());
    COLOURS[usize::from(hash[0]) % COLOURS.len()]
}

/// Reads a colour as a user writes it: `#rrggbb`.
pub fn parse_colour(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('#').unwrap_or(text);
    if digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(format!("#{}", digits.to_ascii_lowercase()))
    } else {
        Err("write a colour as #rrggbb, two hexadecimal digits each for red, green and blue".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_keeps_its_colour_and_others_have_others() {
        assert_eq!(of(Some("default"), None), of(Some("default"), None));
        let names = ["default", "work", "bank", "games", "mail", "a", "b", "c"];
        let colours: std::collections::BTreeSet<_> = names.map(of_name).into();
        assert!(colours.len() >= 5, "{colours:?}");
        assert_eq!(of(Some("x"), Some("#010203")).colour, "#010203");
        assert_ne!(of(None, None).colour, of(Some("default"), None).colour);
    }

    #[test]
    fn colours_are_six_digits() {
        assert_eq!(parse_colour("#A0b1C2").unwrap(), "#a0b1c2");
        assert_eq!(parse_colour("a0b1c2").unwrap(), "#a0b1c2");
        for wrong in ["", "red", "#12345", "#1234567", "#12345g", "#12345\n", "#1234é"] {
            assert!(parse_colour(wrong).is_err(), "{wrong}");
        }
    }
}
