use super::*;

#[test]
fn an_address_is_shown_as_it_would_be_opened() {
    for (url, expected) in [
        ("https://example.org/a?b=c&d#e", "https://example.org/a?b=c&d#e"),
        ("HTTP://Example.org:8080", "HTTP://Example.org:8080"),
        ("http://[::1]/", "http://[::1]/"),
        ("https://example.org/\u{1b}[31mred\r\n", "https://example.org/[31mred"),
        ("https://example.org/a b\"<>\\`", "https://example.org/a%20b%22%3C%3E%5C%60"),
        ("https://example.org/\u{202e}txt", "https://example.org/%E2%80%AEtxt"),
    ] {
        assert_eq!(checked(url).unwrap(), expected, "{url:?}");
        assert_eq!(checked(expected).unwrap(), expected);
    }
}

#[test]
fn what_is_no_address_of_the_web_is_refused() {
    for wrong in [
        "",
        "example.org",
        "-h",
        "--help",
        "/etc/passwd",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:example.org",
        "https://",
        "https:///path",
        "https://bank.example@evil.example/",
        "https://b\u{e4}nk.example/",
        "https://a b/",
        " https://example.org",
        "https\u{0}x://example.org",
        "xpra+ssh://host/",
    ] {
        assert!(checked(wrong).is_err(), "{wrong:?}");
    }
    assert!(checked(&format!("https://example.org/{}", "x".repeat(MAX_URL))).is_err());
    assert!(checked(&format!("https://example.org/{}", "\u{e4}".repeat(MAX_URL / 3))).is_err());
}

#[test]
fn lines_are_addresses_or_the_end() {
    let all = |text: &str| {
        let mut lines = text.as_bytes();
        std::iter::from_fn(|| next(&mut lines)).collect::<Vec<_>>()
    };
    let good = "https://example.org/%20";
    assert_eq!(all(&format!("{good}\n{good}\n")), [good, good]);
    // One that is cut off is none.
    assert_eq!(all(&format!("{good}\n{good}")), [good]);
    let long = format!("https://example.org/{}", "x".repeat(MAX_URL - 20));
    assert_eq!(all(&format!("{long}\n")), [long.as_str()]);
    for bad in ["--help\n", "file:///x\n", "https://x/\u{1b}[2J\n", &format!("{long}x\n"), "\n"] {
        assert_eq!(all(&format!("{good}\n{bad}{good}\n")), [good], "{bad:?}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_accepted_is_an_address(text in "(http|https|HTTP)?(:|//|://)?(?s).{0,80}") {
        if let Ok(url) = checked(&text) {
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\`{}|^".contains(&byte)));
            assert!(url.to_ascii_lowercase().starts_with("http"));
        }
    }
}
