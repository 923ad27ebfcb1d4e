//! What is accepted, and what is said of the rest.

use super::*;
use std::os::unix::ffi::OsStringExt;

fn load(pairs: &[(&str, &str)]) -> Parsed<Config> {
    let env = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::from(&Flags::default(), Defaults::SERVE, &env)
}

fn refusal(variable: &str, value: &str) -> String {
    load(&[("HOME", "/home/me"), (variable, value)]).unwrap_err().to_string()
}

#[test]
fn everything_has_a_default() {
    let config = load(&[("HOME", "/home/me")]).unwrap();
    assert_eq!((config.port, config.host.to_string().as_str()), (45_678, "127.0.0.1"));
    assert_eq!(config.mount_point, Path::new("/workspace"));
    assert_eq!(config.mount, Choice::Auto);
    assert_eq!(config.cache_bytes, None);
    assert_eq!(config.max_bytes, None);
    let Location::File(store) = config.store else { panic!("{:?}", config.store) };
    assert!(store.ends_with("wsd/workspace.db"), "{store:?}");
}

#[test]
fn nonsense_is_refused_with_variable_value_and_what_is_accepted() {
    for (variable, value) in [
        ("PORT", "65536"),
        ("PORT", "http"),
        ("HOST", "example.org"),
        ("HOST", "0.0.0.0"),
        ("MOUNT_POINT", "relative"),
        ("MOUNT_POINT", "/"),
        ("MOUNT_POINT", "/a/../b"),
        ("FUSE_MOUNT", "yes"),
        ("FUSE_MOUNT", "macfuse"),
        ("SHIM_POLL_MS", "0"),
        ("SHIM_ADOPT", "maybe"),
        ("WSD_DB", "relative.db"),
        ("WSD_CACHE_BYTES", "1M"),
        ("WSD_CACHE_BYTES", "-1"),
        ("WSD_MAX_BYTES", "0"),
        ("WSD_MAX_BYTES", "99999999999G"),
        ("WSD_MAX_BYTES", "ä"),
        ("WSD_LOG", "wsd=loud"),
        ("WSD_LOG", ""),
        ("WSD_LOG", " , "),
        ("LOG_FORMAT", "xml"),
        ("LOG_FILE", "wsd.log"),
        ("WSD_ALLOWED_HOSTS", "a b"),
        ("WSD_ALLOWED_HOSTS", "box:45678"),
        ("WSD_ALLOWED_HOSTS", "[::2]:45678"),
        ("WSD_ALLOWED_HOSTS", "::2"),
        ("WSD_ALLOWED_HOSTS", "*"),
        ("WSD_ALLOWED_HOSTS", "http://box"),
        ("WSD_INSECURE", "maybe"),
    ] {
        let text = refusal(variable, value);
        assert!(text.starts_with(&format!("{variable}: {value:?} is not accepted: ")), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let text = refusal("WSD_TOKEN", "with blank");
    assert!(text.starts_with("WSD_TOKEN: ") && !text.contains("with blank"), "{text}");
}

#[test]
fn variables_of_older_daemons_name_their_successor() {
    for (variable, value, instead) in [
        ("DISABLE_FUSE", "", "FUSE_MOUNT=none"),
        ("FUSE_SHIM", "1", "FUSE_MOUNT=shim"),
        ("WSD_FUSE_BACKEND", "0", "FUSE_MOUNT"),
    ] {
        let text = refusal(variable, value);
        assert!(text.contains(variable) && text.contains(instead), "{text}");
    }
}

#[test]
fn an_address_for_others_needs_a_secret_or_a_word() {
    assert!(load(&[("HOST", "0.0.0.0"), ("WSD_TOKEN", "s3cret"), ("HOME", "/h")]).is_ok());
    assert!(load(&[("HOST", "0.0.0.0"), ("WSD_INSECURE", "1"), ("HOME", "/h")]).is_ok());
    assert!(load(&[("HOST", "::1"), ("HOME", "/h")]).is_ok());
}

#[test]
fn requests_may_name_a_host_by_name_or_address() {
    let hosts = load(&[("HOME", "/h"), ("WSD_ALLOWED_HOSTS", "Box.internal,, 10.0.0.2, [fd00::2]")]).unwrap();
    assert_eq!(hosts.allowed_hosts[3..], ["box.internal", "10.0.0.2", "[fd00::2]"]);
}

#[test]
fn a_flag_wins() {
    let flags = Flags { port: Some("1".into()), db: Some("memory".into()), ..Flags::default() };
    let env = |name: &str| (name == "PORT").then(|| "2".to_owned());
    let config = Config::from(&flags, Defaults::SERVE, &env).unwrap();
    assert_eq!((config.port, config.store), (1, Location::Memory));
}

#[test]
fn no_two_mount_points_share_a_store() {
    assert_eq!(store_name(Path::new("/workspace")), "workspace.db");
    assert_eq!(store_name(Path::new("/a/b")), "a-b.db");
    assert_eq!(store_name(Path::new("/a-b")), "a%2db.db");
    assert_eq!(store_name(Path::new("/a b%")), "a%20b%25.db");
}

#[test]
fn sizes_have_units() {
    let config = load(&[("HOME", "/h"), ("WSD_CACHE_BYTES", "64M"), ("WSD_MAX_BYTES", "2G")]).unwrap();
    assert_eq!((config.cache_bytes, config.max_bytes), (Some(64 << 20), Some(2 << 30)));
}

#[test]
fn a_client_finds_its_daemon() {
    let find = |flag: Option<&str>, pairs: &[(&str, &str)]| {
        let env =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ClientConfig::from(&ClientFlags { url: flag.map(str::to_owned) }, &env)
    };
    let url = |flag, pairs: &[_]| find(flag, pairs).unwrap().url;
    assert_eq!(url(None, &[]), "ws://127.0.0.1:45678/ws");
    assert_eq!(url(None, &[("PORT", "1")]), "ws://127.0.0.1:1/ws");
    assert_eq!(url(None, &[("PORT", "x"), ("WSD_URL", "ws://a/ws")]), "ws://a/ws");
    assert_eq!(url(Some("ws://b/ws"), &[("WSD_URL", "ws://a/ws")]), "ws://b/ws");
    assert_eq!(find(None, &[("WSD_TOKEN", "s3cret")]).unwrap().token.as_deref(), Some("s3cret"));
    for (variable, value) in [("PORT", "0"), ("PORT", "x"), ("WSD_TOKEN", "a b")] {
        let text = find(None, &[(variable, value)]).unwrap_err().to_string();
        assert!(text.starts_with(variable), "{text}");
    }
}

#[test]
fn a_number_is_digits_and_a_variable_is_text() {
    for value in ["+80", "-1", "", " 80", "65536"] {
        assert!(refusal("PORT", value).contains("PORT"), "{value:?}");
    }
    let odd = |name: &str| (name == "MOUNT_POINT").then(|| OsString::from_vec(b"/w\xff".to_vec()));
    let read = with_environment(&odd, |env| Config::from(&Flags::default(), Defaults::SERVE, env));
    let text = read.unwrap_err().to_string();
    assert!(text.starts_with("MOUNT_POINT") && text.contains("UTF-8"), "{text}");
    // One that nobody asks for does no harm, nor does one that a flag stands for.
    let flags = Flags { mount_point: Some("/w".into()), db: Some("memory".into()), ..Flags::default() };
    assert!(with_environment(&odd, |env| Config::from(&flags, Defaults::SERVE, env)).is_ok());
}
