use super::*;

fn found(name: &str, env: &[&str]) -> Vec<String> {
    let env: Vec<_> = env.iter().map(|variable| variable.as_bytes().to_vec()).collect();
    let found = candidates(name.as_bytes(), &env).unwrap();
    found.into_iter().map(|file| file.into_string().unwrap()).collect()
}

#[test]
fn a_name_with_a_slash_is_not_searched() {
    assert_eq!(found("./a", &["PATH=/bin"]), ["./a"]);
    assert_eq!(found("/bin/a", &["PATH=/usr/bin"]), ["/bin/a"]);
}

#[test]
fn a_bare_name_is_tried_in_every_directory_in_order() {
    assert_eq!(found("a", &["X=1", "PATH=/x:/y"]), ["/x/a", "/y/a"]);
}

#[test]
fn an_empty_directory_is_the_working_directory() {
    assert_eq!(found("a", &["PATH=:/y:"]), ["./a", "/y/a", "./a"]);
    assert_eq!(found("a", &["PATH="]), ["./a"]);
}

#[test]
fn no_path_means_the_default_one() {
    assert_eq!(found("a", &["XPATH=/x"]).len(), DEFAULT_PATH.split(':').count());
}

#[test]
fn an_empty_name_is_no_file() {
    assert!(found("", &["PATH=/bin"]).is_empty());
}

#[test]
fn a_nul_is_refused() {
    assert!(candidates(b"a\0b", &[]).is_err());
    assert!(candidates(b"/a\0b", &[]).is_err());
}
