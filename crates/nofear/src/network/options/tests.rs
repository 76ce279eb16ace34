use super::*;

fn range(text: &str, port: Option<u16>) -> Result<Target, String> {
    Ok(Target::Range(Rule { range: text.parse().unwrap(), port }))
}

fn named(text: &str, port: Option<u16>) -> Result<Target, String> {
    Name::new(text, port).map(Target::Name)
}

#[test]
fn destinations_are_names_addresses_and_ranges_with_a_port_or_not() {
    for (text, wanted) in [
        ("10.0.0.0/8", range("10.0.0.0/8", None)),
        ("10.0.0.1:80", range("10.0.0.1", Some(80))),
        ("10.0.0.0/8:443", range("10.0.0.0/8", Some(443))),
        ("fd00::1", range("fd00::1", None)),
        ("fd00::/8", range("fd00::/8", None)),
        ("[fd00::1]:80", range("fd00::1", Some(80))),
        ("[fd00::/8]:80", range("fd00::/8", Some(80))),
        ("example.org", named("example.org", None)),
        ("Example.ORG.:443", named("example.org", Some(443))),
        ("*.example.org", named("*.example.org", None)),
        ("localhost", named("localhost", None)),
    ] {
        assert_eq!(text.parse::<Target>(), wanted, "{text}");
        assert!(wanted.is_ok(), "{text}");
    }
}

#[test]
fn wrong_destinations_are_refused() {
    for text in [
        "",
        "*",
        "a..b",
        "example.org:0",
        "example.org:x",
        "10.0.0.0/33",
        "http://a.org",
        "a b",
        "fd00::/8:80",
        "*.*.org",
        "exa*mple.org",
    ] {
        assert!(text.parse::<Target>().is_err(), "{text:?}");
    }
}

#[test]
fn ports_are_published_on_loopback_unless_an_address_is_given() {
    let of = |address: &str, port, guest_port, udp| {
        Ok(Publish { address: address.parse().ok(), port, guest_port, udp })
    };
    for (text, wanted) in [
        ("8080:80", of("", 8080, 80, false)),
        ("8080:80/tcp", of("", 8080, 80, false)),
        ("53:53/udp", of("", 53, 53, true)),
        ("0.0.0.0:8080:80", of("0.0.0.0", 8080, 80, false)),
        ("[::1]:8080:80", of("::1", 8080, 80, false)),
    ] {
        assert_eq!(text.parse::<Publish>(), wanted, "{text}");
    }
    for text in ["80", "0:80", "80:0", "80:80/sctp", "x:80:80", "80:65536", "a:b"] {
        assert!(text.parse::<Publish>().is_err(), "{text}");
    }
}
