use super::*;

#[test]
fn a_name_is_itself_and_a_star_is_all_below() {
    let name = |text| Name::new(text, None).unwrap();
    assert!(name("Example.org").is("example.org"));
    assert!(!name("example.org").is("www.example.org"));
    assert!(name("*.example.org").is("www.example.org") && name("*.example.org").is("a.b.example.org"));
    for other in ["example.org", ".example.org", "badexample.org", "example.org.evil.net"] {
        assert!(!name("*.example.org").is(other), "{other}");
    }
}

#[test]
fn name_servers_are_read_from_the_hosts_list() {
    let text = "# a comment\nnameserver 127.0.0.53\nsearch lan\n nameserver\t2001:db8::1 \nnameserver fe80::1%eth0\nnameserver\n";
    let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53"]);
}
