use super::*;

fn fixed(settings: &[(&str, &str)]) -> anyhow::Result<NetworkSettings> {
    let mut network = NetworkSettings::default();
    settings.iter().try_for_each(|(key, value)| network.set(key, value))?;
    Ok(network)
}

#[test]
fn every_key_is_fixed_shown_and_taken_back() {
    let all = [
        ("net", "passt"),
        ("lan", "yes"),
        ("offline", "no"),
        ("allow", "server.test:80,10.0.0.0/8,[fd00::1]:22"),
        ("deny", "*.example.org"),
        ("publish", "8080:80,[::1]:53:53/udp"),
        ("mtu", "9000"),
    ];
    let mut network = fixed(&all).unwrap();
    assert!(network.lines().iter().map(|(key, value)| (*key, value.as_str())).eq(all));
    assert_eq!(all.map(|(key, _)| key), KEYS);
    let options = network.options().unwrap();
    assert_eq!((options.net, options.lan, options.offline), (Some(Mode::Passt), Some(true), Some(false)));
    assert_eq!((options.allow.len(), options.deny.len(), options.publish.len()), (3, 1, 2));
    for key in KEYS {
        network.set(key, "").unwrap();
    }
    assert!(network.is_empty());
}

#[test]
fn wrong_values_are_one_line_that_names_the_key() {
    for (key, value) in [
        ("net", "bridge"),
        ("lan", "perhaps"),
        ("offline", "2"),
        ("allow", "a..b"),
        ("deny", "10.0.0.0/33"),
        ("publish", "80"),
        ("mtu", "100"),
        ("mtu", "x"),
    ] {
        let error = format!("{:#}", fixed(&[(key, value)]).unwrap_err());
        assert!(error.starts_with(key) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn options_go_before_single_values_and_add_to_lists() {
    let network =
        fixed(&[("net", "tap"), ("lan", "yes"), ("allow", "a.test"), ("publish", "1:1"), ("mtu", "1400")])
            .unwrap();
    let given = fixed(&[("net", "none"), ("lan", "no"), ("offline", "yes"), ("allow", "b.test")]).unwrap();
    let both = given.options().unwrap().over(network.options().unwrap());
    assert_eq!(
        (both.net, both.lan, both.offline, both.mtu),
        (Some(Mode::None), Some(false), Some(true), Some(1400))
    );
    assert_eq!((both.allow.len(), both.publish.len()), (2, 1));
}

#[test]
fn a_profile_from_elsewhere_opens_nothing() {
    let mut network = fixed(&[
        ("lan", "yes"),
        ("allow", "a.test"),
        ("publish", "1:1"),
        ("deny", "b.test"),
        ("offline", "yes"),
    ])
    .unwrap();
    assert_eq!(network.close(), ["lan", "allow", "publish"]);
    assert_eq!(network, fixed(&[("deny", "b.test"), ("offline", "yes")]).unwrap());
    assert_eq!(network.close(), [""; 0]);
}
