//! Sizes of memory, as people write them.

/// Guest memory is a multiple of this, so that the host can back it with huge pages.
const HUGE_PAGE: u64 = 2 << 20;

/// The default, unless the host is small.
const DEFAULT: u64 = 2 << 30;

/// The most that is taken for a size and not for a slip of the fingers.
const MAX: u64 = 16 << 40;

/// A size in bytes: digits, perhaps with a decimal point, and `K`, `M`, `G` or `T` (powers of 1024, also as
/// `MB` or `MiB`); MiB without. Rounded up to 2 MiB.
pub fn parse(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?.next_multiple_of(HUGE_PAGE);
    if bytes < vmm::MIN_MEMORY {
        return Err(format!("{text} is too little: a VM needs at least {}", human(vmm::MIN_MEMORY)));
    }
    Ok(bytes)
}

/// A size in bytes, as it is written, at most 16 TiB.
pub fn bytes(text: &str) -> Result<u64, String> {
    let malformed = || format!("'{text}' is not a size: write 512M, 2G or 1.5G");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1 << 20,
        "k" | "kb" | "kib" => 1 << 10,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(malformed()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(malformed());
    }
    let too_much = || format!("{text} is more than any machine has");
    let whole: u64 = whole.parse().map_err(|_| too_much())?;
    let scale = 10_u64.pow(fraction.len() as u32);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| malformed())? };
    // A fraction has at most 9 digits and a unit 41 bits: their product is below 2^71.
    let fraction = (u128::from(fraction) * u128::from(unit) / u128::from(scale)) as u64;
    let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(fraction)).filter(|b| *b <= MAX);
    bytes.ok_or_else(too_much)
}

/// The guest's memory when the user does not say: 2 GiB, or half of a smaller host's.
pub fn default() -> u64 {
    let host = rustix::system::sysinfo();
    default_of(host.totalram.saturating_mul(u64::from(host.mem_unit)))
}

fn default_of(host: u64) -> u64 {
    let half = host / 2 / HUGE_PAGE * HUGE_PAGE;
    half.clamp(vmm::MIN_MEMORY, DEFAULT)
}

/// A size for people: in GiB or MiB, whichever needs no fraction.
fn human(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 30) { format!("{}G", bytes >> 30) } else { format!("{}M", bytes >> 20) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mebibytes) in [
            ("512", 512),
            ("512M", 512),
            ("512mb", 512),
            ("2G", 2048),
            ("2 GiB", 2048),
            ("1.5G", 1536),
            ("0.25g", 256),
            ("262144K", 256),
            ("1T", 1 << 20),
            // Up to the next huge page.
            ("65.5M", 66),
            ("101M", 102),
        ] {
            assert_eq!(parse(text), Ok(mebibytes << 20), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in
            ["", "G", ".5G", "1..5G", "1.2.3G", "-1G", "1X", "1GG", "0x10", "1e3", "١G", "1.0000000001G"]
        {
            assert!(parse(text).is_err_and(|e| e.contains("1.5G")), "{text}");
        }
        for text in ["0", "1M", "62M"] {
            assert!(parse(text).is_err_and(|e| e.contains("at least 64M")), "{text}");
        }
        for text in ["17T", "99999999999999999999", "18446744073709551615G"] {
            assert!(parse(text).is_err_and(|e| e.contains("more than")), "{text}");
        }
    }

    #[test]
    fn a_small_host_gives_half_of_its_memory() {
        assert_eq!(default_of(64 << 30), 2 << 30);
        assert_eq!(default_of((3 << 30) + 12345), 3 << 29);
        assert_eq!(default_of(0), vmm::MIN_MEMORY);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_every_size_is_usable(text in "[0-9]{0,20}[.]?[0-9]{0,12} ?[a-zA-Z]{0,3}") {
            if let Ok(bytes) = parse(&text) {
                assert!(bytes >= vmm::MIN_MEMORY && bytes.is_multiple_of(HUGE_PAGE));
            }
        }
    }
}
